// What an operator may do. Nothing is asked of the service before the panel is opened.
import { get, inWords, post } from "./api.js";
import { confirmed } from "./confirm.js";
import { byId, el, replaceIfChanged, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { authorsList, checkpointsList, quarantineList } from "./operate_lists.js";
import { busy } from "./playground.js";

export function buildOperate(refresh) {
  const panel = byId("operate-panel");
  const lists = {};
  let state = null;

  byId("operate-open").addEventListener("click", async () => {
    const opens = panel.hidden;
    panel.hidden = !opens;
    byId("operate-open").setAttribute("aria-expanded", String(opens));
    setText(byId("operate-open"), opens ? "Hide operator actions" : "Show operator actions");
    if (opens) await load();
  });

  const act = async (button, what) => {
    if (what.confirm && !(await confirmed(...what.confirm))) return;
    await busy(button, async () => {
      setText(byId("operate-status"), `${what.doing}…`);
      try {
        setText(byId("operate-status"), what.done(await post(what.path, what.body ?? {})));
      } catch (error) {
        setText(byId("operate-status"), inWords(error));
      }
      await load();
      refresh();
    });
  };

  async function load() {
    const answers = await Promise.allSettled([get("v1/admin/checkpoints"), get("v1/admin/quarantine?limit=20"), get("v1/admin/authors")]);
    const [checkpoints, quarantine, authors] = answers;
    keepPlace(panel, () => {
      show(lists.checkpoints, checkpoints, (value) => checkpointsList(value.checkpoints, act));
      show(lists.quarantine, quarantine, (value) => quarantineList(value, act));
      show(lists.authors, authors, (value) => authorsList(value.authors, act));
    });
  }

  function show(holder, answer, build) {
    holder.replaceChildren(answer.status === "fulfilled" ? build(answer.value) : el("p", { class: "fine" }, inWords(answer.reason)));
  }

  const frozen = el("div");
  const shadows = el("div", { class: "row" });
  for (const name of ["checkpoints", "quarantine", "authors"]) lists[name] = el("div", {}, el("p", { class: "fine" }, "Loading…"));
  panel.append(
    card("Network", "Read the roster, or the chain, again and follow it.", action("Resync now", "resync-button", act, RESYNC)),
    card("Learning", "Rewards that arrive while it is frozen are kept and learned after the thaw.", frozen),
    card("Rules", "Let a shadow serve; the rule that served becomes a shadow.", shadows),
    wide("Checkpoints", lists.checkpoints, action("Save a checkpoint now", "checkpoint-button", act, CHECKPOINT)),
    wide("Quarantine", lists.quarantine),
    wide("Authors", lists.authors),
  );

  return (newest) => {
    state = newest;
    const learner = state.learner ?? {};
    const labels = Object.entries(learner.rules ?? {}).filter(([, rule]) => !rule.serves).map(([label]) => label);
    keepPlace(panel, () => {
      replaceIfChanged(frozen, String(learner.frozen), () => action(...freezing(learner), act, learner.frozen ? THAW : FREEZE));
      replaceIfChanged(shadows, labels.join("\n") || "none", () => promotions(labels, act));
    });
  };
}

/** A button that goes away takes the focus along; what came of it is then where a keyboard goes on. */
function keepPlace(panel, change) {
  const wasInside = panel.contains(document.activeElement);
  change();
  if (wasInside && !panel.contains(document.activeElement)) byId("operate-status").focus();
}

const freezing = (learner) => (learner.frozen ? ["Thaw", "thaw-button"] : ["Freeze learning", "freeze-button"]);

const card = (title, text, ...rest) => el("article", { class: "card" }, el("h3", {}, title), el("p", { class: "fine" }, text), ...rest);
const wide = (title, ...rest) => el("article", { class: "card wide" }, el("h3", {}, title), ...rest);

function action(label, id, act, what) {
  const button = el("button", { type: "button", id }, label);
  button.addEventListener("click", () => act(button, what));
  return button;
}

function promotions(labels, act) {
  if (!labels.length) return el("p", { class: "fine" }, "There are no shadows.");
  return labels.map((label) =>
    action(`Promote ${label}`, `promote-${label}`, act, {
      path: "v1/admin/promote",
      body: { rule: label },
      confirm: [`Let ${label} serve?`, "Every replica answers by its weights from then on. The rule that serves now goes on as a shadow, and can be promoted again.", `Promote ${label}`],
      doing: "Promoting",
      done: (answer) => `${answer.rule} serves from version ${count(answer.version)} on.`,
    }),
  );
}

const RESYNC = {
  path: "v1/admin/resync",
  confirm: ["Resync now?", "The network is read again. Rows of uids that changed hands are reset at once.", "Resync"],
  doing: "Reading the network",
  done: (answer) => `At block ${answer.block}: ${plural(answer.n, "uid")}, ${count(answer.reset.length)} reset, ${count(answer.added.length)} added, ${count(answer.removed.length)} removed.`,
};
const CHECKPOINT = {
  path: "v1/admin/checkpoint",
  doing: "Saving",
  done: (answer) => `Saved ${answer.name} at version ${count(answer.version)}.`,
};
const FREEZE = {
  path: "v1/admin/freeze",
  body: { frozen: true },
  confirm: ["Freeze learning?", "Scores stay as they are. Rewards are still taken and logged, and are learned when learning is thawed.", "Freeze"],
  doing: "Freezing",
  done: (answer) => `Learning is frozen from version ${count(answer.version)} on.`,
};
const THAW = {
  path: "v1/admin/freeze",
  body: { frozen: false },
  confirm: ["Thaw learning?", "What was held meanwhile is learned now.", "Thaw"],
  doing: "Thawing",
  done: (answer) => `Learning goes on from version ${count(answer.version)}.`,
};
