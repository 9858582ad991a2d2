// Recent requests: a bar each, from its arrival on, of the phases it went through.

import { keep, make, say, set } from "./dom.js";
import { bytes, clock, count, round, seconds, short, some } from "./format.js";

// What the router tells apart, in four that one can see. Patterns tell them apart as well as colours do: see console.css.
const PHASES = {
  queue: { name: "queue", parts: ["route", "queue", "engine_queue"], means: "waiting for a worker with room, and in its engine's queue" },
  prefill: { name: "prefill", parts: ["prefill"], means: "computing the prompt" },
  handoff: { name: "hand-off", parts: ["handoff_wait", "transfer", "decode_wait"], means: "moving the KV, until the decode worker's first token" },
  decode: { name: "decode", parts: ["decode"], means: "making tokens" },
};
const PARTS = {
  route: "in the router, deciding and sending",
  queue: "in the router's queue, until a worker had room",
  engine_queue: "in the queue of the engine that computes the prompt",
  prefill: "computing the prompt",
  handoff_wait: "handed over, and not begun by the decode worker",
  transfer: "moving KV",
  decode_wait: "on the decode worker, until its first token",
  decode: "making tokens",
};
const OUTCOMES = { running: "…", finished: "✓", stopped: "✓", cancelled: "⊘", failed: "✕" };

export function showLegend(place) {
  place.replaceChildren(
    ...Object.entries(PHASES).map(([key, phase]) => make("li", { title: phase.means }, make("span", { class: `swatch ${key}`, "aria-hidden": "true" }), phase.name)),
    make("li", {}, make("span", { class: "swatch first", "aria-hidden": "true" }), "first token"));
}

export function showRequests(list, axis, requests) {
  const end = round(Math.max(0.001, ...requests.map((one) => one.took_s)));
  keep(axis, requests.length ? [0, end / 2, end] : [], (at) => at / end, () => make("span"), (tick, at) => say(tick, at ? seconds(at) : "arrival"));
  const rows = requests.length ? requests : [null];
  keep(list, rows, (one) => one?.request ?? "none", build, (row, one) => one && update(row, one, end));
}

function build(one) {
  if (!one) return make("li", { class: "empty" }, "No requests yet. The newest are shown here, each with the phases it goes through.");
  return make("li", {}, make("details", {},
    make("summary", {},
      make("span", { class: "who" }, make("span", { class: "sign", "aria-hidden": "true" }), " ", make("span", { class: "id" })),
      make("span", { class: "where quiet" }),
      make("span", { class: "bar", role: "img" }, ...Object.keys(PHASES).map((key) => make("span", { class: key })), make("span", { class: "first" })),
      make("span", { class: "took number" })),
    make("p", { class: "facts" }),
    make("table", {}, make("thead", {}, make("tr", {}, ...["Phase", "Time", "What"].map((name) => make("th", { scope: "col" }, name)))), make("tbody"))));
}

const of = (one, phase) => phase.parts.reduce((sum, part) => sum + (one.parts_s[part] ?? 0), 0);

function update(row, one, end) {
  const phases = Object.entries(PHASES).map(([key, phase]) => [key, phase, of(one, phase)]);
  say(row.querySelector(".sign"), OUTCOMES[one.outcome] ?? "·");
  say(row.querySelector(".id"), short(one.client_request, 26));
  set(row.querySelector("summary"), "title", one.client_request);
  set(row, "class", one.outcome);
  say(row.querySelector(".where"), where(one));
  say(row.querySelector(".took"), seconds(one.took_s));
  for (const [key, , took] of phases) row.querySelector(`.bar > .${key}`).style.width = `${(100 * took) / end}%`;
  const first = row.querySelector(".bar > .first");
  first.hidden = one.first_token_s === null;
  first.style.left = `${(100 * (one.first_token_s ?? 0)) / end}%`;
  const told = phases.filter(([, , took]) => took > 0).map(([, phase, took]) => `${phase.name} ${seconds(took)}`);
  set(row.querySelector(".bar"), "aria-label", `${one.outcome}: ${told.join(", ")}${one.first_token_s === null ? "" : `; first token after ${seconds(one.first_token_s)}`}`);
  say(row.querySelector(".facts"), facts(one));
  keep(row.querySelector("tbody"), Object.entries(one.parts_s), ([part]) => part,
    () => make("tr", {}, make("th", { scope: "row" }), make("td", { class: "number" }), make("td")),
    (line, [part, took]) => [part.replace("_", " "), seconds(took), PARTS[part] ?? ""].forEach((text, column) => say(line.cells[column], text)));
}

export function where(one) {
  const prefill = one.prefill_worker ?? one.prefill, decode = one.decode_worker ?? one.decode;
  if (!decode) return one.part ? "waits for a worker" : "no worker";
  return prefill === decode ? `all on ${short(decode)}` : `${short(prefill)} → ${short(decode)}`;
}

function facts(one) {
  const parts = [`Arrived ${clock(one.arrived_at)}`, one.part ? `now in ${one.part.replace("_", " ")}` : one.outcome];
  if (one.error) parts.push(one.error);
  parts.push(`${some(one.prompt_tokens, "prompt token")}, ${count(one.cached_tokens)} cached`, some(one.output_tokens, "output token"));
  if (one.transfer_bytes) parts.push(`${bytes(one.transfer_bytes)} of KV moved`);
  if (one.was_transferred === false) parts.push("decode computed the prompt again");
  if (one.attempts > 1) parts.push(`${some(one.attempts, "plan")} made`);
  if (one.losses) parts.push(`${some(one.losses, "worker")} lost under it, carried on ${some(one.resumes, "time")}`);
  return `${parts.join(" · ")}.`;
}
