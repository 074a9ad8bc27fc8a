// What every view shares: who is signed in, and the way to the sign-in when the session is over.

import { setText, show } from "./dom.js";
import { isSignedOut } from "./rpc.js";

/** The signed-in operator as `GET /api/session` tells it; null before. */
let session = null;
let signedOut = () => {};

export function setSession(value) {
  session = value;
}

/** Who is signed in. */
export function currentOperator() {
  return session;
}

/** Whether the operator may do something, `fleetnode:manage` for instance. */
export function may(permission) {
  return Boolean(session?.permissions?.includes(permission));
}

/** Sets what happens when the server says that nobody is signed in. */
export function onSignedOut(handler) {
  signedOut = handler;
}

/** Leads to the sign-in when that is what an error means. Returns whether it did. */
export function handledSignOut(error) {
  if (!isSignedOut(error)) return false;
  signedOut();
  return true;
}

/** Shows one line above everything, or takes it away with an empty text. */
export function banner(text) {
  const element = document.getElementById("banner");
  setText(element, text);
  element.classList.toggle("banner-on", Boolean(text));
}

/** Names the page in the tab. */
export function title(text) {
  const wanted = text ? `${text} · Fleet` : "Fleet";
  if (document.title !== wanted) document.title = wanted;
}

/**
 * Repeats work while the page is looked at, never twice at once. Returns what stops it. `quiet` leaves the banner to
 * the caller.
 */
export function poll(milliseconds, work, { quiet = false } = {}) {
  let stopped = false;
  let working = false;
  let timer = 0;
  async function turn() {
    clearTimeout(timer);
    if (stopped || working) return;
    if (!document.hidden) {
      working = true;
      try {
        await work();
        if (!stopped && !quiet) banner("");
      } catch (error) {
        if (stopped) return;
        if (!handledSignOut(error) && error.offline && !quiet) banner("The server cannot be reached. What you see may be old; trying again.");
      } finally {
        working = false;
      }
    }
    if (!stopped) timer = setTimeout(turn, milliseconds);
  }
  function wake() {
    if (!document.hidden) turn();
  }
  document.addEventListener("visibilitychange", wake);
  window.addEventListener("online", wake);
  timer = setTimeout(turn, milliseconds);
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", wake);
    window.removeEventListener("online", wake);
    if (!quiet) banner("");
  };
}

/** Shows or hides the frame around the views. */
export function frame(visible) {
  show(document.getElementById("header"), visible);
  show(document.getElementById("footer"), visible);
}
