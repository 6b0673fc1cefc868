// Type a prompt, see who would be asked and why, send a reward, see what it changed.
import { get, inWords, post } from "./api.js";
import { byId, el, scrolling, setText, table } from "./dom.js";
import { chance, count, duration, plain, plural, signed } from "./format.js";

const COLUMNS = [
  { label: "uid", number: true },
  { label: "hotkey" },
  { label: "expected", number: true },
  { label: "rank", number: true },
  { label: "bonus", number: true },
  { label: "chance", number: true },
  { label: "reward", number: true },
];

export function buildPlayground(explain) {
  byId("play-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    await busy(byId("play-select"), () => ask(explain));
  });
}

async function ask(explain) {
  const message = byId("play-prompt").value;
  const status = byId("play-status");
  setText(status, "Asking…");
  try {
    const body = { messages: [message], k: Number(byId("play-k").value), explore: byId("play-explore").checked };
    const chosen = await post("v1/select", body);
    const scored = await post("v1/score", { messages: [message] });
    const names = await hotkeys();
    byId("play-result").replaceChildren(...answer(message, chosen, scored, names, explain));
    setText(status, `${plural(chosen.selections[0].uids.length, "uid")} chosen of ${count(scored.scores[0].uids.length)}.`);
  } catch (error) {
    byId("play-result").replaceChildren();
    setText(status, inWords(error));
  }
}

async function hotkeys() {
  const { uids } = await get("v1/uids");
  return new Map(uids.map((uid) => [uid.uid, uid.hotkey]));
}

function answer(message, chosen, scored, names, explain) {
  const selection = chosen.selections[0];
  const means = scored.scores[0].scores;
  // Only scores of one version can be told apart into expectation and bonus.
  const isSame = chosen.weights.version === scored.weights.version && chosen.weights.epoch === scored.weights.epoch;
  const order = rank(means);
  const inputs = selection.uids.map((uid) => el("input", { type: "number", step: "any", class: "reward", "aria-label": `Reward of uid ${uid}` }));
  const rows = selection.uids.map((uid, at) => [
    String(uid),
    names.get(uid) ?? "",
    plain(means[uid]),
    ordinal(order.get(uid)),
    isSame ? signed(selection.scores[at] - means[uid]) : "–",
    chance(selection.propensities[at]),
    inputs[at],
  ]);
  const said = el("p", { class: "said", role: "status", id: "play-said" });
  const send = el("button", { type: "submit", id: "play-send" }, "Send rewards");
  const form = el("form", {}, scrolling("Whom to ask", table("Whom to ask", COLUMNS, rows)), el("div", { class: "row" }, send, el("p", { class: "fine grow" }, "Leave out who did not answer. Usually from 0 to 1.")), said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(send, () => reward(message, selection, inputs, means, said));
  });
  return [
    el("p", {}, ...why(selection, means, order)),
    el(
      "p",
      { class: "fine" },
      "Decision ",
      el("button", { type: "button", class: "link", id: "play-decision", on: { click: () => explain(selection.decision_id) } }, selection.decision_id),
      ` · version ${count(chosen.weights.version)}, confirmed ${duration(chosen.weights.age_s)} ago${chosen.degraded ? " · degraded" : ""}`,
    ),
    form,
  ];
}

/** Place of each uid by its mean score, from 1. */
function rank(means) {
  const order = means.map((_, uid) => uid).sort((a, b) => means[b] - means[a] || a - b);
  return new Map(order.map((uid, place) => [uid, place + 1]));
}

function* why(selection, means, order) {
  const certain = selection.propensities.filter((one) => one === 1).length;
  const drawn = selection.uids.length - certain;
  if (!selection.uids.length) {
    yield "Nobody is available.";
    return;
  }
  const best = selection.uids[0];
  yield `Uid ${best} is expected to earn ${plain(means[best])}, the ${order.get(best) === 1 ? "most" : `${ordinal(order.get(best))}-most`} of all on this prompt. `;
  if (certain) yield `${plural(certain, "choice was", "choices were")} certain. `;
  if (drawn) yield `${plural(drawn, "slot was", "slots were")} left to chance, so that others are tried now and then; “chance” is how likely this uid was to be asked. `;
  yield "A bonus makes uids of which little is known worth asking.";
}

const ordinal = (place) => `${place}${{ 1: "st", 2: "nd", 3: "rd" }[place % 100 > 10 && place % 100 < 14 ? 0 : place % 10] ?? "th"}`;

async function reward(message, selection, inputs, before, said) {
  const given = selection.uids.map((uid, at) => [uid, inputs[at]]).filter(([, input]) => input.value !== "");
  if (!given.length) {
    setText(said, "Give at least one uid a reward.");
    inputs[0]?.focus();
    return;
  }
  const item = { decision_id: selection.decision_id, uids: given.map(([uid]) => uid), rewards: given.map(([, input]) => Number(input.value)) };
  setText(said, "Sending…");
  try {
    const report = await post("v1/rewards", { rewards: [item], wait: "published" });
    const parts = [`${count(report.accepted)} accepted`];
    if (report.duplicates) parts.push(`${count(report.duplicates)} known already: the first report stands`);
    parts.push(...report.rejected.map((one) => `rejected (${one.code}): ${one.detail}`));
    parts.push(report.accepted === 0 ? "" : await effect(message, item.uids, before, report));
    setText(said, `${parts.filter(Boolean).join("; ")}.`);
  } catch (error) {
    setText(said, inWords(error));
  }
}

async function effect(message, uids, before, report) {
  if (!report.reached) return "not in the weights yet";
  const after = await post("v1/score", { messages: [message], uids, min_version: report.version });
  const moved = after.scores[0].uids.map((uid, at) => `uid ${uid} ${plain(before[uid])} → ${plain(after.scores[0].scores[at])}`);
  return `learned as version ${count(report.version)}, expected now: ${moved.join(", ")}`;
}

/** While something runs its button can not be pressed again. */
export async function busy(button, work) {
  button.setAttribute("aria-disabled", "true");
  if (button.dataset.busy) return;
  button.dataset.busy = "yes";
  try {
    await work();
  } finally {
    delete button.dataset.busy;
    button.removeAttribute("aria-disabled");
  }
}
