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

/**
 * Repeats `work` while the page is visible, one call at a time. Returns a function that stops it. With `quiet`, the
 * caller shows connection failures itself.
 */
export function poll(milliseconds, work, { quiet = false } = {}) {
  let stopped = false;
  let working = false;
  let timer = 0;
  async function run() {
    clearTimeout(timer);
    if (stopped || working) return;
    if (!document.hidden) {
      working = true;
      try {
        await work();
        if (!stopped && !quiet) banner("");
      } catch (error) {
        if (stopped) return;
        if (!handledSignOut(error) && error.offline && !quiet) banner("The server cannot be reached. This page may be out of date. Retrying…");
      } finally {
        working = false;
      }
    }
    if (!stopped) timer = setTimeout(run, milliseconds);
  }
  function wake() {
    if (!document.hidden) run();
  }
  document.addEventListener("visibilitychange", wake);
  window.addEventListener("online", wake);
  timer = setTimeout(run, milliseconds);
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", wake);
    window.removeEventListener("online", wake);
    if (!quiet) banner("");
  };
}

/** Shows or hides the header and the footer. */
export function frame(visible) {
  show(document.getElementById("header"), visible);
  show(document.getElementById("footer"), visible);
}
