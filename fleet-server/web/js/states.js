// The states of a scan in words, and its outcome in a sentence.

import { count, duration, int, plural, sentence } from "./format.js";

const STATES = {
  queued: { word: "Waiting", look: "wait", over: false },
  running: { word: "Running", look: "live", over: false },
  completed: { word: "Completed", look: "good", over: true },
  partial: { word: "Partial", look: "part", over: true },
  failed: { word: "Failed", look: "bad", over: true },
  canceled: { word: "Canceled", look: "off", over: true },
  expired: { word: "Expired", look: "off", over: true },
};

/** A state of the wire (`SCAN_STATE_RUNNING`, `running`) as its short name. */
export function stateName(state) {
  const name = String(state ?? "").replace(/^SCAN_STATE_/, "").toLowerCase();
  return name in STATES ? name : "queued";
}

/** A state's word and look, and whether the scan is over. */
export function stateOf(state) {
  return STATES[stateName(state)];
}

/** The outcome as `{ headline, reason, facts }`, from a ledger in the shape of the event stream. */
export function outcomeOf(ledger) {
  const state = stateName(ledger.state ?? ledger.outcome);
  const found = plural(ledger.identified, "device");
  const within = `${found} identified among ${plural(ledger.targets, "target")} in ${duration(ledger.elapsed_ms)}`;
  const kept = int(ledger.identified) ? `: the ${found} found until then ${int(ledger.identified) === 1 ? "is" : "are"} kept.` : ".";
  const headline = {
    completed: `Completed: ${within}.`,
    partial: `Completed in part: ${within}, but something was left out.`,
    failed: `Failed after ${duration(ledger.elapsed_ms)}${kept}`,
    canceled: `Canceled after ${duration(ledger.elapsed_ms)}${kept}`,
    expired: "Expired: its node did not come in time.",
  }[state] ?? `${STATES[state].word}.`;
  const facts = [
    ledger.first_device_ms === undefined || ledger.first_device_ms === null ? "" : `first device after ${duration(ledger.first_device_ms)}`,
    int(ledger.rejected) ? `${count(ledger.rejected)} of ${plural(ledger.reported, "report")} rejected` : "",
  ].filter(Boolean).join(", ");
  return { headline, reason: sentence(ledger.reason), facts: sentence(facts) };
}
