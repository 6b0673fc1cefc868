// Asks for something again and again while somebody looks: one request at a time, none while the tab is hidden.

const SLOWEST_MS = 8000;

/**
 * @param ask resolves to what is shown.
 * @param everyMs between an answer and the next question.
 * @param tell called with {value} or {error}.
 * @returns {now} to ask at once.
 */
export function poll(ask, everyMs, tell) {
  let timer = null;
  let asking = false;
  let failures = 0;

  async function once() {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = true;
    let delayMs = typeof everyMs === "function" ? everyMs() : everyMs;
    try {
      const value = await ask();
      failures = 0;
      tell({ value });
    } catch (error) {
      failures += 1;
      tell({ error });
      delayMs = Math.max(Math.min(delayMs * 2 ** Math.min(failures - 1, 4), SLOWEST_MS), (error.retryAfterS ?? 0) * 1000);
    } finally {
      asking = false;
    }
    if (!document.hidden) timer = setTimeout(once, delayMs);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : once()));
  once();
  return { now: once };
}
