// Hand-offs as bands from the workers that computed the prompts to those that make the tokens; as wide as what was moved.

import { draw, keep, make, say } from "./dom.js";
import { bytes, count, seconds, short, some } from "./format.js";

const MOST = 8; // workers on each side; the rest is one
const OTHERS = "all others";
const GAP = 16;

let by = "transfer_bytes";

/** ``redraw`` is called when another width is chosen. */
export function listen(fieldset, redraw) {
  fieldset.addEventListener("change", (event) => {
    by = event.target.value;
    redraw();
  });
}

export function showFlows(place, said, numbers, state) {
  const total = state.flows.reduce((sum, flow) => sum + flow.count, 0) + state.flows_left_out;
  say(said, sentence(state, total));
  numbers.hidden = total === 0;
  table(numbers.querySelector("table"), state);
  place.replaceChildren(...(total === 0 ? [] : [picture(state.flows, place.clientWidth || 320, sentence(state, total))]));
}

function sentence(state, total) {
  const whole = state.kept_whole ? `${some(state.kept_whole, "request")} stayed on one worker, as that was predicted to be faster.` : "";
  if (!total) return whole || "None. Requests draw bands here, from the worker that computes the prompt to the one that makes the tokens.";
  const recomputed = state.flows.reduce((sum, flow) => sum + flow.recomputed, 0);
  const moved = state.flows.reduce((sum, flow) => sum + flow.transfer_bytes, 0);
  const again = recomputed ? ` ${some(recomputed, "prompt was", "prompts were")} computed again instead (dashed).` : "";
  return `${some(total, "hand-off")}, ${bytes(moved)} of KV.${again} ${whole}`.trim();
}

function picture(flows, width, title) {
  const height = Math.max(120, 36 * Math.max(...["prefill", "decode"].map((end) => ends(flows, end).length)));
  const sides = { prefill: stack(flows, "prefill", height), decode: stack(flows, "decode", height) };
  const label = Math.min(132, Math.max(88, width * 0.24)), left = label + 8, right = width - label - 8;
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  for (const flow of [...flows].sort((a, b) => b[by] - a[by])) {
    const from = sides.prefill.take(flow), to = sides.decode.take(flow);
    const middle = (left + right) / 2;
    const band = `M${left + 6} ${from.top} C${middle} ${from.top} ${middle} ${to.top} ${right - 6} ${to.top}`
      + ` L${right - 6} ${to.bottom} C${middle} ${to.bottom} ${middle} ${from.bottom} ${left + 6} ${from.bottom} Z`;
    const words = `${flow.prefill} to ${flow.decode}: ${some(flow.count, "hand-off")}, ${bytes(flow.transfer_bytes)} in ${seconds(flow.transfer_s)}`;
    svg.append(draw("path", { d: band, class: flow.recomputed ? "band again" : "band" }, draw("title", {}, words)));
  }
  for (const [role, x, anchor, at] of [["prefill", left, "end", label], ["decode", right - 6, "start", width - label]]) {
    for (const node of sides[role].nodes) {
      svg.append(
        draw("rect", { x, y: node.top, width: 6, height: node.size, rx: 3, class: role }),
        draw("text", { x: at, y: Math.min(height - 9, Math.max(9, node.top + node.size / 2)), "text-anchor": anchor, "dominant-baseline": "middle" },
          short(node.name, Math.floor(label / 6.6)), draw("title", {}, node.name)));
    }
  }
  return svg;
}

function ends(flows, end) {
  const sums = new Map();
  for (const flow of flows) sums.set(flow[end], (sums.get(flow[end]) ?? 0) + flow[by]);
  const names = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a));
  return names.length > MOST ? [...names.slice(0, MOST - 1), OTHERS] : names;
}

/** The places of one side's workers, one above the other, and of the bands' ends on them. */
function stack(flows, end, height) {
  const names = ends(flows, end);
  const nameOf = (flow) => (names.includes(flow[end]) ? flow[end] : OTHERS);
  const total = flows.reduce((sum, flow) => sum + flow[by], 0);
  const least = 3, room = height - GAP * (names.length - 1) - least * flows.length;
  const size = (flow) => least + (total ? (room * flow[by]) / total : room / flows.length);
  const nodes = new Map(names.sort().map((name) => [name, { name, size: 0 }]));
  for (const flow of flows) nodes.get(nameOf(flow)).size += size(flow);
  let top = 0;
  for (const node of nodes.values()) {
    Object.assign(node, { top, next: top });
    top += node.size + GAP;
  }
  const take = (flow) => {
    const node = nodes.get(nameOf(flow)), from = node.next;
    node.next += size(flow);
    return { top: from, bottom: node.next };
  };
  return { nodes: [...nodes.values()], take };
}

function table(place, state) {
  if (!place.tBodies.length) {
    const columns = ["From", "To", "Hand-offs", "KV", "Time", "Computed again"];
    place.append(make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))), make("tbody"));
  }
  keep(place.tBodies[0], state.flows, (flow) => `${flow.prefill}\n${flow.decode}`, () => make("tr", {}, ...Array.from({ length: 6 }, () => make("td"))), (row, flow) => {
    const cells = [flow.prefill, flow.decode, count(flow.count), bytes(flow.transfer_bytes), seconds(flow.transfer_s), count(flow.recomputed)];
    cells.forEach((text, column) => say(row.cells[column], text));
  });
}
