// State and helpers that all views share: the signed-in operator, the banner, the title, polling.

import { setText, show } from "./dom.js";
import { isSignedOut } from "./rpc.js";

/** The response of `GET /api/session`; null while nobody is signed in. */
let session = null;
let signedOut = () => {};

export function setSession(value) {
  session = value;
}

/** Returns the signed-in operator, or null. */
export function currentOperator() {
  return session;
}

/** Returns whether the operator holds a permission such as `fleetnode:manage`. */
export function may(permission) {
  return Boolean(session?.permissions?.includes(permission));
}

/** Sets the handler for a session that has ended. */
export function onSignedOut(handler) {
  signedOut = handler;
}

/** Opens the sign-in view if the error means that the session has ended. Returns whether it did. */
export function handledSignOut(error) {
  if (!isSignedOut(error)) return false;
  signedOut();
  return true;
}

/** Shows a line over the page; an empty text hides it. */
export function banner(text) {
  const element = document.getElementById("banner");
  setText(element, text);
  element.classList.toggle("banner-on", Boolean(text));
}

/** Sets the title of the browser tab. */
export function title(text) {
  const wanted = text ? `${text} · Fleet` : "Fleet";
  if (document.title !== wanted) document.title = wanted;
}

/** Interval between two attempts while the server cannot be reached. */
const RETRY_MS = 2000;

/**
 * Runs `work` and repeats it every `milliseconds` while the page is visible, one call at a time. Returns a function
 * that stops it. With 0 milliseconds, `work` runs until it succeeds once. While the server cannot be reached, `work` is
 * retried and the banner says so; with `quiet`, the caller shows that itself. `failed` receives every other error.
 */
export function poll(milliseconds, work, { quiet = false, failed = (/** @type {any} */ _error) => {} } = {}) {
  let stopped = false;
  let working = false;
  let done = false;
  let offline = false;
  let timer = 0;
  async function run() {
    clearTimeout(timer);
    if (stopped || working || done) return;
    // A hidden tab costs the server nothing. `wake` continues when it is shown.
    if (!document.hidden) {
      working = true;
      try {
        await work();
        if (!stopped && offline && !quiet) banner("");
        offline = false;
        done = milliseconds === 0;
      } catch (error) {
        if (stopped || handledSignOut(error)) return;
        offline = Boolean(error.offline);
        if (offline && !quiet) banner("The server cannot be reached. This page may be out of date. Retrying…");
        if (!offline) failed(error);
        done = milliseconds === 0 && !offline;
      } finally {
        working = false;
      }
    }
    if (!stopped && !done) timer = setTimeout(run, offline || !milliseconds ? RETRY_MS : milliseconds);
  }
  function wake() {
    if (!document.hidden) run();
  }
  document.addEventListener("visibilitychange", wake);
  window.addEventListener("online", wake);
  run();
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", wake);
    window.removeEventListener("online", wake);
    if (offline && !quiet) banner("");
  };
}

/** Clears the error box, runs `work` and shows its error there. Returns whether it succeeded. */
export async function attempt(error, work) {
  error.clear();
  try {
    await work();
    return true;
  } catch (failure) {
    if (!handledSignOut(failure)) error.show(failure);
    return false;
  }
}

/** Shows or hides the header and the footer. */
export function frame(visible) {
  show(document.getElementById("header"), visible);
  show(document.getElementById("footer"), visible);
}
