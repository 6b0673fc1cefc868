// What was seen since the page was opened, and what follows from differences of counters. Pure: no DOM here.

const KEPT_S = 600;
const RATE_OVER_S = 4;

export class History {
  constructor() {
    this.samples = [];
  }

  /** Take in a state; its own clock counts, not the browser's. */
  add(state) {
    const learner = state.learner ?? {};
    const baselines = learner.baselines ?? {};
    this.samples.push({
      time: state.time,
      epoch: learner.epoch ?? null,
      decisions: learner.decisions ?? null,
      replicas: new Map((state.replicas ?? []).map((replica) => [replica.incarnation, textsOf(replica)])),
      reward: learner.moving_reward ?? null,
      loss: learner.moving_loss ?? null,
      random: baselines.random?.value ?? null,
      fixed: baselines.best_fixed?.value ?? null,
      decisionsRate: null,
      textsRate: null,
      hitRate: null,
    });
    const oldest = state.time - KEPT_S;
    while (this.samples[0].time < oldest) this.samples.shift();
    this.#rates();
  }

  /** Nothing was learned of the service: lines are broken here. */
  gap() {
    const last = this.samples.at(-1);
    if (last && last.reward !== undefined) this.samples.push({ time: last.time, replicas: new Map() });
  }

  get last() {
    return this.samples.at(-1);
  }

  series(name) {
    return this.samples.map((sample) => ({ time: sample.time, value: sample[name] ?? null }));
  }

  #rates() {
    const now = this.samples.at(-1);
    const before = this.samples.findLast((sample) => now.time - sample.time >= RATE_OVER_S && sample.reward !== undefined);
    if (!before) return;
    const seconds = now.time - before.time;
    // A learner that began anew counts from the start again.
    if (now.epoch === before.epoch && now.decisions !== null && before.decisions !== null && now.decisions >= before.decisions) {
      now.decisionsRate = (now.decisions - before.decisions) / seconds;
    }
    let texts = 0;
    let hits = 0;
    let common = 0;
    for (const [incarnation, counts] of now.replicas) {
      const earlier = before.replicas.get(incarnation);
      if (!earlier) continue;
      common += 1;
      texts += counts.texts - earlier.texts;
      hits += counts.hits - earlier.hits;
    }
    if (common) now.textsRate = texts / seconds;
    if (texts > 0) now.hitRate = hits / texts;
  }
}

/** Texts that were asked for, whether the engine computed them or not. */
export function textsOf(replica) {
  const cache = replica.embedding_cache ?? {};
  const hits = cache.hits ?? 0;
  return { hits, texts: hits + (cache.misses ?? 0) + (cache.shared ?? 0) };
}

/** Of all replicas together since they started; null before the first text. */
export function hitRate(replicas) {
  const counts = replicas.map(textsOf);
  const texts = counts.reduce((sum, one) => sum + one.texts, 0);
  return texts ? counts.reduce((sum, one) => sum + one.hits, 0) / texts : null;
}

/** The length class that had most texts, with the worst figures of any replica; null before the first text. */
export function busiestLatency(replicas) {
  const classes = new Map();
  for (const replica of replicas) {
    for (const [name, told] of Object.entries(replica.latency_ms ?? {})) {
      const kept = classes.get(name) ?? { name, texts: 0 };
      kept.texts += told.texts ?? 0;
      for (const figure of ["p50", "p99", "wait_p50", "wait_p99"]) {
        if (told[figure] !== null && told[figure] !== undefined) kept[figure] = Math.max(kept[figure] ?? 0, told[figure]);
      }
      classes.set(name, kept);
    }
  }
  const used = [...classes.values()].filter((one) => one.texts > 0);
  return used.length ? used.reduce((most, one) => (one.texts > most.texts ? one : most)) : null;
}

/** How long a text that comes now would wait, by what waits and how fast the engine is; null where that is not known. */
export function queueDelayMs(replicas) {
  const delays = replicas
    .filter((replica) => replica.tokens_per_s > 0 || replica.queued_tokens === 0)
    .map((replica) => (replica.queued_tokens ? (1000 * replica.queued_tokens) / replica.tokens_per_s : 0));
  return delays.length ? Math.max(...delays) : null;
}
