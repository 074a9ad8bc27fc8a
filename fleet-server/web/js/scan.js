// One scan: its progress, the devices found, warnings, and after its end the outcome and the scan summary.

import { pairDevices, rescanDevices } from "./actions.js";
import { attempt, banner, currentOperator, handledSignOut, may, poll, title } from "./app.js";
import { groupLinks, loadCounts } from "./changes.js";
import { busy, confirmDialog, errorBox, restoreFocus } from "./dialog.js";
import { announce, fill, foreign, h, rich, setText, show, timeAgo } from "./dom.js";
import { followScan } from "./feed.js";
import { count, int, isolate, plural, running, sentence } from "./format.js";
import { hostName } from "./grid.js";
import { labelDialog } from "./labels.js";
import { ledgerOfScan, ledgerTable } from "./ledger.js";
import { listNodes } from "./nodes.js";
import { repeatScan } from "./prefill.js";
import { portSummary, summary } from "./request.js";
import { call } from "./rpc.js";
import { deviceRows } from "./rows.js";
import { scanTitle } from "./scanrows.js";
import { selection } from "./selection.js";
import { shareList, sharesOf } from "./shares.js";
import { liveState, nodeLine, outcomeOf, scansAhead, stateOf, waitingText } from "./states.js";
import { mapStrip } from "./strip.js";

/** Interval between two looks at the node and the queue. A lost node must be visible within two seconds. */
const POLL_MS = 1500;

/** Interval between announcements of the progress to screen readers. */
const ANNOUNCE_EVERY_MS = 15_000;

/** Events handled per frame. A connection can deliver thousands at once, which would block the page. */
const EVENTS_PER_FRAME = 300;

/** Unidentified hosts drawn. Thousands would block the page. */
const HOSTS_SHOWN = 200;

/** Shows a scan that is queued, running or over. */
export function scanView(root, scanId) {
  const parts = layout(root, scanId);
  const manage = may("fleetnode:manage");
  const chosen = selection({
    noun: "device",
    actions: [
      ...(may("miner:pair") ? [{ id: "pair-selected", label: "Pair", run: (items) => pairDevices(items, names).then(() => chosen.set([])) }] : []),
      ...(manage ? [{ id: "rescan-selected", label: "Scan again", run: (items, button) => rescanDevices(items, { error: parts.error, button }) }, { id: "label-selected", label: "Label", run: label }] : []),
    ],
  });
  const selectable = manage || may("miner:pair");
  const rows = deviceRows(parts.devices, parts.more, { chosen: selectable ? chosen : null, item: itemOf });
  const strip = mapStrip((prefix) => filterBy(prefix));
  /** @type {Map<string, string>} The names of the nodes. */
  const names = new Map();
  let scan = null;
  let state = stateOf("queued");
  let name = "Scan";
  let done = 0;
  let total = 0;
  let phase = "";
  let elapsed = 0;
  let elapsedAt = performance.now();
  let node;
  let ahead = [];
  let nodes = [];
  /** @type {any[]} Events that no frame has handled yet. */
  const waiting = [];
  let warnings = 0;
  // The unidentified hosts by address, each with its item; null if the list was full.
  const hosts = new Map();
  let announcedAt = performance.now();
  let over = false;
  let closed = false;
  let frame = 0;
  let unfollow = () => {};
  let unpoll = () => {};
  let unchanged = () => {};
  let unnamed = () => {};

  title("Scan");
  parts.strip.append(strip.element);
  parts.selection.append(chosen.bar);
  parts.filter.addEventListener("input", () => { strip.clear(); showFilter(); });

  /** A device as the actions need it. */
  function itemOf(device) {
    const node = int(device.fleet_node_id) ? device.fleet_node_id : scan?.fleetNodeId;
    return { deviceId: String(device.device_id), identifier: device.identifier, fleetNodeId: String(node ?? "0"), ip: device.ip };
  }

  async function label(items) {
    const change = await labelDialog(items);
    if (!change || closed) return;
    rows.relabel(items.map(({ deviceId }) => deviceId), change);
    chosen.set([]);
    schedule();
  }

  function filterBy(text) {
    parts.filter.value = text;
    showFilter();
  }

  function showFilter() {
    const matching = rows.filter(parts.filter.value, schedule);
    setText(parts.matching, parts.filter.value.trim() ? `${count(matching)} of ${plural(rows.count, "device")}` : "");
  }

  function describe(next) {
    scan = next;
    name = scan.name ? isolate(scan.name) : `Scan of ${isolate(summary(scan.request))}`;
    setText(parts.heading, name);
    strip.setRequest(scan.request);
    fill(parts.about,
      scan.name ? h("span", {}, foreign(summary(scan.request))) : null,
      sharesOf(scan).length > 0
        ? h("span", {}, h("strong", {}, count(scan.shares.length)), " nodes")
        : h("span", {}, "Node ", h("strong", {}, foreign(scan.nodeName || scan.fleetNodeId))),
      h("span", {}, portSummary(scan.request)),
      scan.request?.maxRate ? h("span", {}, `at most ${count(scan.request.maxRate)} probes/s`) : null,
      h("span", {}, "created ", timeAgo(scan.createdAt),
        scan.startedBy && scan.startedBy !== currentOperator()?.email ? [" by ", foreign(scan.startedBy)] : null),
      scan.openScope ? h("span", { title: "The node chose addresses or ports itself, so its reports could not be checked against a list." }, "open scope") : null);
    parts.shares.update(scan, nodes);
    if (!over) setState(stateOf(scan.state));
    const progress = scan.progress ?? {};
    setProgress(int(progress.done), int(progress.total), progress.phase, int(progress.elapsedMs));
    show(parts.cancel, manage && !state.over);
    show(parts.again, manage && state.over);
  }

  function setState(next) {
    state = next;
    schedule();
  }

  function setProgress(nextDone, nextTotal, nextPhase, nextElapsed) {
    // Polls and events can arrive in another order, and the bar must not go back.
    done = Math.max(done, nextDone);
    total = Math.max(total, nextTotal);
    phase = nextPhase || phase;
    if (nextElapsed > elapsed) {
      elapsed = nextElapsed;
      elapsedAt = performance.now();
    }
    schedule();
  }

  /** Keeps an event for the next frames. */
  function receive(message) {
    waiting.push(message);
    schedule();
  }

  function handle(message) {
    switch (message.type) {
      case "device":
        rows.add(message);
        strip.mark(message.ip, "identified");
        removeHost(message.ip);
        started();
        break;
      case "host":
        addHost(message);
        break;
      case "progress":
        setProgress(int(message.done), int(message.total), message.phase, int(message.elapsed_ms));
        started();
        break;
      case "warning":
        warnings += 1;
        show(parts.warnings, true);
        setText(parts.warningsTitle, warnings === 1 ? "1 warning" : `${count(warnings)} warnings`);
        // A faulty site can cause thousands, which would block the page.
        if (warnings <= 200) parts.warningList.append(h("li", {}, rich(sentence(message.text))));
        break;
      case "ledger":
        end(message);
        break;
      default:
        break;
    }
  }

  /** Lists an unidentified host. A chunk that runs again can report a host again. */
  function addHost(message) {
    if (hosts.has(message.ip)) return;
    strip.mark(message.ip, "unidentified");
    const item = parts.hostList.childElementCount < HOSTS_SHOWN ? hostItem(message) : null;
    hosts.set(message.ip, item);
    if (item) parts.hostList.append(item);
    countHosts();
  }

  /** Removes a host that a later report identified. */
  function removeHost(ip) {
    const item = hosts.get(ip);
    if (!hosts.delete(ip)) return;
    item?.remove();
    countHosts();
  }

  function countHosts() {
    setText(parts.hostsTitle, hosts.size === 1 ? "1 unidentified host" : `${count(hosts.size)} unidentified hosts`);
    show(parts.hosts, hosts.size > 0);
  }

  function started() {
    if (!over && state === stateOf("queued")) setState(stateOf("running"));
  }

  function end(ledger) {
    const first = !over;
    over = true;
    unpoll();
    setState(stateOf(ledger.state ?? ledger.outcome));
    const { headline, reason, facts } = outcomeOf(ledger);
    fill(parts.outcome, h("p", { class: "outcome-headline", id: "outcome" }, headline), reason ? h("p", { class: "outcome-reason" }, rich(reason)) : null, facts ? h("p", { class: "outcome-facts" }, facts) : null);
    fill(parts.ledger, h("h2", { id: "ledger-title" }, "Scan summary"), ledgerTable(ledger));
    parts.ledger.classList.remove("ledger-pending");
    // The actions on rows name the nodes.
    if (!names.size) unnamed = poll(0, async () => { for (const one of await listNodes()) names.set(String(one.fleetNodeId), one.name); }, { quiet: true });
    show(parts.live, false);
    show(parts.outcome, true);
    const focused = document.activeElement === parts.cancel;
    show(parts.cancel, false);
    show(parts.again, manage);
    if (focused) restoreFocus(parts.again);
    banner("");
    if (first) {
      announce(`${headline} ${reason}`);
      unchanged = poll(0, compare, { quiet: true });
      // The event has the outcome of the scan, and not that of each node.
      if (scan && sharesOf(scan).length > 0) load().catch(() => {});
    }
  }

  /** Shows how many devices are new, missing, moved and so on, and why a result is empty. */
  async function compare() {
    const { counts, against, explanation } = await loadCounts(scanId);
    if (closed) return;
    fill(parts.changes, h("h2", {}, against ? "Since the previous scan" : "Result"), groupLinks(scanId, counts),
      explanation ? h("p", { class: "notice", id: "explanation" }, rich(explanation)) : null);
    show(parts.changes, true);
  }

  function schedule() {
    // A replay delivers thousands of events, and one paint per frame is enough.
    if (!frame && !closed) frame = requestAnimationFrame(paint);
  }

  function paint() {
    frame = 0;
    for (const message of waiting.splice(0, EVENTS_PER_FRAME)) handle(message);
    if (waiting.length > 0) schedule();
    // A device event can precede the progress that includes its host.
    done = Math.max(done, Math.min(rows.hosts, total));
    const found = rows.count;
    const shown = over ? state : liveState({ state: stateKey(), fleetNodeId: scan?.fleetNodeId }, node);
    setText(parts.badge, shown.word);
    parts.badge.className = `badge badge-${shown.look}`;
    parts.panel.dataset.state = shown.look;
    paintWaiting();
    const percent = total ? Math.min(100, Math.floor((done / total) * 100)) : 0;
    if (over || state.look === "live") {
      parts.bar.value = total ? done / total : 0;
    } else {
      parts.bar.value = 0;
    }
    setText(parts.done, total ? `${count(done)} of ${count(total)}` : "–");
    setText(parts.percent, total && !over ? `${percent} %` : "");
    const answered = rows.hosts + hosts.size;
    parts.identifiedBar.value = answered ? rows.hosts / answered : 0;
    setText(parts.identified, answered ? `${count(rows.hosts)} of ${count(answered)}` : "–");
    setText(parts.unidentified, count(hosts.size));
    setText(parts.rest, total ? count(Math.max(0, total - done)) : "–");
    show(parts.tools, found > 0);
    if (parts.filter.value.trim()) showFilter();
    setText(parts.phase, !over && shown.look === "live" ? (PHASES.get(phase) ?? phase) || "starting" : "");
    setText(parts.found, count(found));
    setText(parts.devicesTitle, found ? `${plural(found, "device")}` : "Devices");
    show(parts.empty, found === 0);
    setText(parts.empty, over ? "No devices were found." : "Devices appear here as they are found.");
    title(over ? `${state.word} · ${name}` : total ? `${percent} % · ${name}` : name);
    if (!over && state.look === "live" && performance.now() - announcedAt > ANNOUNCE_EVERY_MS) {
      announcedAt = performance.now();
      announce(`${percent} percent, ${plural(found, "device")} found.`);
    }
    rows.paint(schedule);
  }

  /** The state as events and polls know it. The loaded scan can be older. */
  function stateKey() {
    return state === stateOf("running") ? "running" : "queued";
  }

  function paintWaiting() {
    const text = over || !scan ? "" : waitingText({ scan: { ...scan, state: stateKey() }, node, ahead, describe: scanTitle });
    setText(parts.waiting, text);
    show(parts.waiting, Boolean(text));
    // The text about waiting names the node too.
    const line = over || !scan || text ? "" : nodeLine(scan, node);
    setText(parts.node, line);
    show(parts.node, Boolean(line));
  }

  /** Polls what the event stream does not contain: the node, and for a queued scan its state and the queue. */
  async function look() {
    if (over) return;
    const queued = state === stateOf("queued");
    const [current, queue] = await Promise.all([
      listNodes(),
      queued && scan ? call("fleet.v1.ScanService/ListScans", { fleetNodeId: scan.fleetNodeId, limit: 200 }) : null,
      queued || !scan || sharesOf(scan).length > 0 ? load() : null,
    ]);
    if (closed || !scan) return;
    nodes = current;
    parts.shares.update(scan, nodes);
    // The state of a scan over several nodes is that of its shares.
    node = sharesOf(scan).length > 0 ? undefined : nodes.find((one) => String(one.fleetNodeId) === String(scan.fleetNodeId));
    for (const one of nodes) names.set(String(one.fleetNodeId), one.name);
    ahead = queue ? scansAhead(scan, queue.scans ?? []) : [];
    schedule();
  }

  function tick() {
    if (over) return;
    const now = state.look === "live" ? elapsed + performance.now() - elapsedAt : elapsed;
    setText(parts.elapsed, running(now));
    paintWaiting();
  }
  const ticker = setInterval(tick, 100);
  tick();

  parts.cancel.addEventListener("click", async () => {
    const agreed = await confirmDialog({
      title: "Cancel this scan?",
      body: "The node stops scanning. The devices found so far are kept.",
      action: "Cancel scan", cancel: "Keep scanning", danger: true,
    });
    if (!agreed || over) return;
    await attempt(parts.error, () => busy(parts.cancel, () => call("fleet.v1.ScanService/CancelScan", { scanId })));
  });
  parts.again.addEventListener("click", () => {
    repeatScan(scan);
    location.hash = "#/scans/new";
  });

  async function load() {
    const { scan: next } = await call("fleet.v1.ScanService/GetScan", { scanId });
    if (closed) return;
    describe(next);
    if (stateOf(next.state).over && next.ledger && !over) end(ledgerOfScan(next));
  }

  async function begin() {
    try {
      await load();
    } catch (failure) {
      if (closed || handledSignOut(failure)) return;
      if (failure.code === "not_found" || failure.code === "invalid_argument") {
        setText(parts.heading, "Scan not found");
        show(parts.panel, false);
        show(parts.columns, false);
        parts.error.show(failure);
        return;
      }
      if (!failure.offline) parts.error.show(failure);
    }
    if (closed) return;
    unfollow = followScan(scanId, {
      event: receive,
      live: () => {
        banner("");
        // The first load may have failed while the server was away.
        if (!scan) load().catch(() => {});
      },
      lost: () => banner("Connection lost. The scan continues without this page. Reconnecting…"),
      refused: (failure) => {
        banner("");
        if (handledSignOut(failure)) return;
        parts.error.show(over ? `The devices of this scan cannot be loaded: ${failure.message}` : failure);
      },
    });
    unpoll = poll(POLL_MS, look, { quiet: true });
    if (over) unpoll();
  }
  begin();

  return () => {
    closed = true;
    unfollow();
    unpoll();
    unchanged();
    unnamed();
    clearInterval(ticker);
    cancelAnimationFrame(frame);
  };
}

/** One unidentified host. Every text in it comes from the network. */
function hostItem(message) {
  const about = [message.vendor, message.reply].filter(Boolean);
  const name = hostName(message.host_name, message.host_name_source);
  const details = h("details", {},
    h("summary", { class: "one-line" }, h("span", { class: "mono" }, message.ip), " ", name ?? (about.length ? foreign(about[0]) : null)),
    h("p", { class: "hint" }, `Open ports ${(message.open_ports ?? []).join(", ")}`, message.mac ? `, MAC ${message.mac}` : ""),
    name ? h("p", { class: "hint" }, `${name.title}: `, foreign(message.host_name)) : null,
    about.map((text) => h("p", { class: "hint" }, foreign(text))),
    (message.requests ?? []).length ? h("p", { class: "hint" }, "Requests: ", foreign(message.requests.join("; "))) : null,
    h("p", { class: "hint" }, "Record: ", h("code", {}, message.record_command)));
  return h("li", {}, details);
}

// A map, because the name of a phase comes from the node.
const PHASES = new Map([["listen", "listening for services"], ["sweep", "probing hosts"], ["identify", "identifying devices"]]);

function layout(root, scanId) {
  const parts = {
    heading: h("h1", { tabindex: "-1" }, "Scan"),
    badge: h("span", { class: "badge", id: "scan-state" }),
    about: h("p", { class: "about" }),
    error: errorBox(),
    bar: h("progress", { max: "1", value: "0", "aria-labelledby": "bar-probed", id: "progress" }),
    identifiedBar: h("progress", { max: "1", value: "0", "aria-labelledby": "bar-identified", id: "identified-progress", class: "bar-identified" }),
    identified: h("span", { class: "percent", id: "identified" }, "–"),
    unidentified: h("strong", { id: "unidentified" }, "0"),
    rest: h("strong", { id: "rest" }, "–"),
    node: h("p", { class: "node-line", id: "node-line", hidden: true }),
    strip: h("div", {}),
    selection: h("div", { class: "selection" }),
    filter: h("input", { id: "scan-filter", class: "input", type: "search", autocomplete: "off", spellcheck: "false", maxlength: 128, placeholder: "10.2.0. or S19" }),
    matching: h("span", { class: "hint", id: "scan-matching", role: "status" }),
    percent: h("span", { class: "percent" }),
    done: h("strong", { id: "done" }, "–"),
    found: h("strong", { id: "found" }, "0"),
    phase: h("span", { class: "phase", id: "phase" }),
    elapsed: h("strong", { id: "elapsed" }, "0.0 s"),
    shares: shareList(),
    cancel: h("button", { type: "button", class: "button button-danger-outline", id: "cancel-scan", hidden: true }, "Cancel scan"),
    again: h("button", { type: "button", class: "button", id: "scan-again", hidden: true }, "Scan again"),
    outcome: h("div", { class: "outcome", hidden: true }),
    warningsTitle: h("h2", { id: "warnings-title" }, "Warnings"),
    // Focusable, because a list that scrolls must be scrollable by keyboard.
    warningList: h("ul", { class: "warning-list", tabindex: "0", "aria-labelledby": "warnings-title" }),
    hostsTitle: h("h2", { id: "hosts-title" }, "Unidentified hosts"),
    hostList: h("ul", { class: "warning-list", tabindex: "0", "aria-labelledby": "hosts-title" }),
    waiting: h("p", { class: "waiting-note", id: "waiting", role: "status", hidden: true }),
    ledger: h("section", { class: "panel ledger-panel ledger-pending", id: "ledger", "aria-labelledby": "ledger-title" },
      h("h2", { id: "ledger-title" }, "Scan summary"), h("p", { class: "hint" }, "Available when the scan ends. It shows the outcome of every target.")),
    changes: h("section", { class: "panel changes", id: "changes", "aria-label": "Changes", hidden: true }),
    devicesTitle: h("h2", { id: "devices-title" }, "Devices"),
    devices: h("div", {}),
    more: h("div", { class: "more" }),
    empty: h("p", { class: "loading" }),
  };
  parts.live = h("div", { class: "progress-live" },
    h("div", { class: "bar-row" }, h("span", { class: "bar-label", id: "bar-probed" }, "Probed"), parts.bar, parts.percent),
    h("div", { class: "bar-row" }, h("span", { class: "bar-label", id: "bar-identified" }, "Identified"), parts.identifiedBar, parts.identified),
    h("div", { class: "figures" },
      h("div", { class: "figure" }, parts.done, h("span", {}, "targets probed")),
      h("div", { class: "figure" }, parts.found, h("span", {}, "devices")),
      h("div", { class: "figure" }, parts.unidentified, h("span", {}, "unidentified")),
      h("div", { class: "figure" }, parts.rest, h("span", {}, "not probed yet")),
      h("div", { class: "figure" }, parts.elapsed, h("span", {}, "elapsed"))),
    parts.phase, parts.node, parts.waiting);
  parts.tools = h("div", { class: "table-tools", hidden: true },
    h("div", { class: "inline-field" }, h("label", { for: "scan-filter" }, "Filter"), parts.filter), parts.matching);
  parts.warnings = h("section", { class: "panel warnings", "aria-labelledby": "warnings-title", hidden: true }, parts.warningsTitle, parts.warningList);
  parts.hosts = h("section", { class: "panel hosts", "aria-labelledby": "hosts-title", hidden: true }, parts.hostsTitle,
    h("p", { class: "hint" }, "They answered, but no rule identified them. Record one on its node to add its make. Download: ",
      h("a", { href: `/api/scans/${scanId}/hosts.csv`, download: "" }, "CSV"), ", ",
      h("a", { href: `/api/scans/${scanId}/hosts.json`, download: "" }, "JSON"), "."), parts.hostList);
  parts.panel = h("section", { class: "panel scan-panel", "aria-label": "Progress and outcome" },
    h("div", { class: "scan-panel-main" }, parts.live, parts.outcome, parts.shares.element),
    h("div", { class: "scan-panel-actions" }, parts.cancel, parts.again));
  parts.columns = h("div", { class: "columns" },
    h("section", { class: "column-main", "aria-labelledby": "devices-title" },
      h("div", { class: "section-head" }, parts.devicesTitle), parts.tools, parts.selection, parts.devices, parts.empty, parts.more),
    h("div", { class: "column-side" }, parts.warnings, parts.hosts, parts.ledger));
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "#/scans" }, "Scans")),
    h("div", { class: "page-head" }, h("div", { class: "page-title" }, parts.heading, parts.badge)),
    parts.about, parts.error.element, parts.panel, parts.changes, parts.strip, parts.columns);
  return parts;
}
