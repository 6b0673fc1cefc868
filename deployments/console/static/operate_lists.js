// The operator's lists: checkpoints to go back to, events that are held, authors and their standing.
import { el, scrolling, table } from "./dom.js";
import { NONE, count, plain, plural } from "./format.js";

const CHECKPOINTS = [{ label: "checkpoint" }, { label: "version", number: true }, { label: "saved at" }, { label: "" }];
const HELD = [{ label: "place", number: true }, { label: "why" }, { label: "uids" }, { label: "rewards" }, { label: "author" }, { label: "" }];
const AUTHORS = [{ label: "author" }, { label: "weight", number: true }, { label: "agreement", number: true }, { label: "rewards", number: true }, { label: "held" }, { label: "standing" }];
const STANDINGS = { auto: "left to reward trust", trusted: "trusted", distrusted: "distrusted" };

export function checkpointsList(checkpoints, act) {
  if (!checkpoints.length) return el("p", { class: "fine" }, "There are none yet.");
  const rows = checkpoints.map((one) => [
    el("code", {}, one.name),
    count(one.version),
    new Date(one.created_at).toLocaleString("en-GB"),
    actor("Roll back to this", `Roll back to checkpoint ${one.name}`, act, {
      path: "v1/admin/rollback",
      body: { checkpoint: one.name },
      confirm: ["Roll back?", `The weights of version ${count(one.version)} come back, as a new version. What was learned since goes into quarantine, and can be readmitted.`, "Roll back"],
      doing: "Rolling back",
      done: (answer) => `Version ${count(answer.restored)} is back as version ${count(answer.version)}; ${plural(answer.quarantined, "event is", "events are")} held.`,
    }),
  ]);
  return scrolling("Checkpoints", table("Checkpoints", CHECKPOINTS, rows));
}

export function quarantineList({ quarantined, events }, act) {
  if (!quarantined) return el("p", { class: "fine" }, "Nothing is held.");
  const rows = events.map((one) => [
    count(one.seq),
    one.reason.replace("_", " "),
    one.uids.join(", "),
    one.rewards.map((reward) => plain(reward)).join(", "),
    one.author,
    el("span", { class: "row" }, settle("Readmit", "readmit", [one.seq], act), settle("Drop", "drop", [one.seq], act)),
  ]);
  return el(
    "div",
    {},
    el("p", { class: "fine" }, `${plural(quarantined, "event is", "events are")} held${events.length < quarantined ? `; the first ${count(events.length)}:` : ":"}`),
    scrolling("Events that are held", table("Events that are held", HELD, rows)),
    el("div", { class: "row" }, settle("Readmit all", "readmit", null, act), settle("Drop all", "drop", null, act)),
  );
}

function settle(label, action, seqs, act) {
  const which = seqs ? `event ${count(seqs[0])}` : "all that do not wait for the end of a freeze";
  const text = action === "readmit" ? `Learn ${which} after all, for uids that have not changed hands.` : `Give up ${which} for good. The log keeps them.`;
  return actor(label, `${label.split(" ")[0]} ${which}`, act, {
    path: "v1/admin/quarantine",
    body: { action, seqs },
    confirm: [`${label}?`, text, label],
    doing: "Settling",
    done: (answer) => `Done as version ${count(answer.version)}; ${plural(answer.quarantined, "event is", "events are")} still held.`,
  });
}

export function authorsList(authors, act) {
  if (!authors.length) return el("p", { class: "fine" }, "Nobody has reported a reward yet.");
  const rows = authors.map((one) => [
    one.author,
    plain(one.weight, 2),
    plain(one.agreement, 2),
    count(one.recent_rewards),
    one.quarantined_since === null ? NONE : `since event ${count(one.quarantined_since)}`,
    standing(one, act),
  ]);
  return scrolling("Authors", table("Authors", AUTHORS, rows));
}

function standing(author, act) {
  const options = Object.entries(STANDINGS).map(([value, label]) => el("option", { value, selected: value === author.standing }, label));
  const choice = el("select", { "aria-label": `Standing of ${author.author}` }, ...options);
  const set = el("button", { type: "button", class: "quiet", "aria-label": `Set the standing of ${author.author}` }, "Set");
  set.addEventListener("click", () =>
    act(set, {
      path: "v1/admin/authors",
      body: { author: author.author, standing: choice.value },
      confirm: [`Set the standing of ${author.author}?`, `From the next report on it is ${STANDINGS[choice.value]}.`, "Set"],
      doing: "Setting",
      done: (answer) => `${answer.author} is ${STANDINGS[answer.standing]} from event ${count(answer.seq)} on.`,
    }),
  );
  return el("span", { class: "row" }, choice, set);
}

function actor(label, spoken, act, what) {
  const button = el("button", { type: "button", class: "quiet", "aria-label": spoken }, label);
  button.addEventListener("click", () => act(button, what));
  return button;
}
