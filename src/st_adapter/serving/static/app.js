// The page: a video comes in, is sent, and its answer is shown.

import { ask } from "./api.js";
import { clipName, closeCamera, openCamera, record } from "./camera.js";
import { clamp, count, find, show } from "./dom.js";
import { closeVideo, describeVideo, openVideo } from "./player.js";
import { addTimelines, clearResults, noteTime, showAnswer, summary } from "./results.js";
import { chosenTasks, showTasks } from "./tasks.js";

const TOP = 8;  // labels with a bar
const LONG = 1.5;  // a video this many times longer than training clips gets a timeline

const state = { tasks: [], limits: {}, video: null, job: null, watching: null };

// The same text again would be read out again.
function say(text) { if (find("status").textContent !== text) find("status").textContent = text; }

function showError(text) { find("error").textContent = text; }

/** Show how far the work is: a share of 1, or null if nobody knows. */
function showProgress(share) {
  const bar = find("progress");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

/** Ask for the token in the page, and return what was entered. */
function askForToken(refused) {
  const [form, input] = [find("token-form"), find("token")];
  show(form);
  if (refused) showError("The token is not right.");
  input.focus();
  return new Promise(resolve => {
    form.onsubmit = event => {
      event.preventDefault();
      show(form, false);
      showError("");
      resolve(input.value.trim());
      input.value = "";
    };
  });
}

function post(path, fields, signal) {
  const form = new FormData();
  for (const [name, value] of fields) {
    if (value instanceof Blob) form.append(name, value, fileName(value));
    else form.append(name, value);
  }
  const onProgress = share => {
    showProgress(share < 1 ? share : null);
    if (share === 1 && !state.watching) say("The server reads the video…");
  };
  const onWait = seconds => {
    showProgress(null);
    say(`The server is busy. Sending again in ${seconds} s…`);
  };
  return ask("POST", path, { form, signal, onProgress, onWait, askForToken });
}

const fileName = video => video.name ?? clipName(video);

/**
 * Send a video and show its answer. Errors are shown, too.
 *
 * @returns whether there was an answer.
 */
async function classify(video, { watching = false } = {}) {
  const names = chosenTasks();
  const refusal = reasonAgainst(video, names);
  if (refusal) { showError(refusal); return false; }
  const signal = beginJob(watching);
  try {
    if (!watching) openVideo(video);
    await answer(video, names.map(name => ["task", name]), signal, watching);
    return true;
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
    if (!signal.aborted || signal === state.job?.signal) say(error.name === "AbortError" ? "Cancelled." : "");
    return false;
  } finally {
    if (signal === state.job?.signal) endJob();
  }
}

async function answer(video, tasks, signal, watching) {
  if (!watching) say("Sending the video…");
  const found = await post("v1/predict", [["file", video], ["top", TOP], ["frames", true], ...tasks], signal);
  showAnswer(found, state.tasks, !watching);
  describeVideo(found.video.seconds, found.frames ?? []);
  say(summary(found));
  const long = watching ? [] : tasks.filter(([, name]) => isLong(found.video.seconds, name));
  if (!long.length) return;
  noteTime("Looking for what happens when…");
  try {
    const { results } = await post("v1/timeline", [["file", video], ...long], signal);
    addTimelines(results);
  } finally {
    noteTime("");
    say(summary(found));
  }
}

function isLong(seconds, name) {
  const window = state.tasks.find(task => task.name === name)?.window_seconds;
  return Boolean(window) && seconds > LONG * window;
}

function reasonAgainst(video, names) {
  const most = state.limits?.megabytes;
  if (!names.length) return "Choose at least one task.";
  if (most && video.size > most * 1e6) {
    return `${fileName(video)} has ${Math.ceil(video.size / 1e6)} MB; this server takes up to ${most} MB.`;
  }
  return null;
}

function beginJob(watching) {
  state.job?.abort();
  state.job = new AbortController();
  showError("");
  if (!watching) {
    clearResults();
    show(find("work"));
    showProgress(0);
  }
  return state.job.signal;
}

function endJob() {
  state.job = null;
  show(find("work"), false);
}

/** Take the first of the files that a person chose, dropped or pasted. */
function take(files) {
  const [video] = files;
  if (!video) return;
  stopWatching();
  state.video = video;
  find("h-video").textContent = video.name;
  document.body.classList.add("has-video");
  show(find("again"));
  classify(video).then(() => {
    if (files.length > 1) say(`${find("status").textContent} (the first of ${count(files.length, "file")})`);
  });
}

/** Record from the camera and send; clip after clip while that is asked for. */
async function watch() {
  state.job?.abort();
  showError("");
  try {
    const stream = await openCamera();
    state.watching = new AbortController();
    beginWatching(stream);
    try {
      await watchStream(stream, state.watching);
    } finally {
      state.watching = null;
      closeCamera(stream);
      endWatching();
    }
  } catch (error) {
    showError(error.message);
  }
}

async function watchStream(stream, watching) {
  const onSecond = left => { find("camera-note").textContent = `Recording, ${count(left, "second")} left`; };
  let [clip, answered] = [null, Promise.resolve(true)];
  do {
    clip = await record(stream, clipSeconds(), watching.signal, onSecond);
    // One clip is under way at a time: a slow server gets fewer clips, not a queue of them.
    if (!await answered || watching.discarded) return;
    if (find("keep").checked && !watching.signal.aborted) answered = classify(clip, { watching: true });
  } while (find("keep").checked && !watching.signal.aborted);
  state.watching = null;
  take([new File([clip], clipName(clip), { type: clip.type })]);
}

function beginWatching(stream) {
  closeVideo();
  clearResults();
  find("h-video").textContent = "Camera";
  document.body.classList.add("has-video");
  find("live").srcObject = stream;
  find("live").play().catch(() => {});
  ["stage", "live", "camera-bar"].forEach(id => show(find(id)));
  show(find("drop"), false);
  find("camera-stop").focus();
}

function endWatching() {
  find("live").srcObject = null;
  ["live", "camera-bar"].forEach(id => show(find(id), false));
  show(find("drop"));
  if (!state.video) show(find("stage"), false);
}

/** Leave the camera without a clip, because there is another video now. */
function stopWatching() {
  if (!state.watching) return;
  state.watching.discarded = true;
  state.watching.abort();
  state.watching = null;
}

/** As long as the clips of training, within what a person waits for. */
function clipSeconds() {
  const windows = state.tasks.filter(task => chosenTasks().includes(task.name)).map(task => task.window_seconds ?? 3);
  return Math.round(clamp(Math.max(3, ...windows), 3, 10));
}

function listenForFiles() {
  const [input, drop] = [find("file"), find("drop")];
  find("choose").onclick = () => input.click();
  input.onchange = () => { take([...input.files]); input.value = ""; };
  addEventListener("paste", event => take([...event.clipboardData.files]));
  // A video may be dropped anywhere; else the browser would leave the page and open it.
  addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) drop.classList.remove("over"); });
  addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

async function loadTasks() {
  const { tasks, errors = [], limits = {} } = await ask("GET", "v1/tasks", { askForToken });
  Object.assign(state, { tasks, limits });
  showTasks(tasks, errors);
}

async function start() {
  listenForFiles();
  find("camera").onclick = watch;
  find("camera-stop").onclick = () => state.watching?.abort();
  find("cancel").onclick = () => state.job?.abort();
  find("again").onclick = () => classify(state.video);
  // A server can get and lose tasks while it runs.
  document.onvisibilitychange = () => { if (!document.hidden) loadTasks().catch(() => {}); };
  try {
    await loadTasks();
  } catch (error) {
    showError(error.message);
  }
}

start();
