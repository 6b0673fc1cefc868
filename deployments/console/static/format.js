// Numbers for people. What is not known is a dash, never a zero.

export const NONE = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Rewards, losses, scores: four places below ten, as many as make sense above. */
export function plain(value, places = 4) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && size < 10 ** -places) return minus(value.toExponential(1));
  return minus(value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : places));
}

export const signed = (value, places = 4) => (isNumber(value) && value >= 0 ? `+${plain(value, places)}` : plain(value, places));

export const count = (value) => (isNumber(value) ? minus(Math.round(value).toLocaleString("en")) : NONE);

export function rate(value) {
  if (!isNumber(value)) return NONE;
  return value >= 100 ? count(value) : value.toFixed(1);
}

export const percent = (value, places = 1) => (isNumber(value) ? `${(value * 100).toFixed(places)}%` : NONE);

/** A probability, which may be tiny: two digits that count. */
export function chance(value) {
  if (!isNumber(value)) return NONE;
  if (value === 1) return "certain";
  return value >= 0.1 ? percent(value, 1) : `${Number((value * 100).toPrecision(2))}%`;
}

export function milliseconds(value) {
  if (!isNumber(value)) return NONE;
  return value >= 10000 ? `${(value / 1000).toFixed(1)} s` : `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ms`;
}

export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export const interval = (estimate) => `${plain(estimate.low)} to ${plain(estimate.high)}`;

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export const clock = (time) => new Date(time * 1000).toLocaleTimeString("en-GB");

const minus = (text) => text.replace("-", "−");
