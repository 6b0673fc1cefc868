// What an operator has to know before any figure: a list of conditions, worst first. Pure: no DOM here.
import { count, duration, plain, plural } from "./format.js";

const WORST_FIRST = ["bad", "warn", "info"];

/** Of a state that was answered. */
export function conditionsOf(state) {
  const learner = state.learner ?? {};
  const found = [...ofWeights(state, learner), ...ofLearner(learner), ...ofNetwork(state)];
  return found.sort((one, other) => WORST_FIRST.indexOf(one.level) - WORST_FIRST.indexOf(other.level));
}

function* ofWeights(state, learner) {
  if (learner.status === "away") {
    const since = learner.last_seen_s === null ? "since this replica started" : `for ${duration(learner.last_seen_s)}`;
    const scoring = state.weights?.version === null ? "" : ` Scoring goes on with version ${count(state.weights?.version)}.`;
    yield {
      level: "bad",
      title: "The learner is away",
      text: `It has not answered ${since}.${scoring} Rewards are answered 503 and have to be sent again; nothing that was acknowledged is lost.${learner.reason ? ` Reason: ${learner.reason}` : ""}`,
    };
  }
  if (state.weights?.version === null || state.weights?.version === undefined) {
    yield { level: "bad", title: "Not ready", text: "This replica has no weights yet; it answers 503 to whoever asks for scores." };
  } else if (state.degraded) {
    yield {
      level: "bad",
      title: "Stale weights",
      text: `Nobody has confirmed version ${count(state.weights.version)} as the newest for ${duration(state.weights.age_s)}. Answers say “degraded”.`,
    };
  }
}

function* ofLearner(learner) {
  const held = Object.entries(learner.quarantine ?? {}).filter(([why, number]) => number && why !== "frozen");
  if (learner.frozen) {
    yield { level: "warn", title: "Learning is frozen", text: `${plural(learner.quarantine?.frozen ?? 0, "event waits", "events wait")} until an operator thaws it.` };
  }
  if (learner.drift?.active) {
    const { loss_before: before, loss_after: after, last_version: version } = learner.drift;
    yield { level: "warn", title: "Drift", text: `The loss rose from ${plain(before)} to ${plain(after)} at version ${count(version)}: the world has changed, or somebody lies.` };
  }
  if (held.length) {
    const reasons = held.map(([why, number]) => `${count(number)} ${why.replace("_", " ")}`).join(", ");
    yield { level: "warn", title: "Quarantine is not empty", text: `Held and not learned: ${reasons}. Settle them under Operate.` };
  }
  if (learner.log_error) yield { level: "bad", title: "The event log fails", text: learner.log_error };
  if (learner.checkpoint?.last_error) yield { level: "warn", title: "The last checkpoint failed", text: learner.checkpoint.last_error };
  if (learner.trust?.quarantined?.length) {
    yield { level: "warn", title: "Authors are held back", text: `Reward trust does not believe ${learner.trust.quarantined.join(", ")}.` };
  }
  if (learner.status === "running" && learner.moving_reward === null) {
    yield { level: "info", title: "Nothing learned yet", text: "Figures appear with the first rewards: run make demo in another terminal, or try the playground below." };
  }
}

function* ofNetwork(state) {
  const error = state.metagraph?.last_error;
  if (error) yield { level: "warn", title: "The network cannot be read", text: `${error} The last good view stays in use.` };
}

/** Of a call for the state that failed. */
export function conditionOfFailure(error) {
  switch (error.status) {
    case 0:
      return { level: "bad", title: "Service unreachable", text: `${sentence(error.detail)} The figures below are the last ones that were received. Trying again.` };
    case 401:
      return error.scheme === "btauth"
        ? { level: "warn", title: "This page cannot sign", text: "Callers of this service sign with their hotkey (auth.mode hotkey), which a web page cannot. Below is what the service tells anyone; use tidegate status or GateClient with a wallet for the rest." }
        : { level: "warn", title: "No valid API key", text: "Figures are shown to callers with a key of the scope score." };
    case 403:
      return { level: "warn", title: "This key may not look", text: "It lacks the scope score, which every figure needs." };
    case 429:
      return { level: "warn", title: "Overloaded", text: `The service takes no more at present; asking again in ${duration(error.retryAfterS ?? 1)}.` };
    default:
      return { level: "bad", title: `The service answered ${error.status}`, text: `${sentence(error.detail)} The figures below are the last ones that were received.` };
  }
}

/** The one word in the header: [level, word]. */
export function pillOf(conditions, { reached, frozen }) {
  if (!reached) return ["bad", "Unreachable"];
  if (conditions.some((one) => one.level === "bad")) return ["bad", "Degraded"];
  if (frozen) return ["warn", "Frozen"];
  return conditions.some((one) => one.level === "warn") ? ["warn", "Attention"] : ["good", "Live"];
}

const sentence = (said) => {
  const text = said || "it cannot be read";
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
};
