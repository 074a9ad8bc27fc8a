// Texts for the states and the outcome of a scan.

import { count, duration, int, plural, sentence } from "./format.js";

const STATES = {
  queued: { word: "Queued", look: "wait", over: false },
  running: { word: "Running", look: "live", over: false },
  completed: { word: "Completed", look: "good", over: true },
  partial: { word: "Partial", look: "part", over: true },
  failed: { word: "Failed", look: "bad", over: true },
  canceled: { word: "Canceled", look: "off", over: true },
  expired: { word: "Expired", look: "off", over: true },
};

/** Converts a state of the API (`SCAN_STATE_RUNNING`, `running`) to its short name. */
export function stateName(state) {
  const name = String(state ?? "").replace(/^SCAN_STATE_/, "").toLowerCase();
  return name in STATES ? name : "queued";
}

/** Returns the label and the look of a state, and whether the scan has ended. */
export function stateOf(state) {
  return STATES[stateName(state)];
}

/** Describes the outcome as `{ headline, reason, facts }`. The ledger has the names of the event stream. */
export function outcomeOf(ledger) {
  const state = stateName(ledger.state ?? ledger.outcome);
  const found = plural(ledger.identified, "device");
  const within = `${found} identified in ${plural(ledger.targets, "target")}, ${duration(ledger.elapsed_ms)}`;
  const kept = int(ledger.identified) ? `. The ${found} found before that ${int(ledger.identified) === 1 ? "is" : "are"} kept.` : ".";
  const headline = {
    completed: `Completed: ${within}.`,
    partial: `Partially completed: ${within}. Some targets were not scanned.`,
    failed: `Failed after ${duration(ledger.elapsed_ms)}${kept}`,
    canceled: `Canceled after ${duration(ledger.elapsed_ms)}${kept}`,
    expired: "Expired: the node did not connect in time.",
  }[state] ?? `${STATES[state].word}.`;
  const facts = [
    ledger.first_device_ms === undefined || ledger.first_device_ms === null ? "" : `first device after ${duration(ledger.first_device_ms)}`,
    int(ledger.rejected) ? `${count(ledger.rejected)} of ${plural(ledger.reported, "report")} rejected` : "",
  ].filter(Boolean).join(", ");
  return { headline, reason: sentence(ledger.reason), facts: sentence(facts) };
}
