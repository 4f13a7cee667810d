// The camera: open it, and record clips from it.

// In the order of preference; Safari records only mp4.
const TYPES = ["video/webm;codecs=vp8", "video/webm", "video/mp4"];

const REASONS = {
  NotAllowedError: "The browser did not allow the camera. Allow it in the settings of this page.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera cannot be read; another program may be using it.",
};

/** Ask for the camera and return its stream. Errors say what a person can do. */
export async function openCamera() {
  if (!navigator.mediaDevices || !window.MediaRecorder) {
    throw new Error("Browsers allow the camera only on localhost and on https pages.");
  }
  try {
    const video = { width: { ideal: 640 }, facingMode: "environment" };
    return await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera could not be opened: ${error.message}`);
  }
}

export const closeCamera = stream => stream.getTracks().forEach(track => track.stop());

/** Record a clip of some seconds, or until `signal` is aborted. `onSecond` counts what is left. */
export function record(stream, seconds, signal, onSecond) {
  return new Promise((resolve, reject) => {
    const mimeType = TYPES.find(type => MediaRecorder.isTypeSupported(type));
    const recorder = new MediaRecorder(stream, { mimeType });
    const parts = [];
    let left = seconds;
    const stop = () => { if (recorder.state !== "inactive") recorder.stop(); };
    const timer = setInterval(() => { onSecond(--left); if (left <= 0) stop(); }, 1000);
    recorder.ondataavailable = event => parts.push(event.data);
    recorder.onerror = event => { clearInterval(timer); reject(event.error); };
    recorder.onstop = () => {
      clearInterval(timer);
      resolve(new Blob(parts, { type: recorder.mimeType }));
    };
    signal.addEventListener("abort", stop);
    onSecond(left);
    recorder.start();
  });
}

/** A file name for a clip, with the ending of its format. */
export const clipName = clip => `camera.${clip.type.startsWith("video/mp4") ? "mp4" : "webm"}`;
