// One decision: who was asked, with what chance, by which weights, and what came of it.
import { get, inWords } from "./api.js";
import { byId, el, scrolling, setText, table } from "./dom.js";
import { NONE, chance, count, plain, plural } from "./format.js";

const COLUMNS = [
  { label: "uid", number: true },
  { label: "hotkey then" },
  { label: "score", number: true },
  { label: "chance", number: true },
  { label: "reward", number: true },
  { label: "reported by" },
];

export function buildDecision() {
  byId("decision-form").addEventListener("submit", (event) => {
    event.preventDefault();
    explain(byId("decision-id").value.trim());
  });
  return (id) => {
    byId("decision-id").value = id;
    byId("decision").scrollIntoView();
    byId("decision").focus({ preventScroll: true });
    return explain(id);
  };
}

async function explain(id) {
  const status = byId("decision-status");
  setText(status, "Looking…");
  try {
    const decision = await get(`v1/decisions/${encodeURIComponent(id)}`);
    byId("decision-result").replaceChildren(...account(decision));
    setText(status, `Decision ${decision.id}.`);
  } catch (error) {
    byId("decision-result").replaceChildren();
    setText(status, inWords(error));
  }
}

function account(decision) {
  const rows = decision.uids.map((uid, at) => [
    String(uid),
    decision.hotkeys[at],
    plain(decision.scores[at]),
    chance(decision.propensities[at]),
    plain(decision.rewards[uid] ?? null),
    decision.authors[uid] ?? NONE,
  ]);
  return [el("p", {}, story(decision)), scrolling("What was decided", table("What was decided", COLUMNS, rows))];
}

function story(decision) {
  const when = new Date(decision.time_s * 1000).toLocaleString("en-GB");
  const certain = decision.propensities.filter((one) => one === 1).length;
  const drawn = decision.propensities.length - certain;
  const rewards = Object.keys(decision.rewards).length;
  return [
    `Made on ${when} by version ${count(decision.version)} (epoch ${decision.epoch}), from ${plural(decision.candidates, "candidate")}.`,
    `${plural(certain, "uid was", "uids were")} certain to be asked${drawn ? `, ${count(drawn)} drawn by chance` : ""}; scores include the exploration bonus.`,
    rewards ? `${plural(rewards, "reward has", "rewards have")} been reported.` : "No reward has been reported yet.",
    decision.embedding === "erased" ? "Its embedding was erased." : `Its embedding is kept (${decision.embedding}), its text is not known here.`,
  ].join(" ");
}
