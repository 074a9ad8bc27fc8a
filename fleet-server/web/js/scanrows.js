// The rows of the list of scans: an open scan with its progress, and an ended scan with its result and its changes.

import { foreign, h, setText, setTime, show, timeAgo } from "./dom.js";
import { count, date, duration, int, isolate, plural } from "./format.js";
import { summary } from "./request.js";
import { liveState, scansAhead, waitingText } from "./states.js";

export const ACTIVE_COLUMNS = [
  { name: "what", label: "Scan" },
  { name: "node", label: "Node" },
  { name: "by", label: "Started by" },
  { name: "state", label: "State" },
  { name: "progress", label: "Progress" },
  { name: "actions", label: "Actions" },
];

export const HISTORY_COLUMNS = [
  { name: "what", label: "Scan" },
  { name: "node", label: "Node" },
  { name: "by", label: "Started by" },
  { name: "state", label: "State" },
  { name: "result", label: "Result" },
  { name: "started", label: "Started" },
  { name: "actions", label: "Actions" },
];

/** Describes a scan in a few words: its name, or its targets. */
export function scanTitle(scan) {
  return scan.name || summary(scan.request);
}

/** Describes the changes since the previous scan: `new 3, moved 2, missing 1`. */
export function changesText(changes) {
  if (!changes) return "";
  const parts = [["new", changes.new], ["moved", changes.moved], ["changed", changes.changed], ["missing", changes.missing]];
  const texts = parts.filter(([, number]) => int(number)).map(([word, number]) => `${word} ${count(number)}`);
  // Without an earlier scan every device is new, which says nothing.
  if (!changes.againstScanId) return "first scan of these targets";
  return texts.length ? texts.join(", ") : "no changes";
}

function head(scan) {
  const link = h("bdi", {});
  const targets = h("bdi", {});
  const about = h("span", { class: "hint scan-note", hidden: true }, targets);
  const note = h("span", { class: "hint scan-note", hidden: true });
  const badge = h("span", { class: "badge" });
  return {
    badge,
    node: h("bdi", {}),
    by: foreign(scan.startedBy ?? ""),
    what: [h("a", { class: "row-link", href: `#/scans/${scan.scanId}` }, link), about, note],
    update(current, node, why) {
      setText(link, scanTitle(current));
      setText(targets, summary(current.request));
      show(about, Boolean(current.name));
      setText(note, why);
      show(note, Boolean(why));
      const state = liveState(current, node);
      setText(badge, state.word);
      badge.className = `badge badge-${state.look}`;
      const shares = current.shares ?? [];
      setText(this.node, shares.length > 1 ? plural(shares.length, "node") : current.nodeName || String(current.fleetNodeId));
    },
  };
}

/** A row of an open scan. `actions` is a list of buttons. */
export function activeRow(table, first, actions) {
  const parts = head(first);
  const bar = h("progress", { max: "1", value: "0", "aria-label": `Progress of ${isolate(scanTitle(first))}` });
  const text = h("span", { class: "hint" });
  const row = {
    scan: first,
    over: false,
    element: table.row({ what: parts.what, node: parts.node, by: parts.by, state: parts.badge, progress: [bar, text], actions: h("span", { class: "actions" }, actions) },
      { class: "row-clickable", "data-scan": first.scanId }),
    update(node, scans) {
      const { scan } = row;
      const progress = scan.progress ?? {};
      const [done, total] = [int(progress.done), int(progress.total)];
      parts.update(scan, node, waitingText({ scan, node, ahead: scansAhead(scan, scans), describe: scanTitle }));
      const state = liveState(scan, node);
      if (state.look === "live" && total) setText(parts.badge, `${state.word} ${Math.floor((done / total) * 100)} %`);
      bar.value = total ? done / total : 0;
      setText(text, total ? `${count(done)} of ${count(total)}` : "–");
    },
  };
  return row;
}

/** A row of an ended scan. */
export function historyRow(table, first, actions) {
  const parts = head(first);
  const found = h("span", { class: "result-found" });
  const changes = h("a", { class: "scan-note result-changes", href: `#/scans/${first.scanId}/changes/new`, hidden: true });
  const started = timeAgo(first.createdAt);
  const took = h("span", { class: "hint scan-note" });
  const row = {
    scan: first,
    over: true,
    element: table.row({ what: parts.what, node: parts.node, by: parts.by, state: parts.badge, result: [found, changes], started: [started, took], actions: h("span", { class: "actions" }, actions) },
      { class: "row-clickable", "data-scan": first.scanId }),
    update() {
      const { scan } = row;
      parts.update(scan, undefined, "");
      const ledger = scan.ledger ?? {};
      const targets = ledger.targetsUnknown ? "an unknown number" : count(ledger.targets ?? scan.progress?.total);
      setText(found, `${count(ledger.identified)} of ${targets}`);
      setText(changes, changesText(scan.changes));
      changes.setAttribute("aria-label", `Changes of ${isolate(scanTitle(scan))}: ${changes.textContent}`);
      show(changes, Boolean(changes.textContent));
      setTime(started, scan.createdAt);
      setText(took, date(scan.startedAt) ? `took ${duration(ledger.elapsedMs)}` : "");
    },
  };
  return row;
}
