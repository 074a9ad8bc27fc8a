// A scan's events, each once and in order, whatever the connection does. Knows nothing of the page.

import { refusalOf } from "./rpc.js";

/** Silence after which the connection is tried anew: signs of life come every 15 s, but scripts are not told of them. */
const SILENCE_MS = 60_000;
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;

/**
 * Follows a scan until its ledger. `on` has `event(message, sequence)`, `live()`, `lost()` and `refused(error)`;
 * `refused` is final, `lost` is followed by `live` sooner or later. Returns what stops it.
 */
export function followScan(scanId, on) {
  let source = null;
  let last = 0;
  let attempts = 0;
  let stopped = false;
  let retry = 0;
  let watchdog = 0;
  let trouble = 0;

  function connect() {
    clearTimeout(retry);
    source?.close();
    if (stopped) return;
    // After a break the browser itself would send Last-Event-ID, but it gives up on refusals and knows nothing of
    // silence: so the cursor is ours.
    const url = `/api/scans/${encodeURIComponent(scanId)}/events${last ? `?after=${last}` : ""}`;
    const current = new EventSource(url);
    source = current;
    listenForSilence();
    current.onopen = () => {
      clearTimeout(trouble);
      attempts = 0;
      on.live();
    };
    current.onmessage = (event) => {
      if (source === current) receive(event);
    };
    current.onerror = () => {
      if (stopped || source !== current) return;
      current.close();
      again(url);
    };
  }

  function receive(event) {
    listenForSilence();
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

  function again(url) {
    clearTimeout(watchdog);
    clearTimeout(trouble);
    // The first break is usually mended before anyone needs to know.
    trouble = setTimeout(() => { if (!stopped) on.lost(); }, attempts === 0 ? 1200 : 0);
    attempts += 1;
    const wait = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** (attempts - 1));
    retry = setTimeout(async () => {
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
    }, wait * (0.5 + Math.random() / 2));
  }

  function listenForSilence() {
    clearTimeout(watchdog);
    watchdog = setTimeout(connect, SILENCE_MS);
  }

  function comeBack() {
    if (!stopped && source?.readyState !== EventSource.OPEN) connect();
  }

  function stop() {
    stopped = true;
    clearTimeout(retry);
    clearTimeout(watchdog);
    clearTimeout(trouble);
    source?.close();
    window.removeEventListener("online", comeBack);
  }

  window.addEventListener("online", comeBack);
  connect();
  return stop;
}
