// Which of several models is shown. The page's address says it, so that a link is to one of them; without, it is the first.

import { keep, make } from "./dom.js";

/** Hidden where there is nothing to choose. */
export function showModels(place, models, shown) {
  place.hidden = models.length < 2;
  const choice = place.querySelector("select");
  keep(choice, models, (name) => name, (name) => make("option", { value: name }, name), () => {});
  if (choice.value !== shown) choice.value = shown;
}

/** ``changed`` is called when the address names another one. */
export function listenToModels(place, changed) {
  const choice = place.querySelector("select");
  choice.addEventListener("change", () => {
    const address = new URL(location.href);
    address.searchParams.set("model", choice.value);
    history.replaceState(null, "", address);
    changed();
  });
}
