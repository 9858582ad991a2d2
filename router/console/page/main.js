// The page's loop: asks once a second while somebody looks, shows what came, and says plainly when nothing does.

import { KeyNeeded, ask, forgetKey, hasKey, keepKey } from "./api.js";
import { showDecisions } from "./decisions.js";
import { keep, make, say, set } from "./dom.js";
import { listen, showFlows } from "./flows.js";
import { clock, seconds, some } from "./format.js";
import { forget, merge } from "./merge.js";
import { listenToModels, showModels } from "./models.js";
import { showPools } from "./pools.js";
import { showLegend, showRequests } from "./requests.js";
import { showScaling } from "./scaling.js";

const EVERY_MS = 1000;
const OLD_S = 10;

const byId = (id) => document.getElementById(id);

let known = null; // what was merged last
let answeredAt = null;
let timer = 0;

async function look() {
  clearTimeout(timer);
  const address = location.search;
  try {
    const state = await ask();
    if (location.search !== address) return; // another model was chosen meanwhile, and is being asked for
    answeredAt = performance.now();
    known = merge(state, answeredAt);
    show();
    connected("live", known.routers.length > 1 ? `live from ${known.routers.length} routers` : `live from ${state.router}`);
  } catch (error) {
    if (location.search !== address) return;
    if (error instanceof KeyNeeded) return askForKey();
    lost(error);
  }
  if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

function connected(state, words) {
  const place = byId("connection");
  set(place, "class", state);
  say(place.querySelector(".sign"), state === "live" ? "●" : "✕");
  say(place.querySelector(".words"), words);
}

function lost(error) {
  const said = error instanceof TypeError ? "it cannot be reached" : error.name === "TimeoutError" ? "it does not answer" : error.message;
  const since = answeredAt === null ? "" : `; what is below is ${seconds((performance.now() - answeredAt) / 1000)} old`;
  connected("lost", `router lost: ${said}${since}. Trying again …`);
  document.body.classList.toggle("stale", known !== null);
}

function show() {
  document.body.classList.remove("stale");
  byId("key").hidden = true;
  byId("main").hidden = false;
  showModels(byId("models"), known.models, known.model);
  say(byId("model"), byId("models").hidden ? known.model : "");
  say(byId("summary"), summary(known));
  keep(byId("notices"), notices(known), (one) => one.key, () => make("li"), (row, one) => say(row, one.text));
  showPools(byId("pools"), known.pools);
  showFlows(byId("flows"), byId("flows-said"), byId("flows-numbers"), known);
  showRequests(byId("requests"), byId("axis"), known.requests);
  showDecisions(byId("decisions"), known.decisions);
  showScaling(byId("scaling"), known.scaling, known.scaling_error);
  say(byId("routers"), known.routers.length > 1
    ? `Requests, decisions and hand-offs are those of ${known.routers.join(", ")}, added up. They share nothing, and each answers in turn.`
    : `Requests, decisions and hand-offs are those of ${known.routers[0]}. Other routers, if there are any, have not answered yet.`);
}

function summary(state) {
  const ready = state.pools.map((pool) => `${some(pool.states.ready ?? 0, `${pool.role} worker`)}`).join(" and ");
  if (state.pools.every((pool) => !(pool.states.ready > 0))) {
    const starting = state.pools.reduce((sum, pool) => sum + (pool.states.starting ?? 0), 0);
    return starting ? `${some(starting, "worker")} starting; nobody can serve yet.` : "The cluster is empty: there is no worker that could serve.";
  }
  const open = state.open_requests ? `${some(state.open_requests, "request is", "requests are")} under way` : "Nobody asks for anything right now";
  const waits = state.waiting_requests ? `; ${some(state.waiting_requests, "request waits", "requests wait")}, the first for ${seconds(state.oldest_waiting_s)}` : "";
  return `${open} on ${ready}${waits}.`;
}

function notices(state) {
  const found = [];
  for (const pool of state.pools) {
    const ready = pool.states.ready ?? 0;
    if (pool.wanted !== null && ready < pool.wanted) found.push({ key: `short ${pool.role}`, text: `${pool.role} is short of workers: ${ready} of ${pool.wanted} ready.` });
    for (const worker of pool.workers.filter((one) => one.state === "unreachable")) {
      found.push({ key: `lost ${worker.worker}`, text: `${worker.worker} cannot be reached. Its requests go on elsewhere.` });
    }
  }
  for (const one of state.failures) found.push({ key: `dead ${one.worker}`, text: `${one.worker} ended at ${clock(one.at)}: ${one.reason}` });
  const { heard_s_ago: heard, error } = state.controller;
  if (error && (heard === null || heard > OLD_S)) found.push({ key: "controller", text: "The controller does not answer. Requests are served all the same; workers that start or end are not told of." });
  return found;
}

function askForKey() {
  const field = byId("key-field");
  byId("main").hidden = byId("models").hidden = true;
  byId("key").hidden = false;
  say(byId("key-said"), hasKey() ? "The router does not know this key." : "");
  connected("locked", "waiting for a key");
  forgetKey();
  field.value = "";
  field.focus();
}

byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key-field").value.trim());
  connected("live", "asking the router …");
  look();
});
document.addEventListener("visibilitychange", () => document.hidden || look());
addEventListener("resize", () => known && show());
listenToModels(byId("models"), () => {
  forget();
  look();
});
listen(byId("flows-by"), () => known && show());
showLegend(byId("legend"));
look();
