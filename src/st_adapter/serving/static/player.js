// Where in the video we are: in the player or, if the browser cannot play it, in pictures of it.

import { clamp, find, show } from "./dom.js";

const [stage, video, picture, note] = ["stage", "player", "picture", "video-note"].map(find);

const state = { address: null, playable: true, seconds: 0, duration: 0, frames: [], listeners: [] };

/** Call `listener(seconds)` whenever the position changes. */
export const onMove = listener => state.listeners.push(listener);

export const position = () => state.seconds;

/** Show a video of the user. */
export function openVideo(blob) {
  closeVideo();
  state.address = URL.createObjectURL(blob);
  video.src = state.address;
  show(stage);
  show(video);
}

export function closeVideo() {
  if (state.address) URL.revokeObjectURL(state.address);
  Object.assign(state, { address: null, playable: true, seconds: 0, duration: 0, frames: [] });
  video.removeAttribute("src");
  [stage, video, picture, note].forEach(element => show(element, false));
}

/** Tell the player what the server read: how long the video is, and pictures from it. */
export function describeVideo(duration, frames) {
  Object.assign(state, { duration, frames });
  if (!state.playable) showPictures();
}

/** Go to a time in seconds; also start to play there, if asked to. */
export function seek(seconds, andPlay = false) {
  // The last frame starts before the end; at the very end, players show nothing or start again.
  const target = clamp(seconds, 0, Math.max(0, state.duration - 0.02));
  if (state.playable && state.address) {
    video.currentTime = target;
    if (andPlay) video.play().catch(() => {});
  } else {
    showNearestPicture(target);
  }
  move(target);
}

function move(seconds) {
  state.seconds = seconds;
  state.listeners.forEach(listener => listener(seconds));
}

function showNearestPicture(seconds) {
  if (!state.frames.length) return;
  const distance = frame => Math.abs(frame.seconds - seconds);
  const nearest = state.frames.reduce((a, b) => (distance(b) < distance(a) ? b : a));
  picture.src = nearest.image;
  picture.alt = `Frame at ${nearest.seconds.toFixed(1)} s`;
  show(stage);
  show(picture);
}

function giveUpPlaying() {
  if (!state.address) return;  // the address was removed, which is an error too
  state.playable = false;
  show(video, false);
  show(stage, false);
  if (state.frames.length) showPictures();
}

function showPictures() {
  note.textContent = "This browser cannot play this format. The frames that the model saw are shown.";
  show(note);
  seek(0);
}

// Events of time come four times a second. In between, the position is read before each repaint.
function follow() {
  if (video.paused) return;
  move(video.currentTime);
  requestAnimationFrame(follow);
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");
video.addEventListener("play", () => { if (!calm.matches) follow(); });
video.addEventListener("timeupdate", () => { if (!video.seeking) move(video.currentTime); });
video.addEventListener("error", giveUpPlaying);
// Of some formats, a browser plays only the sound.
video.addEventListener("loadeddata", () => { if (!video.videoWidth) giveUpPlaying(); });
