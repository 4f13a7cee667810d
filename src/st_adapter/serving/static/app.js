// The page: a video comes in, is sent, and its answer is shown.

import { ask, keepToken } from "./api.js";
import { clipName, closeCamera, openCamera, record } from "./camera.js";
import { clamp, count, find, show } from "./dom.js";
import { closeVideo, describeVideo, openVideo } from "./player.js";
import {
  addTimelines, clearResults, hasTimeline, noteTime, onTask, showAnswer, shownTask, summary,
  videoSeconds,
} from "./results.js";
import { chosenTasks, showTasks } from "./tasks.js";

const TOP = 8;  // labels with a bar
const LONG = 1.5;  // a video this many times longer than training clips gets a timeline

const state = { tasks: [], video: null, job: null, watching: null, token: null };

/** Say how the work goes. What can be seen elsewhere is `spoken`: only for screen readers. */
function say(text, spoken = false) {
  const status = find("status");
  status.classList.toggle("spoken", spoken || !text);
  if (status.textContent !== text) status.textContent = text;  // the same again would be read again
}

function showError(text) { find("error").textContent = text; }

/** Show how far the work is: a share of 1, or null if nobody knows. */
function showProgress(share) {
  const bar = find("progress");
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

/** Ask for the token in the page. All requests that lack it wait for the same answer. */
function askForToken(refused, signal) {
  if (refused) showError("The token is not right.");
  state.token ??= new Promise(resolve => {
    const [form, input] = [find("token-form"), find("token")];
    show(form);
    input.focus();
    form.onsubmit = event => {
      event.preventDefault();
      show(form, false);
      showError("");
      keepToken(input.value.trim());
      input.value = "";
      state.token = null;
      resolve();
    };
  });
  return Promise.race([state.token, new Promise((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason));
  })]);
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

/** Do what a person can cancel, and show errors. Returns whether it was done. */
async function work(doing, isSeen = true) {
  state.job?.abort();
  const job = new AbortController();
  state.job = job;
  showError("");
  show(find("work"), isSeen);
  showProgress(0);
  try {
    await doing(job.signal);
    return true;
  } catch (error) {
    const cancelled = error.name === "AbortError";
    if (!cancelled) showError(error.message);
    // Work that other work ended has nothing to say.
    if (job === state.job) say(cancelled ? "Cancelled." : "");
    return false;
  } finally {
    if (job === state.job) show(find("work"), false);
  }
}

/** Send a video of a file, and show it beside its answer. */
const classify = video => work(async signal => {
  clearResults();
  find("h-video").textContent = video.name;
  openVideo(video);
  say("Sending the video…");
  const answer = await predict(video, signal, true);
  showAnswer(answer, state.tasks, true);
  describeVideo(answer.video.seconds, answer.frames);
  say(summary(answer), true);
  if (needsTimeline(shownTask())) await addTimeline(shownTask(), signal);
});

/** Send a clip of the camera, which stays in view. */
const classifyLive = clip => work(async signal => {
  const answer = await predict(clip, signal, false);
  showAnswer(answer, state.tasks, false);
  say(summary(answer), true);
}, false);

async function predict(video, signal, frames) {
  const names = chosenTasks();
  if (!names.length) throw new Error("Choose at least one task.");
  const fields = [["file", video], ["top", TOP], ["frames", frames]];
  return post("v1/predict", [...fields, ...names.map(name => ["task", name])], signal);
}

/** Ask what one task says over time. The others are asked when they are looked at. */
async function addTimeline(name, signal) {
  noteTime("Looking for what happens when…");
  try {
    const fields = [["file", state.video], ["task", name]];
    addTimelines((await post("v1/timeline", fields, signal)).results);
    say("The timeline is there.", true);
  } catch (error) {
    if (signal === state.job.signal) noteTime("");
    throw error;
  }
}

function needsTimeline(name) {
  const window = state.tasks.find(task => task.name === name)?.window_seconds;
  return Boolean(window) && !hasTimeline(name) && videoSeconds() > LONG * window;
}

/** Take the first of the files that a person chose, dropped or pasted. */
function take(files) {
  const [video] = files;
  if (!video) return;
  stopWatching();
  state.video = video;
  document.body.classList.add("has-video");
  show(find("again"), state.tasks.length > 1);
  classify(video).then(() => {
    if (files.length > 1) say(`This is the first of ${count(files.length, "file")}.`);
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
    const clip = await watchStream(stream, state.watching).finally(() => endWatching(stream));
    if (clip) take([new File([clip], clipName(clip), { type: clip.type })]);
  } catch (error) {
    showError(error.message);
  }
}

/** Send clips, and return the last whole one to look at; null if it is no longer wanted. */
async function watchStream(stream, watching) {
  const onSecond = left => {
    find("camera-note").textContent = `Recording, ${count(left, "second")} left`;
  };
  for (let [last, answered] = [null, true]; ;) {
    const clip = await record(stream, clipSeconds(), watching.signal, onSecond);
    // One clip is under way at a time: a slow server gets fewer clips, not a queue of them.
    if (!await answered || watching.discarded) return null;
    if (watching.signal.aborted) return last ?? clip;  // the newest may have hardly a frame
    if (!find("keep").checked) return clip;
    answered = classifyLive(clip);
    last = clip;
  }
}

function beginWatching(stream) {
  closeVideo();
  clearResults();
  find("h-video").textContent = "Camera";
  document.body.classList.add("has-video");
  find("live").srcObject = stream;
  find("live").play().catch(() => {});
  ["stage", "live", "camera-bar"].forEach(id => show(find(id)));
  ["drop", "again"].forEach(id => show(find(id), false));
  find("camera-stop").focus();
}

function endWatching(stream) {
  closeCamera(stream);
  state.watching = null;
  find("live").srcObject = null;
  ["live", "camera-bar"].forEach(id => show(find(id), false));
  show(find("drop"));
  show(find("stage"), ["player", "picture"].some(id => !find(id).hidden));
}

/** Leave the camera without a clip, because there is another video now. */
function stopWatching() {
  if (!state.watching) return;
  state.watching.discarded = true;
  state.watching.abort();
}

/** As long as the clips of training, within what a person waits for. */
function clipSeconds() {
  const asked = state.tasks.filter(task => chosenTasks().includes(task.name));
  const longest = Math.max(...asked.map(task => task.window_seconds ?? 0), 0);
  return Math.round(clamp(longest, 3, 10));
}

function listenForFiles() {
  const [input, drop] = [find("file"), find("drop")];
  find("choose").onclick = () => input.click();
  input.onchange = () => { take([...input.files]); input.value = ""; };
  addEventListener("paste", event => take([...event.clipboardData.files]));
  // A video may be dropped anywhere; else the browser would leave the page and open it.
  addEventListener("dragover", event => { event.preventDefault(); drop.classList.add("over"); });
  addEventListener("dragleave", event => {
    if (!event.relatedTarget) drop.classList.remove("over");  // it left the page
  });
  addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

async function loadTasks() {
  const { tasks, errors } = await ask("GET", "v1/tasks", { askForToken });
  state.tasks = tasks;
  showTasks(tasks, errors);
}

async function start() {
  listenForFiles();
  find("camera").onclick = watch;
  find("camera-stop").onclick = () => state.watching?.abort();
  find("cancel").onclick = () => state.job?.abort();
  find("again").onclick = () => classify(state.video);
  onTask(name => {
    if (!state.watching && needsTimeline(name)) work(signal => addTimeline(name, signal));
  });
  // A server can get and lose tasks while it runs.
  document.onvisibilitychange = () => { if (!document.hidden) loadTasks().catch(() => {}); };
  try {
    await loadTasks();
  } catch (error) {
    showError(error.message);
  }
}

start();
