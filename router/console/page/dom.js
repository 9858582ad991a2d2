// Making and changing elements. Whatever comes from the cluster becomes text or an attribute's value, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes; texts and elements become its children. An attribute that is null or false is left out. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** Changes a text only where it is another one: what is selected, or being read out, stays so. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Children by key: those that stay are changed in place, so that focus and what was opened stay too. */
export function keep(parent, items, keyOf, build, update) {
  const keys = new Set(items.map((item) => String(keyOf(item))));
  for (const child of [...parent.children]) if (!keys.has(child.dataset.key)) child.remove(); // first: the others then need not move
  const there = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = there.get(key);
    if (!child) {
      child = build(item);
      child.dataset.key = key;
    }
    if (child === before) before = before.nextElementSibling;
    else parent.insertBefore(child, before);
    update(child, item);
  }
}
