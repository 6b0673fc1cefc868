// The uids as two heat strips: the share of selections and the mean reward of each, with a mark where a row was reset.
// A picture of thousands of cells, so a canvas; the table below it says the same to who does not see it.
import { el, setText } from "./dom.js";
import { count, percent, plain, plural } from "./format.js";

const LEAST_CELL = 4;
const GAP = 1;

export function heatStrip(holder, pick) {
  const canvas = el("canvas", { class: "heat", role: "img", "aria-describedby": "strip-readout" });
  const readout = el("p", { class: "fine", id: "strip-readout" }, "No uids yet.");
  const scaleText = el("p", { class: "fine", id: "strip-scale" });
  holder.append(canvas, scaleText, readout);
  let uids = [];
  let layout = null;
  let pointed = null;

  function tell() {
    const uid = pointed === null ? undefined : uids.find((one) => one.uid === pointed);
    setText(readout, uid ? describe(uid, uids) : summary(uids));
  }

  const redraw = () => (layout = draw(canvas, uids, holder.clientWidth));
  new ResizeObserver(redraw).observe(holder);
  document.addEventListener("theme", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  canvas.addEventListener("pointermove", (event) => {
    pointed = uidAt(layout, uids, event)?.uid ?? null;
    tell();
  });
  canvas.addEventListener("pointerleave", () => {
    pointed = null;
    tell();
  });
  canvas.addEventListener("click", (event) => {
    const uid = uidAt(layout, uids, event);
    if (uid) pick(uid.uid);
  });

  return (rows) => {
    uids = rows;
    redraw();
    canvas.setAttribute("aria-label", `Heat strip: ${summary(uids)} The table below has every number.`);
    tell();
    const [low, high] = rewardRange(uids);
    const most = Math.max(0, ...uids.map((uid) => uid.selections));
    const total = sum(uids);
    setText(
      scaleText,
      total || low !== null
        ? `Above: share of selections, 0 to ${percent(total ? most / total : 0, 2)}. Below: mean reward, ${plain(low)} to ${plain(high)}; hatched where there is none. A mark on top: the row was reset.`
        : "",
    );
  };
}

const sum = (uids) => uids.reduce((total, uid) => total + uid.selections, 0);

function summary(uids) {
  if (!uids.length) return "No uids yet.";
  const asked = uids.filter((uid) => uid.selections > 0);
  const resets = uids.filter((uid) => uid.resets > 0).length;
  const away = uids.filter((uid) => !uid.available).length;
  if (!asked.length) return `${plural(uids.length, "uid")}; none has been asked yet.`;
  const top = asked.reduce((most, uid) => (uid.selections > most.selections ? uid : most));
  return `${count(asked.length)} of ${plural(uids.length, "uid")} were asked, most of all uid ${top.uid} (${percent(top.selections / sum(uids))}); ${count(resets)} reset, ${count(away)} not available.`;
}

function describe(uid, uids) {
  const share = sum(uids) ? percent(uid.selections / sum(uids), 2) : "–";
  const resets = uid.resets ? `, reset ${plural(uid.resets, "time")}` : "";
  return `uid ${uid.uid} ${uid.hotkey}: ${count(uid.selections)} selections (${share}), mean reward ${plain(uid.mean_reward)} of ${plural(uid.rewards, "reward")}${resets}${uid.available ? "" : ", not available"}`;
}

function rewardRange(uids) {
  const known = uids.map((uid) => uid.mean_reward).filter((mean) => mean !== null);
  return known.length ? [Math.min(...known), Math.max(...known)] : [null, null];
}

function draw(canvas, uids, width) {
  if (!uids.length || !width) return null;
  const columns = Math.min(uids.length, Math.max(1, Math.floor(width / LEAST_CELL)));
  const lines = Math.ceil(uids.length / columns);
  const cell = { width: width / columns, height: lines > 1 ? 8 : 26 };
  const band = lines * (cell.height + GAP);
  const layout = { columns, lines, cell, band, top: 8, between: 6 };
  const height = layout.top + 2 * band + layout.between;
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const colours = Object.fromEntries(
    ["heat-empty", "heat-share", "heat-reward", "heat-none", "mark"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
  paint(pen, uids, layout, colours);
  return layout;
}

function paint(pen, uids, layout, colours) {
  const { columns, cell, band, top, between } = layout;
  const most = Math.max(1, ...uids.map((uid) => uid.selections));
  const [low, high] = rewardRange(uids);
  const gap = cell.width > 3 ? GAP : 0;
  uids.forEach((uid, at) => {
    const x = (at % columns) * cell.width;
    const y = top + Math.floor(at / columns) * (cell.height + GAP);
    // The eye tells small shares apart by their square root.
    box(pen, x, y, cell.width - gap, cell.height, colours["heat-empty"], colours["heat-share"], Math.sqrt(uid.selections / most));
    const y2 = y + band + between;
    if (uid.mean_reward === null) {
      hatch(pen, x, y2, cell.width - gap, cell.height, colours);
    } else {
      const level = high > low ? (uid.mean_reward - low) / (high - low) : 1;
      box(pen, x, y2, cell.width - gap, cell.height, colours["heat-empty"], colours["heat-reward"], 0.12 + 0.88 * level);
    }
    if (uid.resets > 0) mark(pen, x, y, cell, gap, colours.mark, layout.lines);
  });
}

function box(pen, x, y, width, height, ground, colour, strength) {
  pen.globalAlpha = 1;
  pen.fillStyle = ground;
  pen.fillRect(x, y, width, height);
  pen.globalAlpha = strength;
  pen.fillStyle = colour;
  pen.fillRect(x, y, width, height);
  pen.globalAlpha = 1;
}

function hatch(pen, x, y, width, height, colours) {
  pen.fillStyle = colours["heat-empty"];
  pen.fillRect(x, y, width, height);
  pen.strokeStyle = colours["heat-none"];
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x, y + height);
  pen.lineTo(x + width, y);
  pen.stroke();
}

function mark(pen, x, y, cell, gap, colour, lines) {
  pen.fillStyle = colour;
  if (lines > 1) {
    pen.fillRect(x, y, cell.width - gap, 2);
    return;
  }
  const middle = x + (cell.width - gap) / 2;
  pen.beginPath();
  pen.moveTo(middle - 3, 1);
  pen.lineTo(middle + 3, 1);
  pen.lineTo(middle, 6);
  pen.fill();
}

function uidAt(layout, uids, event) {
  if (!layout) return null;
  const { columns, lines, cell, band, top, between } = layout;
  let y = event.offsetY - top;
  if (y > band) y -= band + between;
  const line = Math.floor(y / (cell.height + GAP));
  const column = Math.floor(event.offsetX / cell.width);
  return line >= 0 && line < lines && column < columns ? uids[line * columns + column] ?? null : null;
}
