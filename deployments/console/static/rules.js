// The rule that serves beside its shadows: what each would have earned.
import { intervals } from "./chart.js";
import { byId, el, replaceIfChanged, scrolling, table } from "./dom.js";
import { NONE, count, interval, plain, plural, signed } from "./format.js";

const COLUMNS = [
  { label: "rule" },
  { label: "loss", number: true },
  { label: "would earn", number: true },
  { label: "95% interval", number: true },
  { label: "better by", number: true },
  { label: "of decisions", number: true },
];
const WHY_NOT = { no_data: "no data yet", no_support: "no support" };

export function showRules(learner) {
  const rules = Object.entries(learner.rules ?? {});
  const holder = byId("rules");
  const key = JSON.stringify(rules.length < 2 ? rules.length : rules) + holder.clientWidth;
  replaceIfChanged(holder, key, () => (rules.length < 2 ? alone(learner) : together(rules, holder.clientWidth)));
}

function alone(learner) {
  const text = learner.rules
    ? "One rule learns. Add shadows (learner.shadow) to see side by side what others would have earned, and promote one."
    : "Not known while the learner is away.";
  return el("p", { class: "fine" }, text);
}

function together(rules, width) {
  const told = rules
    .filter(([, rule]) => rule.would_earn?.status === "ok")
    .map(([label, rule]) => ({ label, estimate: rule.would_earn, kind: rule.serves ? "main" : "random" }));
  const decisions = rules.map(([, rule]) => rule.would_earn?.decisions ?? 0);
  return [
    told.length ? el("div", { class: "plot" }, intervals("What each rule would have earned, with 95% intervals", told, Math.max(width, 260))) : "",
    scrolling("Rules", table("Rules", COLUMNS, rules.map(([label, rule]) => row(label, rule)))),
    el("p", { class: "fine" }, `Off-policy, doubly robust, from the last ${plural(Math.max(...decisions), "decision")} at most. “Better by” is the difference from the rule that serves, on the same prompts.`),
  ];
}

function row(label, rule) {
  const earns = rule.would_earn ?? {};
  const better = earns.better_by ?? {};
  return [
    el("span", {}, label, rule.serves ? el("span", { class: "tag" }, "serves") : ""),
    plain(rule.moving_loss),
    earns.status === "ok" ? plain(earns.value) : WHY_NOT[earns.status] ?? NONE,
    earns.status === "ok" ? interval(earns) : NONE,
    better.status === "ok" ? `${signed(better.value)} (${interval(better)})` : NONE,
    count(earns.decisions),
  ];
}
