// Texts for the states and the outcome of a scan.

import { count, date, duration, int, isolate, plural, relative, sentence } from "./format.js";

const STATES = {
  queued: { word: "Queued", look: "wait", over: false },
  running: { word: "Running", look: "live", over: false },
  completed: { word: "Completed", look: "good", over: true },
  partial: { word: "Partial", look: "part", over: true },
  failed: { word: "Failed", look: "bad", over: true },
  canceled: { word: "Canceled", look: "off", over: true },
  expired: { word: "Expired", look: "off", over: true },
};

/** The position in the queue by the number of scans before. */
const ORDINALS = ["second", "third", "fourth", "fifth"];

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
  const within = `${found} identified in ${ledger.targets_unknown ? "an unknown number of targets" : plural(ledger.targets, "target")}, ${duration(ledger.elapsed_ms)}`;
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

/** The scans of the same node that are before `scan`: the running one, then the queue (interactive scans first). */
export function scansAhead(scan, scans) {
  const rank = (one) => (stateName(one.state) === "running" ? 0 : String(one.priority ?? "").endsWith("SCHEDULED") ? 2 : 1);
  const before = (a, b) => rank(a) - rank(b) || Number(date(a.createdAt)) - Number(date(b.createdAt));
  return scans
    .filter((one) => one.scanId !== scan.scanId && String(one.fleetNodeId) === String(scan.fleetNodeId) && !stateOf(one.state).over)
    .filter((one) => before(one, scan) < 0)
    .sort(before);
}

/** Returns the badge of a scan that is not over. `node` is undefined while the nodes are unknown. */
export function liveState(scan, node) {
  const state = stateOf(scan.state);
  if (state.over || !node || node.connected) return state;
  return { ...state, word: state.look === "live" ? "Waiting for node" : state.word, look: "wait" };
}

/** Describes the node of a scan in one line, such as `barn-2 is connected.` Empty while the node is unknown. */
export function nodeLine(scan, node, now = Date.now()) {
  if (!node) return "";
  const name = isolate(node.name || scan.nodeName || `node ${scan.fleetNodeId}`);
  if (node.connected) return `${name} is connected.`;
  const ago = node.lastSeenAt ? ` ${duration(Math.floor(Math.max(0, now - Number(date(node.lastSeenAt))) / 1000) * 1000).replace(/\.0+ s$/, " s")} ago` : "";
  return `${name} disconnected${ago}.`;
}

/**
 * Explains why a scan makes no progress; empty if it does or is over. `ahead` are the scans before it, `describe` names
 * one of them, and `now` is the current time.
 */
export function waitingText({ scan, node, ahead = [], describe, now = Date.now() }) {
  const state = stateName(scan.state);
  const since = (timestamp) => duration(Math.floor(Math.max(0, now - Number(date(timestamp) ?? now)) / 1000) * 1000).replace(/(\.0+) s$/, " s");
  const name = isolate(scan.nodeName || node?.name || `node ${scan.fleetNodeId}`);
  const seen = node?.lastSeenAt ? `${since(node.lastSeenAt)} ago` : "";
  if (state === "running") {
    if (!node || node.connected) return "";
    return `${name} disconnected${seen ? ` ${seen}` : ""}. The scan continues by itself when the node reconnects.`;
  }
  if (state !== "queued") return "";
  const queued = `Queued for ${since(scan.createdAt)}`;
  const expires = scan.queuedUntil ? ` It expires ${relative(scan.queuedUntil, now)}.` : "";
  if (node && !node.connected) return `${queued}. ${name} is offline${seen ? `, last seen ${seen}` : ""}. The scan starts when the node reconnects.${expires}`;
  if (ahead.length > 0) {
    const first = ahead[0];
    const ordinal = ORDINALS[ahead.length - 1] ?? `${ahead.length + 1}th`;
    const total = int(first.progress?.total);
    const percent = stateName(first.state) === "running" && total ? `, ${Math.floor((int(first.progress?.done) / total) * 100)} %` : "";
    const others = ahead.length > 1 ? ` and ${plural(ahead.length - 1, "other scan")}` : "";
    return `${queued}: ${ordinal} in line, behind ${isolate(describe(first))} (${stateOf(first.state).word.toLowerCase()}${percent})${others}. It starts by itself.${expires}`;
  }
  return `${queued}. It starts as soon as ${name} is ready.`;
}
