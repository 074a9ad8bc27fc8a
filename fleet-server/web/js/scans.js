// The list of scans: those that are open, the schedules, and the history.

import { attempt, may, poll, title } from "./app.js";
import { busy, confirmDialog, errorBox } from "./dialog.js";
import { announce, foreign, h, show } from "./dom.js";
import { isolate } from "./format.js";
import { grid } from "./grid.js";
import { listNodes } from "./nodes.js";
import { repeatScan } from "./prefill.js";
import { freshRequestId } from "./request.js";
import { call } from "./rpc.js";
import { ACTIVE_COLUMNS, activeRow, HISTORY_COLUMNS, historyRow, scanTitle } from "./scanrows.js";
import { schedulesSection } from "./schedules.js";
import { choiceOf } from "./shares.js";
import { liveState } from "./states.js";

const PAGE = 50;
/** The most scans beyond the first page that are read again at once. More than a node's queue holds. */
const OPEN_SCANS = 100;
/** A lost node must be visible within two seconds, which includes the request. */
const POLL_MS = 1500;

/** Shows the list of scans. */
export function scansView(root) {
  title("Scans");
  const manage = may("fleetnode:manage");
  const error = errorBox();
  const scheduled = schedulesSection(error);
  const active = grid({ kind: "active", label: "Active scans, newest first", columns: ACTIVE_COLUMNS });
  const history = grid({ kind: "scans", label: "Ended scans, newest first", columns: HISTORY_COLUMNS });
  const loading = h("p", { class: "loading" }, "Loading scans…");
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No scans yet"),
    h("p", {}, "A scan finds the devices on the network of one of your nodes."),
    manage ? h("a", { class: "button button-primary", href: "#/scans/new" }, "Start a scan") : null);
  const older = h("button", { type: "button", class: "button", hidden: true }, "Show older scans");
  const section = (id, label, table, after) => h("section", { class: "scan-section", "aria-labelledby": id, hidden: true }, h("h2", { id }, label), table.element, after);
  const activeSection = section("active-title", "Active", active);
  const historySection = section("history-title", "History", history, h("div", { class: "more" }, older));
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Scans"),
      manage ? h("a", { class: "button button-primary", href: "#/scans/new", id: "new-scan" }, "New scan") : null),
    error.element, loading, empty, activeSection, scheduled.element, historySection);

  /** @type {Map<string, any>} The rows by scan, newest first. */
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
    for (const scan of [...scans].reverse()) add(scan, true);
    await refreshOlder(new Set(scans.map((scan) => scan.scanId)));
    if (closed) return;
    if (first) {
      next = nextBefore;
      show(older, Boolean(next));
    }
    loading.remove();
    update();
  }

  /** Reads the scans again that are not on the first page and have not ended. Ended ones do not change. */
  async function refreshOlder(onFirstPage) {
    const open = [...rows.values()].filter((row) => !onFirstPage.has(row.scan.scanId) && !liveState(row.scan).over);
    await Promise.all(open.slice(0, OPEN_SCANS).map(async (row) => {
      const { scan } = await call("fleet.v1.ScanService/GetScan", { scanId: row.scan.scanId });
      if (scan) add(scan, true);
    }));
  }

  function add(scan, onTop) {
    const { over } = liveState(scan);
    const known = rows.get(scan.scanId);
    if (known && known.over === over) {
      known.scan = scan;
      return;
    }
    // A scan that ended moves to the history, and the focus with it.
    const focused = known?.element.contains(document.activeElement);
    known?.element.remove();
    const row = over ? historyRow(history, scan, historyActions(scan)) : activeRow(active, scan, activeActions(scan));
    rows.set(scan.scanId, row);
    const table = over ? history : active;
    if (onTop) table.prepend(row.element);
    else table.append([row.element]);
    if (focused) row.element.querySelector("a")?.focus();
  }

  function update() {
    const all = [...rows.values()];
    const scans = all.map(({ scan }) => scan);
    for (const row of all) row.update(nodes.get(String(row.scan.fleetNodeId)), scans);
    show(empty, all.length === 0);
    show(activeSection, all.some(({ over }) => !over));
    show(historySection, all.some(({ over }) => over) || Boolean(next));
  }

  function button(label, scan, work, look = "") {
    const element = h("button", { type: "button", class: `button button-small ${look}`, "aria-label": `${label}: ${isolate(scanTitle(scan))}` }, label);
    element.addEventListener("click", () => work(element));
    return element;
  }

  const clone = (scan) => button("Clone", scan, () => {
    repeatScan(rows.get(scan.scanId)?.scan ?? scan);
    location.hash = "#/scans/new";
  }, "button-quiet");

  function activeActions(scan) {
    if (!manage) return [];
    const cancel = button("Cancel", scan, async (element) => {
      const agreed = await confirmDialog({
        title: ["Cancel the scan “", foreign(scanTitle(scan)), "”?"],
        body: "The node stops scanning. The devices found so far are kept.",
        action: "Cancel scan", cancel: "Keep scanning", danger: true,
      });
      if (!agreed) return;
      await attempt(error, () => busy(element, async () => {
        await call("fleet.v1.ScanService/CancelScan", { scanId: scan.scanId });
        announce("Scan canceled.");
        await refresh();
      }));
    }, "button-danger-outline");
    return [clone(scan), cancel];
  }

  function historyActions(scan) {
    if (!manage) return [];
    const again = button("Run again", scan, (element) => attempt(error, () => busy(element, async () => {
      await call("fleet.v1.ScanService/StartScan", {
        requestId: freshRequestId(), ...choiceOf(scan), request: scan.request,
        ...(scan.name ? { name: scan.name } : {}),
      });
      announce("Scan started.");
      await refresh();
    })));
    return [again, clone(scan)];
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
