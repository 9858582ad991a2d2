// Several routers: each answer is of whichever the ingress chose, and each knows its own requests. The page adds up what it has heard.

const FORGOTTEN_MS = 30_000;
const MOST = 24;

const heard = new Map();

/** Another model: what was heard is of the one before. */
export const forget = () => heard.clear();

/** Takes one router's state; returns all that is known now in the same form. */
export function merge(state, now) {
  heard.set(state.router, { state, now });
  for (const [router, one] of heard) if (now - one.now > FORGOTTEN_MS) heard.delete(router);
  const states = [...heard.values()].map((one) => one.state);
  const all = (name) => states.flatMap((one) => one[name]);
  const sum = (name) => states.reduce((total, one) => total + one[name], 0);
  return {
    ...state,
    routers: [...heard.keys()].sort(),
    open_requests: sum("open_requests"),
    waiting_requests: sum("waiting_requests"),
    waiting_tokens: sum("waiting_tokens"),
    oldest_waiting_s: Math.max(...states.map((one) => one.oldest_waiting_s)),
    flows: pairs(all("flows")),
    flows_left_out: sum("flows_left_out"),
    kept_whole: sum("kept_whole"),
    requests: all("requests").sort((a, b) => b.arrived_at - a.arrived_at).slice(0, MOST),
    decisions: all("decisions").sort((a, b) => b.decided_at - a.decided_at).slice(0, MOST / 2),
  };
}

function pairs(flows) {
  const found = new Map();
  for (const flow of flows) {
    const key = `${flow.prefill}\n${flow.decode}`;
    const one = found.get(key);
    if (!one) found.set(key, { ...flow });
    else for (const name of ["count", "transfer_bytes", "transfer_s", "recomputed"]) one[name] += flow[name];
  }
  return [...found.values()].sort((a, b) => b.transfer_bytes - a.transfer_bytes || b.count - a.count);
}
