// The tasks of the server, and which of them are asked for.

import { count, find, make, percent, show } from "./dom.js";

const MOST_LABELS = 12;

let boxes = [];

/** List tasks, and those that did not load. Tasks chosen before stay chosen, and new ones are. */
export function showTasks(tasks, errors) {
  const left = new Set(boxes.filter(box => !box.checked).map(box => box.value));
  boxes = [];
  find("meta").replaceChildren(...facts(tasks).map(([name, value]) => (
    make("li", {}, `${name} `, make("b", {}, value)))));
  const entries = tasks.map(task => entry(task, tasks.length > 1, !left.has(task.name)));
  const items = [...entries, ...errors.map(failed)];
  find("tasks").replaceChildren(...items.map(parts => make("li", {}, ...parts)));
  show(find("tasks-card"));
}

/** Names of the chosen tasks; all, if there is only one. */
export const chosenTasks = () => boxes.filter(box => box.checked).map(box => box.value);

const facts = tasks => {
  const distinct = key => [...new Set(tasks.map(task => task[key]).filter(Boolean))].join(", ");
  const found = [["Image model", distinct("backbone")], ["Method", distinct("method")]];
  return found.filter(([, value]) => value);
};

const failed = ({ name, error }) => [
  make("b", {}, name), make("p", { className: "wrong small" }, `Not available: ${error}`)];

function entry(task, withBox, checked) {
  const box = make("input", { type: "checkbox", value: task.name, checked });
  boxes.push(box);
  const name = make("b", {}, task.name);
  const lines = labelLists(task).map(text => make("p", { className: "small" }, text));
  return [withBox ? make("label", {}, box, " ", name) : name, ...lines,
    make("p", { className: "quiet small" }, sampling(task))];
}

const labelLists = ({ labels, heads }) => (Object.keys(heads).length
  ? Object.entries(heads).map(([name, own]) => `${name}: ${labelList(own)}`) : [labelList(labels)]);

const labelList = labels => labels.slice(0, MOST_LABELS).join(", ")
  + (labels.length > MOST_LABELS ? ` and ${labels.length - MOST_LABELS} more` : "");

function sampling({ labels, frames, views, window_seconds, top1 }) {
  const clips = views[0] * views[1];
  const seen = clips > 1 ? `${clips} × ${frames} frames` : count(frames, "frame");
  const facts = [count(labels.length, "label"), seen];
  if (window_seconds) facts.push(`trained on clips of ${window_seconds.toFixed(1)} s`);
  if (typeof top1 === "number") facts.push(`top\u20111 accuracy ${percent(top1)}`);
  // Lines break between facts.
  return facts.map(fact => fact.replaceAll(" ", "\u00a0")).join(" · ");
}
