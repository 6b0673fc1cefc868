// Small line charts in SVG: time to the right, one scale, few lines.
import { svg } from "./dom.js";
import { plain } from "./format.js";

const HEIGHT = 150;
const MARGIN = { left: 46, right: 10, top: 8, bottom: 20 };
const LEAST_SPAN_S = 60;

/**
 * @param holder what the chart fills the width of.
 * @param title what a screen reader calls it.
 * @returns draw(lines), where a line is {name, kind, points: [{time, value}]}; null values break it.
 */
export function lineChart(holder, title) {
  let drawn = [];
  new ResizeObserver(() => draw(drawn)).observe(holder);

  function draw(lines) {
    drawn = lines;
    const width = Math.max(holder.clientWidth, 200);
    holder.replaceChildren(picture(title, lines, width));
  }
  return draw;
}

function picture(title, lines, width) {
  const points = lines.flatMap((line) => line.points).filter((point) => point.value !== null);
  const root = svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `${title}: ${inWords(lines)}` },
    svg("title", {}, title),
    svg("desc", {}, inWords(lines)),
  );
  if (!points.length) {
    root.append(svg("text", { x: width / 2, y: HEIGHT / 2, class: "hint", "text-anchor": "middle" }, "nothing learned yet"));
    return root;
  }
  const latest = Math.max(...points.map((point) => point.time));
  const earliest = Math.min(Math.min(...points.map((point) => point.time)), latest - LEAST_SPAN_S);
  const [low, high, step] = scale(points.map((point) => point.value));
  const x = (time) => MARGIN.left + ((time - earliest) / (latest - earliest)) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  root.append(...levels(low, high, step, y, width), ...times(earliest, latest, x));
  for (const line of lines) root.append(...strokes(line, x, y));
  return root;
}

function inWords(lines) {
  const told = lines.map((line) => [line.name, line.points.findLast((point) => point.value !== null)?.value]);
  const known = told.filter(([, value]) => value !== undefined);
  return known.length ? known.map(([name, value]) => `${name} ${plain(value)}`).join(", ") : "nothing learned yet";
}

function* levels(low, high, step, y, width) {
  const places = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
  for (let value = low; value <= high + step / 2; value += step) {
    yield svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value), class: "level" });
    yield svg("text", { x: MARGIN.left - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, value.toFixed(places));
  }
}

function* times(earliest, latest, x) {
  const span = latest - earliest;
  const step = [15, 30, 60, 120, 300].find((seconds) => span / seconds <= 5) ?? 600;
  for (let back = 0; back <= span; back += step) {
    const text = back === 0 ? "now" : back % 60 === 0 ? `−${back / 60} min` : `−${back} s`;
    const anchor = back === 0 ? "end" : "middle";
    if (back === 0 || x(latest - back) > MARGIN.left + 14) {
      yield svg("text", { x: x(latest - back), y: HEIGHT - 5, class: "tick", "text-anchor": anchor }, text);
    }
  }
}

function* strokes(line, x, y) {
  let path = "";
  let pen = "M";
  let latest = null;
  for (const { time, value } of line.points) {
    if (value === null) {
      pen = "M";
      continue;
    }
    path += `${pen}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    latest = { time, value };
  }
  if (latest === null) return;
  yield svg("path", { d: path, class: `line line-${line.kind}` });
  yield svg("circle", { cx: x(latest.time), cy: y(latest.value), r: 3, class: `end end-${line.kind}` });
}

/** Round ends and a round step around the values: [low, high, step]. */
export function scale(values) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  const least = Math.max(Math.abs(high) * 0.01, 1e-6);
  if (high - low < least) [low, high] = [low - least, high + least];
  const rough = (high - low) / 3;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough);
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, step];
}

/** A line without axes, for a tile. Decoration: the tile has the number. */
export function spark(points, width = 120, height = 28) {
  const known = points.filter((point) => point.value !== null);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "spark", "aria-hidden": "true" });
  if (known.length < 2) return root;
  const [first, last] = [known[0].time, known.at(-1).time];
  const most = Math.max(...known.map((point) => point.value)) || 1;
  const at = ({ time, value }) =>
    `${(((time - first) / (last - first || 1)) * (width - 2) + 1).toFixed(1)} ${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`;
  root.append(svg("path", { d: `M${known.map(at).join("L")}`, class: "line line-spark" }));
  return root;
}

/** Values with their intervals on one scale: [{label, estimate: {value, low, high}, note}]. */
export function intervals(title, rows, width) {
  const height = 30 * rows.length + 24;
  const left = Math.min(160, width * 0.34);
  const [low, high, step] = scale(rows.flatMap(({ estimate }) => [estimate.low, estimate.high]));
  const x = (value) => left + ((value - low) / (high - low)) * (width - left - 16);
  const words = rows.map(({ label, estimate }) => `${label} ${plain(estimate.value)}, ${plain(estimate.low)} to ${plain(estimate.high)}`);
  const root = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}: ${words.join("; ")}` },
    svg("title", {}, title),
    svg("desc", {}, words.join("; ")),
  );
  for (let value = low; value <= high + step / 2; value += step) {
    root.append(
      svg("line", { x1: x(value), x2: x(value), y1: 4, y2: height - 18, class: "level" }),
      svg("text", { x: x(value), y: height - 4, class: "tick", "text-anchor": "middle" }, plain(value, 3)),
    );
  }
  rows.forEach(({ label, estimate, kind }, at) => {
    const y = 30 * at + 19;
    root.append(
      svg("text", { x: left - 10, y: y + 4, class: "name", "text-anchor": "end" }, label),
      svg("line", { x1: x(estimate.low), x2: x(estimate.high), y1: y, y2: y, class: `whisker whisker-${kind}` }),
      svg("circle", { cx: x(estimate.value), cy: y, r: 4.5, class: `end end-${kind}` }),
    );
  });
  return root;
}
