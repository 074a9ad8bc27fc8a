// The list of scans, newest first.

import { attempt, may, poll, title } from "./app.js";
import { busy, errorBox } from "./dialog.js";
import { h, setText, setTime, show, timeAgo } from "./dom.js";
import { count, date, duration, int } from "./format.js";
import { grid } from "./grid.js";
import { listNodes } from "./nodes.js";
import { summary } from "./request.js";
import { call } from "./rpc.js";
import { schedulesSection } from "./schedules.js";
import { liveState, scansAhead, waitingText } from "./states.js";

const PAGE = 50;
/** The most scans beyond the first page that are read again at once. More than a node's queue holds. */
const OPEN_SCANS = 100;
/** A lost node must be visible within two seconds, which includes the request. */
const POLL_MS = 1500;

const COLUMNS = [
  { name: "state", label: "State" },
  { name: "what", label: "Target" },
  { name: "node", label: "Node" },
  { name: "found", label: "Found / targets" },
  { name: "started", label: "Started" },
  { name: "took", label: "Duration" },
];

/** Shows the list of scans. */
export function scansView(root) {
  title("Scans");
  const manage = may("fleetnode:manage");
  const error = errorBox();
  const scheduled = schedulesSection(error);
  const table = grid({ kind: "scans", label: "Scans, newest first", columns: COLUMNS });
  const loading = h("p", { class: "loading" }, "Loading scans…");
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No scans yet"),
    h("p", {}, "A scan finds the devices on the network of one of your nodes."),
    manage ? h("a", { class: "button button-primary", href: "#/scans/new" }, "Start a scan") : null);
  const older = h("button", { type: "button", class: "button", hidden: true }, "Show older scans");
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Scans"),
      manage ? h("a", { class: "button button-primary", href: "#/scans/new", id: "new-scan" }, "New scan") : null),
    error.element, scheduled.element, loading, empty, table.element, h("div", { class: "more" }, older));
  show(table.element, false);

  const rows = new Map();
  const nodes = new Map();
  let next = "";
  let closed = false;

  async function page(before) {
    const { scans = [], nextBefore = "" } = await call("fleet.v1.ScanService/ListScans", { limit: PAGE, before });
    return { scans, nextBefore };
  }

  async function refresh() {
    const [{ scans, nextBefore }, current] = await Promise.all([page(""), listNodes()]);
    if (closed) return;
    error.clear();
    for (const node of current) nodes.set(String(node.fleetNodeId), node);
    const first = rows.size === 0;
    // Oldest first, because each new scan is inserted at the top.
    for (const scan of first ? scans : [...scans].reverse()) add(scan, !first);
    await refreshOlder(new Set(scans.map((scan) => scan.scanId)));
    if (closed) return;
    if (first) {
      next = nextBefore;
      show(older, Boolean(next));
    }
    loading.remove();
    show(empty, rows.size === 0);
    show(table.element, rows.size > 0);
    update();
  }

  /** Reads the scans again that are not on the first page and have not ended. Ended ones do not change. */
  async function refreshOlder(onFirstPage) {
    const open = [...rows.values()].filter((row) => !onFirstPage.has(row.scan.scanId) && !liveState(row.scan).over);
    await Promise.all(open.slice(0, OPEN_SCANS).map(async (row) => {
      const { scan } = await call("fleet.v1.ScanService/GetScan", { scanId: row.scan.scanId });
      if (scan) row.scan = scan;
    }));
  }

  function add(scan, onTop) {
    const known = rows.get(scan.scanId);
    if (known) {
      known.scan = scan;
      return;
    }
    const row = scanRow(table, scan);
    rows.set(scan.scanId, row);
    if (onTop) table.prepend(row.element);
    else table.append([row.element]);
  }

  function update() {
    const scans = [...rows.values()].map(({ scan }) => scan);
    for (const row of rows.values()) row.update(nodes.get(String(row.scan.fleetNodeId)), scans);
  }

  older.addEventListener("click", () => attempt(error, () => busy(older, async () => {
    const { scans, nextBefore } = await page(next);
    if (closed) return;
    for (const scan of scans) add(scan, false);
    next = nextBefore;
    show(older, Boolean(next));
    update();
  })));

  const stop = poll(POLL_MS, refresh, { failed: (failure) => { loading.remove(); error.show(failure); } });
  return () => {
    closed = true;
    stop();
    scheduled.stop();
  };
}

function scanRow(table, first) {
  const badge = h("span", { class: "badge" });
  const link = h("bdi", {});
  const anchor = h("a", { class: "row-link", href: `#/scans/${first.scanId}` }, link);
  const note = h("span", { class: "hint scan-note", hidden: true });
  const started = timeAgo(first.createdAt);
  const cells = { state: badge, what: [anchor, note], node: h("bdi", {}), found: h("span", {}), started, took: h("span", {}) };
  const row = {
    scan: first,
    element: table.row(cells, { class: "row-clickable" }),
    update(node, scans) {
      const { scan } = row;
      const state = liveState(scan, node);
      const progress = scan.progress ?? {};
      const targets = int(scan.ledger?.targets ?? progress.total);
      const percent = int(progress.total) ? ` ${Math.floor((int(progress.done) / int(progress.total)) * 100)} %` : "";
      const why = state.over ? "" : waitingText({ scan, node, ahead: scansAhead(scan, scans), describe: (one) => summary(one.request) });
      setText(badge, state.look === "live" ? `${state.word}${percent}` : state.word);
      badge.className = `badge badge-${state.look}`;
      setText(link, summary(scan.request));
      setText(note, why);
      show(note, Boolean(why));
      setText(cells.node, scan.nodeName || String(scan.fleetNodeId));
      setText(cells.found, scan.ledger ? `${count(scan.ledger.identified)} / ${scan.ledger.targetsUnknown ? "unknown" : count(targets)}` : targets ? `… / ${count(targets)}` : "–");
      setTime(started, scan.createdAt);
      setText(cells.took, scan.ledger ? duration(scan.ledger.elapsedMs) : date(scan.startedAt) ? duration(progress.elapsedMs) : "–");
    },
  };
  return row;
}
