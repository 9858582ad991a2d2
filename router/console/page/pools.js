// The pools: what each has to do, and which workers have it.

import { keep, make, say, set } from "./dom.js";
import { count, share, some } from "./format.js";

const STATES = {
  ready: ["●", "ready"],
  starting: ["◌", "starting"],
  draining: ["◐", "draining"],
  sleeping: ["☾", "asleep"],
  unreachable: ["✕", "cannot be reached"],
  gone: ["✕", "gone"],
};
const DOES = { prefill: "computes prompts", decode: "makes tokens" };

export const stateOf = (state) => STATES[state] ?? ["·", state];

export function showPools(place, pools) {
  keep(place, pools, (pool) => pool.role, build, update);
}

function build(pool) {
  const columns = ["Worker", "Running", "Waiting", "Prompt tokens", "KV used"];
  return make("section", { class: `card pool ${pool.role}`, "aria-labelledby": `pool-${pool.role}` },
    make("h2", { id: `pool-${pool.role}` }, make("span", { class: "name" }), " ", make("span", { class: "quiet" }, DOES[pool.role] ?? "")),
    make("p", { class: "said" }),
    make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": `${pool.role} workers` },
      make("table", {},
        make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))),
        make("tbody"))),
    make("p", { class: "rest quiet" }));
}

function update(card, pool) {
  say(card.querySelector(".name"), pool.role);
  say(card.querySelector(".said"), sentence(pool));
  keep(card.querySelector("tbody"), pool.workers, (worker) => worker.worker, buildRow, updateRow);
  say(card.querySelector(".rest"), rest(pool));
  card.querySelector(".wide").hidden = pool.workers.length === 0;
}

function sentence(pool) {
  const ready = pool.states.ready ?? 0;
  const parts = [pool.wanted === null ? `${count(ready)} ready` : `${count(ready)} of ${count(pool.wanted)} ready`];
  for (const [state, number] of Object.entries(pool.states)) {
    if (state !== "ready") parts.push(`${count(number)} ${stateOf(state)[1]}`);
  }
  parts.push(`${count(pool.running)} running, ${count(pool.waiting)} waiting`);
  if (pool.prompt_tokens) parts.push(`${some(pool.prompt_tokens, "prompt token")} to compute`);
  if (pool.num_blocks) parts.push(`KV ${share(pool.num_blocks - pool.free_blocks, pool.num_blocks)} used`);
  if (pool.stranded_blocks) parts.push(`${some(pool.stranded_blocks, "KV block")} stranded`);
  return parts.join(" · ");
}

function rest(pool) {
  if (!pool.workers.length) return "No workers yet.";
  return pool.left_out ? `and ${some(pool.left_out, "less busy worker")}` : "";
}

function buildRow() {
  return make("tr", {},
    make("th", { scope: "row" }, make("span", { class: "worker" }), make("span", { class: "state" }, make("span", { class: "sign", "aria-hidden": "true" }), " ", make("span", { class: "words" }))),
    make("td", { class: "running" }), make("td", { class: "waiting" }), make("td", { class: "tokens" }),
    make("td", { class: "kv" }, make("div", { class: "meter", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "KV used" }, make("div", { class: "leased" }), make("div", { class: "used" })), make("span", { class: "number" })));
}

function updateRow(row, worker) {
  const [sign, word] = stateOf(worker.state);
  const why = worker.state === "ready" ? (worker.refused ? "full" : "") : worker.state === "starting" || worker.state === "gone" ? worker.phase : "";
  set(row, "class", worker.state);
  say(row.querySelector(".worker"), worker.worker);
  set(row.querySelector("th"), "title", worker.refused ? `${worker.worker}: ${worker.refused}` : worker.worker);
  say(row.querySelector(".sign"), sign);
  say(row.querySelector(".words"), why ? `${word}: ${why}` : word);
  const known = worker.num_blocks > 0;
  say(row.querySelector(".running"), known ? count(worker.running) : "–");
  say(row.querySelector(".waiting"), known ? count(worker.waiting) : "–");
  say(row.querySelector(".tokens"), known ? count(worker.prompt_tokens) : "–");
  const used = worker.num_blocks - worker.free_blocks;
  const meter = row.querySelector(".meter");
  meter.hidden = !known;
  set(meter, "aria-valuenow", known ? Math.round((100 * used) / worker.num_blocks) : 0);
  row.querySelector(".used").style.width = known ? `${(100 * (used - worker.leased_blocks)) / worker.num_blocks}%` : "0";
  row.querySelector(".leased").style.width = known ? `${(100 * used) / worker.num_blocks}%` : "0";
  say(row.querySelector(".number"), share(used, worker.num_blocks));
}
