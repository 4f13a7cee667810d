// The answer to one video: labels as bars, frames that were looked at, spans as a table.

import { clock, count, find, make, percent, show } from "./dom.js";
import { showChart, spansAt } from "./chart.js";
import { onMove, position, seek } from "./player.js";

const MOST_ROWS = 300;

const [tabs, panel] = ["tabs", "answer"].map(find);

// The task stays from one video to the next.
const shown = { answer: null, timelines: {}, task: null, tasks: new Map(), listener: () => {} };

export function clearResults() {
  Object.assign(shown, { answer: null, timelines: {} });
  ["answer-card", "time-card"].forEach(id => show(find(id), false));
}

/**
 * Show an answer of /v1/predict, and the task that was shown before, if it is among the results.
 * `withTime` is false for clips of a live camera, which is shown instead.
 */
export function showAnswer(answer, tasks, withTime) {
  const names = Object.keys(answer.results);
  const task = names.includes(shown.task) ? shown.task : names[0];
  const byName = new Map(tasks.map(each => [each.name, each]));
  Object.assign(shown, { answer, timelines: {}, tasks: byName });
  show(find("answer-card"));
  show(find("time-card"), withTime);
  showFrames(answer.frames);
  showTask(task);
}

export const shownTask = () => shown.task;

export const videoSeconds = () => shown.answer.video.seconds;

export const hasTimeline = task => task in shown.timelines;

/** Call `listener(task)` when a person looks at another task. */
export const onTask = listener => { shown.listener = listener; };

function chooseTask(task) {
  showTask(task);
  shown.listener(task);
}

/** Add results of /v1/timeline. */
export function addTimelines(timelines) {
  Object.assign(shown.timelines, timelines);
  showTask(shown.task);
}

/** Say what is written below the axis in place of spans. */
export const noteTime = text => { find("time-note").textContent = text; };

/** What a screen reader should say about the answer. */
export function summary({ results }) {
  return Object.entries(results).map(([name, result]) => `${name}: ${verdict(result)}`).join("; ");
}

function showTask(task) {
  shown.task = task;
  const { results, video, frames } = shown.answer;
  showTabs(Object.keys(results));
  panel.replaceChildren(...describe(results[task], shown.tasks.get(task)));
  const timeline = shown.timelines[task];
  const [first, ...others] = Object.keys(results);
  const several = others.length > 0;
  find("h-frames").textContent = `Frames that the model saw${several ? ` for ${first}` : ""}`;
  find("h-answer").textContent = timeline ? "Answer for the whole video" : "Answer";
  find("h-time").textContent = `Over time${several ? `: ${task}` : ""}`;
  showChart(video.seconds, frames.map(frame => frame.seconds), timeline);
  showSpans(timeline?.spans);
  showNow(position());
}

function showTabs(names) {
  const focused = tabs.contains(document.activeElement);
  show(tabs, names.length > 1);
  tabs.replaceChildren(...names.map((name, i) => make("button", {
    id: `tab-${i}`, role: "tab", "aria-selected": name === shown.task, "aria-controls": "answer",
    tabIndex: name === shown.task ? 0 : -1, onclick: () => chooseTask(name),
  }, make("b", {}, name), make("span", {}, verdict(shown.answer.results[name])))));
  const selected = tabs.querySelector("[aria-selected=true]");
  panel.role = names.length > 1 ? "tabpanel" : "group";
  panel.setAttribute("aria-labelledby", names.length > 1 ? selected.id : "h-answer");
  if (focused) selected.focus();
}

tabs.addEventListener("keydown", event => {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const names = Object.keys(shown.answer.results);
  if (!(event.key in steps)) return;
  event.preventDefault();
  chooseTask(names.at((names.indexOf(shown.task) + steps[event.key]) % names.length));
});

const listed = predicted => (typeof predicted === "string" ? predicted : predicted.join(", "));

const verdict = ({ predicted }) => listed(predicted) || "no label";

/** Elements that say what was predicted, and bars of scores. */
function describe(result, task) {
  const heads = Object.entries(result.heads ?? {});
  const isOne = typeof result.predicted === "string";
  const best = isOne && result.scores.find(({ label }) => label === result.predicted);
  const said = make("p", { className: "verdict" },
    make("b", {}, listed(result.predicted) || "No label"),
    ...(best ? [" ", make("span", {}, percent(best.score))] : []));
  const threshold = task?.kind === "multi" ? task.threshold ?? 0.5 : null;
  const why = threshold === null ? [] : [make("p", { className: "quiet small" },
    `${result.predicted.length ? "Labels" : "No label"} with at least ${percent(threshold)}.`)];
  if (!heads.length) {
    return [said, ...why, bars(result.scores, [result.predicted].flat(), threshold)];
  }
  return [said, ...heads.flatMap(([name, scores], i) => [
    make("h3", {}, name), bars(scores, [result.predicted[i]], null)])];
}

function bars(scores, predicted, threshold) {
  return make("ul", { className: "bars" }, ...scores.map(({ label, score }) => {
    const fill = make("i", { className: "fill" });
    fill.style.width = `${100 * score}%`;
    const track = make("span", { className: "track", "aria-hidden": true }, fill);
    if (threshold !== null) {
      const mark = track.appendChild(make("i", { className: "threshold" }));
      mark.style.left = `${100 * threshold}%`;
    }
    return make("li", { className: predicted.includes(label) ? "own" : "" },
      make("span", { className: "name" }, label), track,
      make("span", { className: "value" }, percent(score)));
  }));
}

function showFrames(frames) {
  show(find("frames-box"), frames.length > 0);
  find("frames").replaceChildren(...frames.map(({ seconds, image }) => make("li", {},
    make("button", { onclick: () => seek(seconds), "aria-label": `Frame at ${clock(seconds)}` },
      make("img", { src: image, alt: "" }), make("span", {}, clock(seconds))))));
}

let rows = [];

function showSpans(spans) {
  show(find("spans-box"), Boolean(spans?.length));
  noteTime(spans && !spans.length ? "No label holds at any time of this video." : "");
  const first = (spans ?? []).slice(0, MOST_ROWS);
  rows = first.map(span => ({ span, row: spanRow(span) }));
  find("spans").replaceChildren(...rows.map(({ row }) => row));
  const cut = spans && spans.length > first.length ? `, the first ${first.length} of them` : "";
  find("h-spans").textContent = count(spans?.length ?? 0, "span") + cut;
}

function spanRow({ label, start_seconds, end_seconds, score }) {
  const start = clock(start_seconds);
  const play = () => {
    seek(start_seconds, true);
    find("stage").scrollIntoView({ block: "nearest" });
  };
  const button = { className: "link", onclick: play, "aria-label": `${start}, play ${label}` };
  const texts = [clock(end_seconds), (end_seconds - start_seconds).toFixed(1), percent(score)];
  return make("tr", {}, make("th", { scope: "row" }, label),
    make("td", {}, make("button", button, start)), ...texts.map(text => make("td", {}, text)));
}

/** Tell the labels at the playhead, as a line and as a mark in the table. */
function showNow(seconds) {
  const labels = spansAt(seconds).map(({ label, score }) => `${label} ${percent(score)}`);
  find("now").textContent = [clock(seconds), ...labels].join("  ·  ");
  for (const { span, row } of rows) {
    row.classList.toggle("current", span.start_seconds <= seconds && seconds < span.end_seconds);
  }
}

onMove(showNow);
