// Requests to the server: progress of uploads, errors in the server's words, waiting, the token.

import { clamp } from "./dom.js";

const TOKEN = "st-adapter-token";
const MOST_TRIES = 5;

export class ApiError extends Error {
  constructor(message, status = 0, retrySeconds = null) {
    super(message);
    Object.assign(this, { status, retrySeconds });
  }
}

export const keepToken = token => sessionStorage.setItem(TOKEN, token);

/**
 * Send a request and return its answer. It is sent again when the server was busy and says when it
 * will not be, and when a token was missing.
 *
 * `options`: `form` to send, `signal` to cancel, `onProgress(share)` of the upload,
 * `onWait(seconds)` while the server is busy, `askForToken(refused, signal)` to get a token and keep it.
 */
export async function ask(method, path, options) {
  for (let tries = 1; ; tries++) {
    try {
      return await send(method, path, options);
    } catch (error) {
      if (error.status === 401) {
        const refused = sessionStorage.getItem(TOKEN) !== null;
        await options.askForToken(refused, options.signal);
      } else if (error.status === 503 && error.retrySeconds !== null && tries < MOST_TRIES) {
        await countDown(error.retrySeconds, options);
      } else {
        throw error;
      }
    }
  }
}

// XMLHttpRequest tells how much of an upload has been sent; fetch does not.
function send(method, path, { form, signal, onProgress }) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    const cancelled = () => reject(new DOMException("cancelled", "AbortError"));
    if (signal?.aborted) return cancelled();
    call.open(method, path);
    const token = sessionStorage.getItem(TOKEN);
    if (token !== null) call.setRequestHeader("Authorization", `Bearer ${token}`);
    call.upload.onprogress = event => onProgress?.(event.loaded / event.total);
    call.onload = () => {
      if (call.status === 200) resolve(JSON.parse(call.responseText));
      else reject(toError(call));
    };
    call.onerror = () => reject(new ApiError(brokenMessage(form)));
    call.onabort = cancelled;
    signal?.addEventListener("abort", () => call.abort());
    call.send(form);
  });
}

// A server that refuses a large upload closes the connection, often before its reason is read.
const brokenMessage = form => (form
  ? "The connection broke. The server may have stopped, or the file is larger than it takes."
  : "The server does not answer. Is it still running?");

function toError(call) {
  let message = `The server answered ${call.status} ${call.statusText}`;
  try {
    message = JSON.parse(call.responseText).error ?? message;
  } catch { /* a proxy in between answers with a page of its own */ }
  const seconds = parseInt(call.getResponseHeader("Retry-After"), 10);
  return new ApiError(message, call.status, Number.isNaN(seconds) ? null : clamp(seconds, 1, 120));
}

async function countDown(seconds, { signal, onWait }) {
  for (let left = seconds; left > 0; left--) {
    onWait?.(left);
    await new Promise(resolve => setTimeout(resolve, 1000));
    signal?.throwIfAborted();
  }
}
