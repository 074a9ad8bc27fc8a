// The list of scans, newest first.

import { handledSignOut, may, poll, title } from "./app.js";
import { busy, errorBox } from "./dialog.js";
import { h, setText, show } from "./dom.js";
import { absolute, count, date, duration, int, relative } from "./format.js";
import { grid } from "./grid.js";
import { summary } from "./request.js";
import { call } from "./rpc.js";
import { stateOf } from "./states.js";

const PAGE = 50;

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
    error.element, loading, empty, table.element, h("div", { class: "more" }, older));
  show(table.element, false);

  const rows = new Map();
  let next = "";
  let closed = false;

  async function page(before) {
    const { scans = [], nextBefore = "" } = await call("fleet.v1.ScanService/ListScans", { limit: PAGE, before });
    return { scans, nextBefore };
  }

  async function refresh() {
    const { scans, nextBefore } = await page("");
    if (closed) return;
    error.clear();
    const first = rows.size === 0;
    // Oldest first, because each new scan is inserted at the top.
    for (const scan of first ? scans : [...scans].reverse()) {
      const known = rows.get(scan.scanId);
      if (known) known.update(scan);
      else add(scan, !first);
    }
    if (first) {
      next = nextBefore;
      show(older, Boolean(next));
    }
    loading.remove();
    show(empty, rows.size === 0);
    show(table.element, rows.size > 0);
  }

  function add(scan, onTop) {
    const row = scanRow(table);
    row.update(scan);
    rows.set(scan.scanId, row);
    if (onTop) table.prepend(row.element);
    else table.append([row.element]);
  }

  older.addEventListener("click", () => busy(older, async () => {
    try {
      const { scans, nextBefore } = await page(next);
      if (closed) return;
      for (const scan of scans) if (!rows.has(scan.scanId)) add(scan, false);
      next = nextBefore;
      show(older, Boolean(next));
    } catch (failure) {
      if (!handledSignOut(failure)) error.show(failure);
    }
  }));

  refresh().catch((failure) => {
    if (closed || handledSignOut(failure)) return;
    loading.remove();
    error.show(failure);
  });
  const stop = poll(3000, refresh);
  return () => {
    closed = true;
    stop();
  };
}

function scanRow(table) {
  const badge = h("span", { class: "badge" });
  const link = h("a", { class: "row-link" });
  const started = h("time", {});
  const cells = { state: badge, what: link, node: h("span", {}), found: h("span", {}), started, took: h("span", {}) };
  const element = table.row(cells, { class: "row-clickable" });
  return {
    element,
    update(scan) {
      const state = stateOf(scan.state);
      const progress = scan.progress ?? {};
      const targets = int(scan.ledger?.targets ?? progress.total);
      const percent = int(progress.total) ? ` ${Math.floor((int(progress.done) / int(progress.total)) * 100)} %` : "";
      setText(badge, state.look === "live" ? `${state.word}${percent}` : state.word);
      badge.className = `badge badge-${state.look}`;
      setText(link, summary(scan.request));
      link.href = `#/scans/${scan.scanId}`;
      setText(cells.node, scan.nodeName || String(scan.fleetNodeId));
      setText(cells.found, scan.ledger ? `${count(scan.ledger.identified)} / ${count(targets)}` : targets ? `… / ${count(targets)}` : "–");
      setText(started, relative(scan.createdAt));
      started.dateTime = scan.createdAt ?? "";
      started.title = absolute(scan.createdAt);
      setText(cells.took, scan.ledger ? duration(scan.ledger.elapsedMs) : date(scan.startedAt) ? duration(progress.elapsedMs) : "–");
    },
  };
}
