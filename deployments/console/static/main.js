// Puts the page together: what is asked, how often, and who shows it.
import { buildAccess } from "./access.js";
import { get } from "./api.js";
import { conditionOfFailure, conditionsOf, pillOf } from "./conditions.js";
import { buildDecision } from "./decision.js";
import { byId, el, replaceIfChanged, setText } from "./dom.js";
import { buildExperts } from "./experts.js";
import { NONE, clock, count, duration } from "./format.js";
import { History } from "./history.js";
import { buildOperate } from "./operate.js";
import { buildOverview } from "./overview.js";
import { buildPlayground } from "./playground.js";
import { poll } from "./poll.js";
import { showRules } from "./rules.js";

const STATE_EVERY_MS = 1500;
const history = new History();
const showOverview = buildOverview();
const showExperts = buildExperts();
const explain = buildDecision();
buildPlayground(explain);
const operate = buildOperate(() => asking.now());
const askForKey = buildAccess(() => {
  asking.now();
});
let numUids = 0;

const asking = poll(() => get("v1/state"), STATE_EVERY_MS, ({ value, error }) => (error ? failed(error) : showState(value)));
// Not while the state is refused or out of reach: that would only be refused as well.
const askingUids = poll(async () => (isLive() ? get("v1/uids") : null), uidsEveryMs, ({ value }) => {
  if (!value) return;
  numUids = value.uids.length;
  showExperts(value.uids);
});

// A table of thousands is not worth asking for as often.
function uidsEveryMs() {
  return numUids > 1000 ? 15000 : 4000;
}

const isLive = () => document.body.dataset.view === "live";

function showState(state) {
  const wasLive = isLive();
  document.body.dataset.view = "live";
  if (!wasLive) askingUids.now();
  history.add(state);
  const conditions = conditionsOf(state);
  showConditions(conditions);
  showPill(...pillOf(conditions, { reached: true, frozen: state.learner?.frozen }));
  setText(byId("where"), whereOf(state.metagraph));
  setText(byId("updated"), `Received at ${clock(state.time)} by the service's clock, answered by replica ${state.answered_by}.`);
  askForKey(false);
  showOverview(state, history);
  showRules(state.learner ?? {});
  operate(state);
}

const whereOf = (network) => (network ? `netuid ${network.netuid} · ${count(network.n)} uids` : "");

async function failed(error) {
  const condition = conditionOfFailure(error);
  const isRefused = error.status === 401 || error.status === 403;
  document.body.dataset.view = isRefused ? "refused" : history.last ? "old" : "none";
  history.gap();
  askForKey(isRefused && error.scheme !== "btauth");
  showPill(...pillOf([condition], { reached: error.status !== 0 }));
  showConditions(isRefused ? [condition, ...(await readiness())] : [condition]);
}

/** What the service tells anyone. */
async function readiness() {
  try {
    const ready = await get("readyz");
    const { weights, metagraph, degraded } = ready;
    setText(byId("where"), whereOf(metagraph));
    return [{ level: degraded ? "bad" : "info", title: degraded ? "Ready, with stale weights" : "Ready", text: `Weights version ${count(weights.version)}, confirmed ${duration(weights.age_s)} ago; ${count(metagraph.n)} uids at block ${metagraph.block ?? NONE}.` }];
  } catch (error) {
    return [conditionOfFailure(error)];
  }
}

function showConditions(conditions) {
  // Ages in a text grow all the time; a screen reader is told of what is new only.
  const key = JSON.stringify(conditions.map(({ level, title, text }) => [level, title, text.replaceAll(/[\d.,]+ (s|min|h|d)\b/g, "")]));
  const holder = byId("conditions");
  replaceIfChanged(holder, key, () =>
    conditions.map(({ level, title, text }) => el("div", { class: "note", "data-level": level }, el("strong", {}, title), " ", el("span", {}, text))),
  );
}

function showPill(level, word) {
  byId("pill").dataset.level = level;
  setText(byId("pill-text"), word);
}
