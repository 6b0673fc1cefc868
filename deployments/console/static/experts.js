// The table of uids: sorted, searched, and shown a page at a time, so that thousands cost no more than twenty.
import { byId, el, setText } from "./dom.js";
import { count, percent, plain } from "./format.js";
import { heatStrip } from "./heat.js";

const PAGE = 20;
const COLUMNS = [
  ["uid", "uid", (uid) => count(uid.uid)],
  ["hotkey", "hotkey", (uid) => uid.hotkey],
  ["available", "available", (uid) => (uid.available ? "yes" : "no")],
  ["selections", "selections", (uid) => count(uid.selections)],
  ["share", "share", (uid) => percent(uid.share, 2)],
  ["rewards", "rewards", (uid) => count(uid.rewards)],
  ["mean_reward", "mean reward", (uid) => plain(uid.mean_reward)],
  ["resets", "resets", (uid) => count(uid.resets)],
];
const TEXTS = new Set(["hotkey", "available"]);

export function buildExperts() {
  let uids = [];
  let sorting = { column: "selections", descending: true };
  let page = 0;
  const strip = heatStrip(byId("strip"), find);
  const body = el("tbody");
  const headers = COLUMNS.map(([name, label]) => header(name, label, () => sortBy(name)));
  byId("uid-table").append(
    el("table", {}, el("caption", { class: "visually-hidden" }, "All uids; the buttons in the header sort"), el("thead", {}, el("tr", {}, ...headers)), body),
  );
  byId("uid-search").addEventListener("input", () => show((page = 0)));
  byId("uid-previous").addEventListener("click", () => show(--page));
  byId("uid-next").addEventListener("click", () => show(++page));

  function sortBy(column) {
    const descending = sorting.column === column ? !sorting.descending : !TEXTS.has(column) && column !== "uid";
    sorting = { column, descending };
    show((page = 0));
  }

  function find(uid) {
    byId("uid-search").value = String(uid);
    show((page = 0));
    byId("uid-table").scrollIntoView({ block: "nearest" });
  }

  function show() {
    const matching = search(uids, byId("uid-search").value);
    const pages = Math.max(1, Math.ceil(matching.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const rows = sort(matching, sorting).slice(page * PAGE, (page + 1) * PAGE);
    fillRows(body, rows);
    COLUMNS.forEach(([name], at) => {
      const order = sorting.column !== name ? "none" : sorting.descending ? "descending" : "ascending";
      if (headers[at].getAttribute("aria-sort") !== order) headers[at].setAttribute("aria-sort", order);
    });
    byId("uid-previous").disabled = page === 0;
    byId("uid-next").disabled = page === pages - 1;
    setText(byId("uid-count"), told(uids, matching, rows, page));
  }

  show();
  return (rows) => {
    const total = rows.reduce((sum, uid) => sum + uid.selections, 0);
    uids = rows.map((uid) => ({ ...uid, share: total ? uid.selections / total : null }));
    strip(uids);
    show();
  };
}

function header(name, label, sort) {
  const side = TEXTS.has(name) ? null : "number";
  return el(
    "th",
    { scope: "col", class: side, "aria-sort": "none" },
    el("button", { type: "button", class: "sort", on: { click: sort } }, label, el("span", { class: "arrow", "aria-hidden": "true" })),
  );
}

/** Rows are filled again rather than made anew, so that a screen reader or a selection keeps its place. */
function fillRows(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((uid, at) => {
    let row = body.rows[at];
    if (!row) {
      row = body.insertRow();
      for (const [name] of COLUMNS) row.append(el("td", { class: TEXTS.has(name) ? null : "number" }));
    }
    row.classList.toggle("dim", !uid.available);
    COLUMNS.forEach(([, , text], cell) => setText(row.cells[cell], text(uid)));
  });
}

function told(uids, matching, rows, page) {
  if (!uids.length) return "No uids yet.";
  if (!matching.length) return "No uid matches.";
  const first = page * PAGE + 1;
  const of = matching.length === uids.length ? "" : ` that match, of ${count(uids.length)}`;
  return `${count(first)} to ${count(first + rows.length - 1)} of ${count(matching.length)}${of}`;
}

/** A whole number finds that uid, anything else what hotkeys contain. */
export function search(uids, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return uids;
  const exact = /^\d+$/.test(wanted) ? uids.filter((uid) => uid.uid === Number(wanted)) : [];
  return exact.length ? exact : uids.filter((uid) => uid.hotkey.toLowerCase().includes(wanted));
}

/** What is not known comes last either way; equals stay in the order of uids. */
export function sort(uids, { column, descending }) {
  const sign = descending ? -1 : 1;
  return uids.toSorted((one, other) => {
    const [a, b] = [one[column], other[column]];
    if (a === null || b === null) return (a === null) - (b === null);
    return (sign * (typeof a === "string" ? a.localeCompare(b) : a - b)) || one.uid - other.uid;
  });
}
