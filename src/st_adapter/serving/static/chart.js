// Scores and spans over time, on one axis that is also a slider for the position in the video.

import { clamp, clock, draw, find } from "./dom.js";
import { onMove, position, seek } from "./player.js";

const SERIES = 6;  // colours in style.css
const MOST_POINTS = 400;  // of a line; a mean of neighbouring windows would hide short moments
const TICK_SECONDS = [
  0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400,
];
const LETTER_WIDTH = 7;
const [LANE, BAR, AXIS] = [34, 12, 22];

const chart = find("chart");
const now = { seconds: 0, marks: [], timeline: null, lanes: [], playhead: null };

/** Show the axis of a video: the times that were looked at and, if there is one, its timeline. */
export function showChart(seconds, marks, timeline) {
  const lanes = timeline ? chooseLanes(timeline) : [];
  Object.assign(now, { seconds: Math.max(seconds, 0.1), marks, timeline, lanes });
  chart.setAttribute("aria-valuemin", 0);
  chart.setAttribute("aria-valuemax", now.seconds.toFixed(2));
  redraw();
}

/** The spans at a time, of the timeline that is shown. */
export const spansAt = seconds => (now.timeline?.spans ?? []).filter(
  span => span.start_seconds <= seconds && seconds < span.end_seconds);

/** One lane for each of the labels with the longest spans, and one for all others. */
function chooseLanes({ labels, spans, windows }) {
  const total = new Map();
  for (const { label, start_seconds, end_seconds } of spans) {
    total.set(label, (total.get(label) ?? 0) + end_seconds - start_seconds);
  }
  const highest = labels.map((_, i) => (
    windows.reduce((most, { scores }) => Math.max(most, scores[i]), 0)));
  const seconds = ({ name }) => total.get(name) ?? 0;
  const named = labels.map((name, index) => ({ name, index }))
    .filter(({ name }) => total.has(name) || !total.size)
    .sort((a, b) => seconds(b) - seconds(a) || highest[b.index] - highest[a.index]);
  const lanes = named.slice(0, SERIES).map(({ name, index }) => (
    { name, index, spans: spans.filter(span => span.label === name) }));
  const others = named.slice(SERIES).map(({ name }) => name);
  const rest = spans.filter(span => others.includes(span.label));
  if (rest.length) lanes.push({ name: `${others.length} other labels`, index: null, spans: rest });
  return lanes;
}

function redraw() {
  const width = chart.clientWidth;
  if (!width) return;
  const plot = now.timeline ? (width < 500 ? 120 : 170) : 0;
  const foot = plot + now.lanes.length * LANE + 16;
  const area = { left: plot ? 46 : 8, right: width - 14, plot, foot };
  const x = seconds => area.left + (area.right - area.left) * seconds / now.seconds;
  now.area = area;
  now.playhead = draw("line", { class: "playhead", y1: 2, y2: foot + 6 });
  const height = foot + AXIS;
  const viewBox = `0 0 ${width} ${height}`;
  chart.replaceChildren(draw("svg", { viewBox, height, "aria-hidden": true },
    ...(plot ? [...drawScale(area), ...drawLines(area, x)] : []),
    ...now.lanes.flatMap((lane, i) => drawLane(lane, area.plot + 4 + i * LANE, area, x)),
    ...drawAxis(area, x), ...drawMarks(area, x), now.playhead));
  movePlayhead(position());
}

function drawScale({ left, right, plot }) {
  return [0, 0.5, 1].flatMap(share => {
    const y = plotY(share, plot);
    const text = share === 1 ? "100 %" : `${100 * share}`;
    return [
      draw("line", { class: "grid-line", x1: left, x2: right, y1: y, y2: y }),
      draw("text", { class: "tick end", x: left - 6, y: y + 4 }, text),
    ];
  });
}

const plotY = (share, plot) => 10 + (plot - 20) * (1 - share);

function drawLines({ plot }, x) {
  const { windows } = now.timeline;
  const size = Math.ceil(windows.length / MOST_POINTS);
  return now.lanes.filter(lane => lane.index !== null).map(({ index }, i) => {
    const points = [];
    for (let first = 0; first < windows.length; first += size) {
      const group = windows.slice(first, first + size);
      const middle = (group[0].start_seconds + group.at(-1).end_seconds) / 2;
      const score = Math.max(...group.map(window => window.scores[index]));
      points.push([x(Math.min(middle, now.seconds)).toFixed(1), plotY(score, plot).toFixed(1)]);
    }
    return points.length === 1
      ? draw("circle", { class: `dot series-${i}`, cx: points[0][0], cy: points[0][1], r: 4 })
      : draw("polyline", { class: `line series-${i}`, points: points.join(" ") });
  }).reverse();  // the line of the most frequent label is drawn last, above the others
}

function drawLane(lane, top, { left, right }, x) {
  const letters = Math.floor((right - left) / LETTER_WIDTH);
  const name = lane.name.length > letters ? `${lane.name.slice(0, letters - 1)}…` : lane.name;
  const series = lane.index === null ? "series-rest" : `series-${now.lanes.indexOf(lane)}`;
  const place = { y: top + 18, height: BAR, rx: 2 };
  const rail = draw("rect", { ...place, class: "rail", x: left, width: right - left });
  const bars = lane.spans.map(span => draw("rect", {
    ...place, class: `bar ${series}`, x: x(span.start_seconds),
    width: Math.max(1.5, x(span.end_seconds) - x(span.start_seconds) - 1),
  }));
  return [rail, ...bars, draw("text", { class: "name", x: left, y: top + 13 }, name)];
}

function drawAxis({ left, right, foot }, x) {
  const most = clamp(Math.floor((right - left) / 80), 2, 10);
  const step = TICK_SECONDS.find(s => now.seconds / s <= most) ?? TICK_SECONDS.at(-1);
  const length = Math.floor(now.seconds / step + 1e-6) + 1;
  const ticks = Array.from({ length }, (_, i) => i * step);
  return [
    draw("line", { class: "axis", x1: left, x2: right, y1: foot, y2: foot }),
    ...ticks.flatMap(seconds => [
      draw("line", { class: "axis", x1: x(seconds), x2: x(seconds), y1: foot, y2: foot + 4 }),
      draw("text", { class: seconds ? "tick middle" : "tick", x: x(seconds), y: foot + 18 },
        clock(seconds, step < 1)),
    ]),
  ];
}

// A small triangle that stands on the axis for each frame that was looked at.
const drawMarks = ({ foot }, x) => now.marks.map(seconds => draw("path", {
  class: "mark", d: `M${x(seconds).toFixed(1)} ${foot}l-4 -8h8z`,
}));

function movePlayhead(seconds) {
  if (!now.area) return;
  const { left, right } = now.area;
  const x = left + (right - left) * clamp(seconds / now.seconds, 0, 1);
  now.playhead.setAttribute("transform", `translate(${x.toFixed(1)})`);
  const labels = spansAt(seconds).map(span => span.label);
  chart.setAttribute("aria-valuenow", seconds.toFixed(2));
  chart.setAttribute("aria-valuetext", [clock(seconds), ...labels].join(", "));
}

function seekToPointer(event) {
  const { left, right } = now.area;
  const x = event.clientX - chart.getBoundingClientRect().left;
  seek(now.seconds * clamp((x - left) / (right - left), 0, 1));
}

/** Where a key leads: a step, the ends, or the next span (without spans: frame looked at). */
function target(key) {
  const at = position();
  const step = clamp(now.seconds / 50, 0.1, 5);
  const spans = now.timeline?.spans ?? [];
  const starts = spans.length ? spans.map(span => span.start_seconds) : now.marks;
  switch (key) {
    case "ArrowRight": case "ArrowUp": return at + step;
    case "ArrowLeft": case "ArrowDown": return at - step;
    case "Home": return 0;
    case "End": return now.seconds;
    case "PageUp": return Math.min(...starts.filter(start => start > at + 0.05), now.seconds);
    case "PageDown": return Math.max(...starts.filter(start => start < at - 0.05), 0);
    default: return null;
  }
}

chart.addEventListener("keydown", event => {
  const seconds = target(event.key);
  if (seconds === null || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  seek(seconds);
});
chart.addEventListener("pointerdown", event => {
  chart.setPointerCapture(event.pointerId);
  seekToPointer(event);
});
chart.addEventListener("pointermove", event => {
  if (chart.hasPointerCapture(event.pointerId)) seekToPointer(event);
});
onMove(movePlayhead);
new ResizeObserver(redraw).observe(chart);
