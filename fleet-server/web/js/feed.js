// Delivers the events of a scan once and in order, across lost connections. Does not use the DOM.

import { refusalOf } from "./rpc.js";

/** Reconnect after this time without an event. Heartbeats arrive every 15 s, but the browser does not report them to scripts. */
const SILENCE_MS = 60_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;

/**
 * Follows a scan until its ledger arrives. `on` has `event(message, sequence)`, `live()`, `lost()` and
 * `refused(error)`. `refused` is final; after `lost` the connection is retried until `live` is called. Returns a
 * function that stops it.
 */
export function followScan(scanId, on) {
  let source = null;
  let last = 0;
  let attempts = 0;
  let stopped = false;
  let retry = 0;
  let watchdog = 0;
  let lastEventAt = 0;
  let lostTimer = 0;

  function connect() {
    clearTimeout(retry);
    source?.close();
    if (stopped) return;
    // The browser would resume by Last-Event-ID, but it stops after an error response and does not detect a silent
    // connection. Therefore the cursor is in the URL.
    const url = `/api/scans/${encodeURIComponent(scanId)}/events${last ? `?after=${last}` : ""}`;
    const current = new EventSource(url);
    source = current;
    restartWatchdog();
    current.onopen = () => {
      clearTimeout(lostTimer);
      attempts = 0;
      on.live();
    };
    current.onmessage = (event) => {
      if (source === current) receive(event);
    };
    current.onerror = () => {
      if (stopped || source !== current) return;
      current.close();
      retryLater(url);
    };
  }

  function receive(event) {
    restartWatchdog();
    let message;
    try {
      message = JSON.parse(event.data);
    } catch {
      return;
    }
    if (message.type !== "progress") {
      const sequence = Number(event.lastEventId || message.seq || 0);
      if (sequence && sequence <= last) return;
      if (sequence) last = sequence;
    }
    if (message.type === "ledger") stop();
    on.event(message, last);
  }

  function retryLater(url) {
    stopWatchdog();
    clearTimeout(lostTimer);
    // The first interruption is usually over before it is worth reporting.
    lostTimer = setTimeout(() => { if (!stopped) on.lost(); }, attempts === 0 ? 1200 : 0);
    attempts += 1;
    const wait = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** (attempts - 1));
    retry = setTimeout(async () => {
      // One failure is usually a lost connection, which needs no further request.
      if (attempts > 1) {
        const error = await refusalOf(url);
        if (stopped) return;
        if (error && !error.offline && error.status >= 400 && error.status < 500 && error.status !== 429) {
          stop();
          on.refused(error);
          return;
        }
      }
      connect();
    // Spread, because after a restart of the server every open page reconnects.
    }, wait * (0.5 + Math.random() / 2));
  }

  /** Starts the time of silence again. A timer for each of thousands of events would cost a tenth of their handling. */
  function restartWatchdog() {
    lastEventAt = performance.now();
    if (!watchdog) watchdog = setTimeout(watch, SILENCE_MS);
  }

  function watch() {
    watchdog = 0;
    const rest = lastEventAt + SILENCE_MS - performance.now();
    if (rest > 0) watchdog = setTimeout(watch, rest);
    else connect();
  }

  function stopWatchdog() {
    clearTimeout(watchdog);
    watchdog = 0;
  }

  function reconnect() {
    if (!stopped && source?.readyState !== EventSource.OPEN) connect();
  }

  function stop() {
    stopped = true;
    clearTimeout(retry);
    stopWatchdog();
    clearTimeout(lostTimer);
    source?.close();
    window.removeEventListener("online", reconnect);
  }

  window.addEventListener("online", reconnect);
  connect();
  return stop;
}
