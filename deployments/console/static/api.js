// Calls to the service. URLs are relative to the page, so any route prefix does.

const KEY = "tidegate-key";
const PATIENCE_MS = 15000;

/** What a call failed with. `status` 0: no answer at all. */
export class CallError extends Error {
  constructor(status, code, detail, { retryAfterS = null, scheme = "" } = {}) {
    super(detail);
    Object.assign(this, { status, code, detail, retryAfterS, scheme });
  }
}

export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return memory.key; // storage may be switched off
  }
}

export function setApiKey(key) {
  memory.key = key;
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Until the page is left, then.
  }
}

const memory = { key: "" };

export const get = (path) => call("GET", path);
export const post = (path, body = {}) => call("POST", path, body);

async function call(method, path, body) {
  const headers = {};
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const request = {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "same-origin",
    signal: AbortSignal.timeout(method === "GET" ? PATIENCE_MS : 5 * PATIENCE_MS),
  };
  let response;
  let text;
  try {
    response = await fetch(path, request);
    text = await response.text();
  } catch (error) {
    const detail = error.name === "TimeoutError" ? "the service took too long to answer" : "the service cannot be reached";
    throw new CallError(0, "unreachable", detail);
  }
  if (response.ok) {
    try {
      return JSON.parse(text);
    } catch {
      throw new CallError(response.status, "unreadable", "what stands in front of the service answers for it");
    }
  }
  throw refusal(response, text);
}

function refusal(response, text) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // What stands in front of the service answers in its own words.
  }
  const retryAfterS = Number(response.headers.get("Retry-After")) || null;
  const scheme = (response.headers.get("WWW-Authenticate") ?? "").split(" ")[0].toLowerCase();
  const detail = problem.detail ?? `the service answered ${response.status}`;
  return new CallError(response.status, problem.code ?? "no_problem", detail, { retryAfterS, scheme });
}

/** One line for people. */
export function inWords(error) {
  if (!(error instanceof CallError)) return String(error);
  if (error.status === 401) return "The call was refused: no valid API key (401).";
  if (error.status === 403) return "The API key does not allow this: it lacks the scope (403).";
  if (error.status === 429) return `The service is overloaded (429); try again in ${error.retryAfterS ?? 1} s.`;
  return error.status ? `${error.detail} (${error.status} ${error.code})` : `${error.detail[0].toUpperCase()}${error.detail.slice(1)}.`;
}
