// The overview: reward and loss over time, tiles, replicas, learner.
import { lineChart, spark } from "./chart.js";
import { byId, el, setText, table } from "./dom.js";
import { NONE, count, duration, interval, milliseconds, percent, plain, plural, rate, signed } from "./format.js";
import { busiestLatency, hitRate, queueDelayMs } from "./history.js";

const TILES = [
  ["decisions", "Decisions / s"],
  ["texts", "Texts / s"],
  ["latency", "Latency p50 / p99"],
  ["queue", "Queue delay"],
  ["cache", "Cache hit rate"],
  ["join", "Join rate"],
  ["lag", "Learner lag"],
  ["weights", "Weights age"],
  ["block", "Chain block age"],
  ["drift", "Drift alarm"],
];

export function buildOverview() {
  byId("tiles").append(
    ...TILES.map(([id, label]) =>
      el(
        "div",
        { class: "tile", id: `tile-${id}` },
        el("dt", {}, label),
        el("dd", {}, el("span", { class: "value", id: `${id}-value` }, NONE), el("span", { class: "fine", id: `${id}-fine` })),
      ),
    ),
  );
  const reward = lineChart(byId("reward-chart"), "Moving reward of the last ten minutes");
  const loss = lineChart(byId("loss-chart"), "Moving loss of the last ten minutes");
  reward([]);
  loss([]);
  return (state, history) => {
    const learner = state.learner ?? {};
    showReward(learner, history, reward);
    showLoss(learner, history, loss);
    showTiles(state, learner, history);
    showReplicas(state, learner);
    showLearner(state, learner);
  };
}

function showReward(learner, history, draw) {
  const { random = {}, best_fixed: fixed = {}, events = 0 } = learner.baselines ?? {};
  const reward = learner.moving_reward ?? null;
  setText(byId("reward-value"), plain(reward));
  setText(byId("legend-reward"), plain(reward));
  setText(byId("legend-random"), plain(random.value));
  setText(byId("legend-fixed"), plain(fixed.value));
  const against = [
    [random, "random"],
    [fixed, "best fixed"],
  ].filter(([estimate]) => reward !== null && estimate.value !== null && estimate.value !== undefined);
  setText(byId("reward-aside"), against.map(([estimate, name]) => `${signed(reward - estimate.value)} against ${name}`).join(", "));
  setText(byId("reward-fine"), events ? `Estimates from the last ${plural(events, "event")}. ${ofRandom(random)} ${ofFixed(fixed)}` : "");
  draw([
    { name: "best fixed", kind: "fixed", points: history.series("fixed") },
    { name: "random", kind: "random", points: history.series("random") },
    { name: "earned", kind: "main", points: history.series("reward") },
  ]);
}

function ofRandom(random) {
  if (random.status !== "ok") return "Random choice: too little is known.";
  if (random.method === "doubly_robust") return `Random choice: ${interval(random)} (95%), doubly robust, from ${plural(random.decisions, "decision")}.`;
  return `Random choice: ${interval(random)} (95%), the mean of ${plural(random.uids, "uid")} of ${count(random.available)} on what they were asked.`;
}

function ofFixed(fixed) {
  if (fixed.status !== "ok") return "Best fixed: no uid has 20 rewards yet.";
  const shown = fixed.uids.slice(0, 6).join(", ");
  const names = `${fixed.uids.length === 1 ? "uid" : "uids"} ${shown}${fixed.uids.length > 6 ? ", …" : ""}`;
  return `Best fixed: always ${names}, ${interval(fixed)}.`;
}

function showLoss(learner, history, draw) {
  const drift = learner.drift ?? {};
  setText(byId("loss-value"), plain(learner.moving_loss));
  setText(byId("loss-aside"), "mean of the last 500 events");
  let text = "";
  if (drift.active) text = `Drift alarm: ${plain(drift.loss_before)} → ${plain(drift.loss_after)} at version ${count(drift.last_version)}.`;
  else if (drift.alarms) text = `No drift now. ${plural(drift.alarms, "alarm")} so far, the last at version ${count(drift.last_version)}.`;
  else if (drift.alarms === 0) text = "No drift alarm so far.";
  setText(byId("drift-text"), text);
  byId("drift-text").dataset.level = drift.active ? "warn" : "";
  draw([{ name: "loss", kind: "main", points: history.series("loss") }]);
}

function showTiles(state, learner, history) {
  const replicas = state.replicas ?? [];
  const now = history.last ?? {};
  const latency = busiestLatency(replicas);
  const ages = replicas.map((replica) => replica.age_s).filter((age) => age !== null);
  const lag = learner.events_logged === undefined ? null : learner.events_logged - learner.events_applied;
  const unpublished = learner.published_version === undefined ? null : learner.version - (learner.published_version ?? 0);
  const chain = state.metagraph ?? {};
  tile("decisions", rate(now.decisionsRate), learner.decisions === undefined ? "" : `${count(learner.decisions)} since the learner started`, history.series("decisionsRate"));
  tile("texts", rate(now.textsRate), `${count(replicas.reduce((sum, one) => sum + one.texts, 0))} encoded so far`, history.series("textsRate"));
  tile("latency", latency ? `${milliseconds(latency.p50)} / ${milliseconds(latency.p99)}` : NONE, latency ? `${latency.name} texts through the engine` : "no text yet");
  tile("queue", milliseconds(queueDelayMs(replicas)), latency ? `waited p50 ${milliseconds(latency.wait_p50)}, p99 ${milliseconds(latency.wait_p99)}` : "no text yet");
  tile("cache", percent(hitRate(replicas)), typeof now.hitRate === "number" ? `${percent(now.hitRate)} just now` : "since the replicas started");
  tile("join", percent(learner.join_rate), "decisions that got a reward");
  tile("lag", lag === null ? NONE : plural(lag, "event"), unpublished === null ? "" : unpublished ? `${plural(unpublished, "version")} not published` : "all is published");
  tile("weights", ages.length ? duration(Math.max(...ages)) : NONE, state.weights?.version === null ? "no weights yet" : `version ${count(state.weights?.version)}`);
  byId("tile-weights").dataset.level = state.degraded ? "bad" : "";
  byId("tile-lag").dataset.level = learner.status === "away" ? "bad" : "";
  showDrift(learner.drift ?? {});
  const isRoster = chain.source === "roster";
  tile("block", duration(chain.block_age_s ?? null), chain.block === undefined ? "" : isRoster ? "roster, read on request" : `block ${count(chain.block)}`);
}

function showDrift(drift) {
  const fine = drift.alarms === undefined ? "" : `${plural(drift.alarms, "alarm")} so far`;
  tile("drift", drift.active === undefined ? NONE : drift.active ? "raised" : "none", fine);
  byId("tile-drift").dataset.level = drift.active ? "bad" : "";
}

function tile(id, value, fine, points = null) {
  setText(byId(`${id}-value`), value);
  setText(byId(`${id}-fine`), fine);
  if (!points) return;
  const holder = byId(`tile-${id}`);
  holder.querySelector("svg")?.remove();
  holder.append(spark(points));
}

const REPLICA_COLUMNS = [
  { label: "replica" },
  { label: "version", number: true },
  { label: "age", number: true },
  { label: "queued", number: true },
  { label: "texts", number: true },
  { label: "decisions", number: true },
];

function showReplicas(state, learner) {
  const replicas = state.replicas ?? [];
  const newest = Math.max(0, ...replicas.map((replica) => replica.version));
  const rows = replicas.map((replica) => {
    const behind = newest - replica.version;
    const name = el("span", {}, el("code", { title: replica.id }, shortId(replica.id)), replica.node ? ` on ${replica.node}` : "");
    return [
      name,
      el("span", {}, count(replica.version), behind ? el("span", { class: "late" }, ` (${count(behind)} behind)`) : ""),
      duration(replica.age_s),
      count(replica.queued_texts),
      count(replica.texts),
      count(replica.issued),
    ];
  });
  byId("replicas").replaceChildren(
    rows.length ? table("Replicas", REPLICA_COLUMNS, rows) : el("p", { class: "fine" }, "No replica has told of itself yet."),
    learner.status === "away" ? el("p", { class: "fine" }, "While the learner is away each replica knows only itself; this is the one that answered.") : "",
  );
}

const shortId = (id) => (id.length > 12 ? `…${id.slice(-10)}` : id);

function showLearner(state, learner) {
  const facts = [
    ["status", learner.status ?? NONE],
    ["rule", learner.rule ?? NONE],
    ["version, epoch", learner.version === undefined ? NONE : `${count(learner.version)}, ${learner.epoch}`],
    ["checkpoint", checkpointOf(learner)],
    ["log", learner.durable === undefined ? NONE : learner.durable ? "durable" : "in memory"],
    ["held", Object.values(learner.quarantine ?? {}).reduce((sum, number) => sum + number, 0).toLocaleString("en")],
    ["network", networkOf(state.metagraph)],
    ["refused calls", refusedOf(state.auth_failures)],
  ];
  const shown = facts.filter(([, value]) => value !== null);
  byId("learner-facts").replaceChildren(...shown.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
}

function checkpointOf(learner) {
  const checkpoint = learner.checkpoint ?? {};
  if (learner.durable === false) return "none: the log is in memory";
  return checkpoint.name ? `version ${count(checkpoint.version)}, ${duration(checkpoint.age_s)} ago` : NONE;
}

function networkOf(network) {
  if (!network) return NONE;
  const available = network.available === undefined ? "" : `, ${count(network.available)} available`;
  return `netuid ${network.netuid}, ${plural(network.n, "uid")}${available}`;
}

function refusedOf(failures) {
  if (!failures) return null;
  return `${count(failures.unauthorized ?? 0)} without a key, ${count(failures.forbidden ?? 0)} without the scope`;
}
