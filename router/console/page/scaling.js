// The autoscaler: what is asked of each pool, what is foreseen, what its workers can do; and what is done about it.

import { draw, keep, make, say } from "./dom.js";
import { clock, count, seconds, some } from "./format.js";

const HEIGHT = 96;
const LINES = [["capacity", "what its ready workers do"], ["forecast", "forecast, at the time it is for"], ["demand", "demand"]];
const UNIT = { prefill: "prompt tokens/s", decode: "output tokens/s" };

export function showScaling(place, scaling, error) {
  const { plan, history } = scaling;
  keep(place.querySelector(".pools"), plan?.pools ?? [], (pool) => pool.role, build, (part, pool) => update(part, pool, history));
  keep(place.querySelector(".told"), told(scaling, error), ([key]) => key, ([, text]) => make("li", {}, text), (item, [, text]) => say(item, text));
}

function build(pool) {
  return make("div", { class: `scaled ${pool.role}` }, make("h3", {}, pool.role, " ", make("span", { class: "quiet" }, UNIT[pool.role] ?? "")), make("p"), make("div", { class: "chart" }), make("ul", { class: "clamps quiet" }));
}

function update(part, pool, history) {
  say(part.querySelector("p"), sentence(pool));
  const points = history.filter((point) => point.role === pool.role);
  part.querySelector(".chart").replaceChildren(...(points.length ? [chart(points, part.clientWidth || 320, sentence(pool))] : []));
  keep(part.querySelector(".clamps"), pool.clamps ?? [], (text) => text, (text) => make("li", {}, text), () => {});
}

function sentence(pool) {
  const parts = [`${some(pool.ready, "worker")} ready${pool.starting ? `, ${count(pool.starting)} starting` : ""}, target ${count(pool.target)}`];
  if (pool.demand_tokens_per_s !== null) parts.push(`demand ${count(pool.demand_tokens_per_s)}`);
  if (pool.forecast_tokens_per_s !== null) parts.push(`forecast ${count(pool.forecast_tokens_per_s)}${pool.horizon_s === null ? "" : ` in ${seconds(pool.horizon_s)}`}${pool.forecast_by ? ` (${pool.forecast_by})` : ""}`);
  if (pool.worker_tokens_per_s !== null) parts.push(`a worker does ${count(pool.worker_tokens_per_s)}`);
  if (pool.backlog_tokens) parts.push(`${some(pool.backlog_tokens, "token")} wait`);
  return `${parts.join(" · ")}.`;
}

function chart(history, width, title) {
  const svg = draw("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": title });
  const most = Math.max(1, ...history.flatMap((point) => LINES.map(([name]) => point[name] ?? 0)));
  const when = (point, name) => (name === "forecast" ? point.forecast_at : point.at);
  const begin = history[0].at, now = history[history.length - 1].at;
  const span = Math.max(1, ...history.map((point) => (point.forecast === null ? point.at : point.forecast_at) - begin));
  const x = (at) => 4 + ((width - 8) * (at - begin)) / span, y = (value) => HEIGHT - 22 - ((HEIGHT - 28) * value) / most;
  svg.append(draw("line", { x1: 4, x2: width - 4, y1: y(0), y2: y(0), class: "ground" }));
  svg.append(draw("line", { x1: x(now), x2: x(now), y1: y(0), y2: 4, class: "ground now" }, draw("title", {}, "now")));
  LINES.forEach(([name, words], index) => {
    const known = history.filter((point) => point[name] !== null).sort((one, other) => when(one, name) - when(other, name));
    const points = known.map((point) => `${x(when(point, name)).toFixed(1)},${y(point[name]).toFixed(1)}`);
    if (points.length) svg.append(draw("polyline", { points: points.join(" "), class: name }, draw("title", {}, words)));
    const left = 4 + (index * (width - 8)) / 3;
    svg.append(draw("line", { x1: left, x2: left + 16, y1: HEIGHT - 6, y2: HEIGHT - 6, class: name }), draw("text", { x: left + 21, y: HEIGHT - 2 }, name));
  });
  return svg;
}

/** What holds now comes first, then what was done, the newest first. Two actions of one moment may say the same: they are told apart by place. */
function told({ enabled, plan, actions }, error) {
  const now = [];
  if (error) now.push(`What the autoscaler decides is not known now: the controller does not answer (${error}).`);
  else if (!enabled) return [["off", "Autoscaling is off: each pool has the number of workers that the configuration says."]];
  else if (!plan) now.push("The autoscaler has made no plan yet.");
  else {
    if (plan.held) now.push(`Held: ${plan.held}`);
    now.push(...plan.warnings.map((text) => `Warning: ${text}`));
    if (!actions.length) now.push("No plan has asked for anything yet.");
  }
  return [...now, ...actions.map((action) => `${clock(action.at_s)}  ${action.dry_run ? "would " : ""}${action.text}`)].map((text, place) => [place, text]);
}
