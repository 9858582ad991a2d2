// Recent decisions in a sentence each, and when opened, all candidates with what each was predicted to cost, term by term.

import { keep, make, say, set } from "./dom.js";
import { clock, count, seconds, short, some } from "./format.js";
import { where } from "./requests.js";

const TERMS = {
  queue: "prompts ahead of it",
  load: "until its adapter is loaded, and what others lose by that",
  prefill: "its own prompt, less what is cached there",
  transfer: "moving the KV",
  admit: "until the decode worker takes it on",
  decode: "its output, at the pace of that batch",
  interference: "what others lose by it",
  misses: "the chance that a promise is broken",
};

export function showDecisions(list, decisions) {
  // What somebody has open stays, though newer ones come.
  const there = new Set(decisions.map((one) => one.request));
  const opened = [...list.children].filter((row) => row.querySelector("details[open]") && !there.has(row.dataset.key));
  const rows = [...decisions, ...opened.map((row) => row.decision)];
  keep(list, rows.length ? rows : [null], (one) => one?.request ?? "none", build, (row, one) => one && update(row, one));
}

function build(one) {
  if (!one) return make("li", { class: "empty" }, "No decisions yet. Each will say which workers were chosen, and what the others would have cost.");
  return make("li", {}, make("details", {},
    make("summary", {}, make("span", { class: "who" }), make("span", { class: "chosen" }), make("span", { class: "why quiet" })),
    make("p", { class: "asked" }), make("p", { class: "outcome" }),
    make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Candidates" }, make("table", { class: "candidates" })),
    make("p", { class: "others quiet" })));
}

function update(row, one) {
  row.decision = one;
  set(row.querySelector("summary"), "title", one.client_request);
  say(row.querySelector(".who"), `${clock(one.decided_at)}  ${short(one.client_request, 26)}`);
  say(row.querySelector(".chosen"), one.chosen ? where(one.chosen) : "nobody");
  say(row.querySelector(".why"), why(one));
  say(row.querySelector(".asked"), asked(one));
  say(row.querySelector(".outcome"), outcome(one));
  candidates(row.querySelector(".candidates"), one);
  row.querySelector(".wide").hidden = !one.candidates.length;
  say(row.querySelector(".others"), others(one));
}

const same = (a, b) => a && b && a.prefill === b.prefill && a.decode === b.decode;
const cost = (value) => (value === null ? "never" : value.toPrecision(3));
const known = (value) => value !== null && value !== undefined;

function why(one) {
  if (!one.chosen) return one.kind;
  const next = one.candidates.find((other) => !same(other, one.chosen));
  if (!next) return "the only plan there was";
  const more = one.chosen.cost > 0 && next.cost !== null ? Math.round(100 * (next.cost / one.chosen.cost - 1)) : null;
  const beaten = more === null || more < 0 ? `next: ${cost(next.cost)}` : `the next best costs ${count(more)} % more`;
  return `cost ${cost(one.chosen.cost)}; ${beaten}`;
}

function asked(one) {
  const parts = [`${some(one.prompt_tokens, "prompt token")}, about ${count(one.expected_output_tokens)} to come`];
  const { ttft_s: first, tpot_s: each } = one.objective;
  parts.push(known(first) || known(each) ? `promised ${[known(first) && `first token in ${seconds(first)}`, known(each) && `${seconds(each)} per token`].filter(Boolean).join(", ")}` : "nothing promised");
  parts.push(`plans: ${one.kind}`, `decided in ${seconds(one.took_s)}${one.attempts > 1 ? `, plan ${count(one.attempts)} of this request` : ""}`);
  return `${parts.join(" · ")}.`;
}

function outcome(one) {
  const compare = [["first token", "ttft_s"], ["per token", "tpot_s"]]
    .filter(([, key]) => known(one.chosen?.[key]) || known(one.happened[key]))
    .map(([name, key]) => `${name} ${seconds(one.chosen?.[key])} predicted, ${known(one.happened[key]) ? `${seconds(one.happened[key])} came` : "not there yet"}`);
  return [known(one.chosen?.ttft_s) ? null : one.chosen?.reason, ...compare].filter(Boolean).join(" · ");
}

function candidates(table, one) {
  const terms = Object.keys(TERMS).filter((term) => one.candidates.some((plan) => term in plan.terms_s));
  for (const plan of one.candidates) for (const term of Object.keys(plan.terms_s)) if (!terms.includes(term)) terms.push(term);
  const columns = ["Plan", ...terms, "Cost", "Cached"];
  if (table.dataset.columns !== columns.join("\n")) {
    table.dataset.columns = columns.join("\n");
    table.replaceChildren(
      make("caption", {}, terms.length ? "Predicted cost in seconds, term by term; the cheapest is taken" : "Cost as this policy counts it; the cheapest is taken"),
      make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col", title: TERMS[name] ?? null }, name)))), make("tbody"));
  }
  const most = Math.max(...one.candidates.map((plan) => plan.cost ?? 0)) || 1;
  keep(table.tBodies[0], one.candidates, (plan) => `${plan.prefill}\n${plan.decode}`,
    () => make("tr", {}, make("th", { scope: "row" }), ...columns.slice(1).map(() => make("td", { class: "number" }, make("span"), make("i", { class: "cost", "aria-hidden": "true" })))),
    (line, plan) => {
      const taken = same(plan, one.chosen);
      set(line, "class", taken ? "taken" : "");
      say(line.cells[0], `${taken ? "▸ " : ""}${where(plan)}${taken ? " (taken)" : ""}`);
      const texts = [...terms.map((term) => (term in plan.terms_s ? seconds(plan.terms_s[term]) : "–")), cost(plan.cost), `${count(plan.cached_tokens.prefill)}`];
      texts.forEach((text, column) => say(line.cells[column + 1].firstChild, text));
      line.cells[terms.length + 1].lastChild.style.width = `${(100 * (plan.cost ?? most)) / most}%`;
    });
}

function others(one) {
  const parts = [];
  if (one.candidates_left_out) parts.push(`and ${some(one.candidates_left_out, "dearer plan")}`);
  const rejected = Object.entries(one.rejected).map(([worker, reason]) => `${worker} (${reason})`);
  if (one.rejected_left_out) rejected.push(`${count(one.rejected_left_out)} more`);
  if (rejected.length) parts.push(`no candidates: ${rejected.join(", ")}`);
  return parts.join("; ");
}
