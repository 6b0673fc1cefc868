// The little of DOM building that the page needs. Text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** Set a text only where it differs, so that selections last and nothing is announced twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A table; `columns` are {label, number?}, a cell is text or a node. */
export function table(caption, columns, rows) {
  const side = (column) => (column.number ? "number" : null);
  return el(
    "table",
    {},
    el("caption", { class: "visually-hidden" }, caption),
    el("thead", {}, el("tr", {}, ...columns.map((column) => el("th", { scope: "col", class: side(column) }, column.label)))),
    el(
      "tbody",
      {},
      ...rows.map((cells) => el("tr", {}, ...cells.map((cell, at) => el("td", { class: side(columns[at]) }, cell)))),
    ),
  );
}

/** What may be wider than the page: scrolled by itself, by keyboard as well. */
export const scrolling = (label, ...children) => el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, ...children);

/** Put children in place of others, unless the same text is there already. */
export function replaceIfChanged(node, key, build) {
  if (node.dataset.shown === key) return;
  node.dataset.shown = key;
  node.replaceChildren(...[build()].flat());
}
