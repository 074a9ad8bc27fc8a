// The inventory of devices.

import { isBound, isRetried, nodeOf, pairDevices, rescanDevices, unpairDevices } from "./actions.js";
import { attempt, may, poll, title } from "./app.js";
import { busy, confirmDialog } from "./dialog.js";
import { announce, breakable, fill, foreign, h, show, timeAgo } from "./dom.js";
import { absolute, endpoint, int, isolate, makeAndModel, plural, sentence } from "./format.js";
import { deviceAddress, grid, hostName, oneLine } from "./grid.js";
import { labelDialog, labelLinks } from "./labels.js";
import { listNodes } from "./nodes.js";
import { pagedTable } from "./paged.js";
import { pairDialog, pairingCell } from "./pairing.js";
import { deleteDevices } from "./removal.js";
import { call } from "./rpc.js";
import { deviceSearch } from "./search.js";
import { selectAllBox, selection } from "./selection.js";

const PAGE = 100;

/** Devices that "Select all" loads at a time; the maximum of the API. */
const BATCH = 1000;
/** Devices that can be selected. More would take minutes to act on one by one. */
const SELECTED = 10_000;
/** Devices that one call deletes. */
const MOST_DELETED = 256;

const COLUMNS = [
  { name: "endpoint", label: "Address" },
  { name: "model", label: "Device" },
  { name: "firmware", label: "Firmware" },
  { name: "identifier", label: "Identifier" },
  { name: "node", label: "Node" },
  { name: "pairing", label: "Pairing" },
  { name: "seen", label: "Last seen" },
];

const REFUSED = [
  { name: "endpoint", label: "Address" },
  { name: "reporter", label: "Reported by" },
  { name: "identifier", label: "Identifier" },
  { name: "reason", label: "Reason and remedy" },
  { name: "seen", label: "Last reported" },
];

/** Shows the inventory, page by page. */
export function devicesView(root) {
  title("Devices");
  const names = new Map();
  const node = h("select", { id: "device-node", class: "input" }, h("option", { value: "0" }, "All nodes"));
  const pairAll = h("button", { type: "button", class: "button", id: "pair-all", hidden: true,
    onclick: () => pairDialog({ node: node.value, names }).then(table.reload) }, "Pair all unpaired");
  const selectable = may("miner:pair") || may("fleetnode:manage");
  const chosen = selection({
    noun: "device",
    actions: [
      ...(may("miner:pair") ? [
        { id: "pair-selected", label: "Pair", fits: pairable, run: (items) => pairDevices(items, names).then(acted) },
        { id: "retry-selected", label: "Retry with credentials", fits: (item) => pairable(item) && isRetried(item), run: (items) => pairDevices(items, names).then(acted) },
      ] : []),
      ...(may("fleetnode:manage") ? [
        { id: "rescan-selected", label: "Scan again", fits: (item) => pairable(item) && Boolean(item.ip), run: (items, button) => rescanDevices(items, { error: table.error, button }) },
        { id: "label-selected", label: "Label", run: (items) => labelDialog(items).then((done) => done && acted()) },
        { id: "unpair-selected", label: "Unpair", look: "button-quiet-danger", fits: isBound, run: (items, button) => unpairDevices(items, { error: table.error, button }).then((done) => done && acted()) },
        { id: "delete-selected", label: "Delete", look: "button-quiet-danger", run: deleteSelected },
      ] : []),
    ],
  });
  /** @type {[string, any][]} */
  let shown = [];
  const whole = selectAllBox(chosen, () => shown, "Select all devices on this page");
  const all = h("button", { type: "button", class: "link", id: "select-all", hidden: true }, "");
  const files = h("p", { class: "files hint" });
  const table = pagedTable({
    grid: { kind: "devices", label: "Devices", columns: selectable ? [{ name: "select", label: whole.box }, ...COLUMNS] : COLUMNS },
    noun: "device",
    size: PAGE,
    labels: { previous: "Previous", next: "Next" },
    empty: h("div", { class: "panel empty" },
      h("h2", {}, "No devices"),
      h("p", {}, "Devices appear when a scan finds them and when they match the search."),
      h("a", { class: "button", href: "#/scans" }, "Show scans")),
    async load(cursor) {
      const [{ devices = [], nextCursor }] = await Promise.all([
        // The first cursor of a paged table is "0", that of a search is empty.
        call("fleet.v1.DeviceSearchService/SearchDevices", { ...search.request, fleetNodeId: node.value, limit: PAGE, cursor: cursor === "0" ? "" : cursor }),
        names.size ? null : loadNodes(),
      ]);
      chosen.forget();
      shown = devices.map((device) => [String(device.deviceId), device]);
      const rows = devices.map((device) => table.row({ select: chosen.box(String(device.deviceId), device, device.identifier), ...cells(device, names, actions) }, { "data-key": device.deviceId }));
      more = Boolean(nextCursor);
      showSelection();
      return { rows, next: nextCursor };
    },
  });
  let more = false;
  const search = deviceSearch({ nodeId: () => node.value, changed: () => { chosen.set([]); showFiles(); table.restart(); } });
  const actions = { error: table.error, changed: table.reload, separate };
  const refused = refusedSection(names);
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Devices"),
      h("div", { class: "inline-field" }, h("label", { for: "device-node" }, "Node"), node, pairAll)),
    search.element, files, h("div", { class: "selection" }, chosen.bar, all),
    ...table.elements, refused.element);
  chosen.onchange(showSelection);
  all.addEventListener("click", () => attempt(table.error, () => busy(all, selectAll)));
  showFiles();

  /** Devices that a node can reach. Those of the server have other actions. */
  function pairable(device) {
    return names.has(nodeOf(device));
  }

  function showSelection() {
    whole.update();
    const pageChosen = shown.length > 0 && shown.every(([key]) => chosen.has(key));
    const beyond = pageChosen && more && chosen.size <= shown.length;
    fill(all, `Select all ${search.total ? plural(Math.min(search.total, SELECTED), "device") : "devices"} that match`);
    show(all, beyond);
  }

  /** Selects the devices of every page, up to a limit. */
  async function selectAll() {
    const pairs = [];
    let cursor = "";
    do {
      const page = await call("fleet.v1.DeviceSearchService/SearchDevices", { ...search.request, fleetNodeId: node.value, limit: BATCH, cursor });
      pairs.push(...(page.devices ?? []).map((device) => [String(device.deviceId), device]));
      cursor = page.nextCursor ?? "";
    } while (cursor && pairs.length < SELECTED);
    chosen.set(pairs.slice(0, SELECTED));
    announce(`${plural(chosen.size, "device")} selected.`);
  }

  /** After an action, the rows are read again and nothing is selected. */
  async function acted() {
    chosen.set([]);
    await table.reload();
    search.recount();
  }

  async function deleteSelected(items, button) {
    // A call deletes a limited number of devices, all or none.
    if (items.length > MOST_DELETED) {
      table.error.show(`${plural(items.length, "device")} are selected. At most ${MOST_DELETED} can be deleted at once.`);
      return;
    }
    if (await deleteDevices(items, table.error, button)) await acted();
  }

  function showFiles() {
    const query = new URLSearchParams();
    if (search.request.search) query.set("search", search.request.search);
    if (node.value !== "0") query.set("node", node.value);
    const text = query.toString();
    fill(files, "Export these devices: ", ["CSV", "JSON", "NDJSON"].map((format, at) => [at ? ", " : "",
      h("a", { href: `/api/export/devices.${format.toLowerCase()}${text ? `?${text}` : ""}`, download: "" }, format)]));
  }

  async function loadNodes() {
    for (const one of await listNodes()) {
      names.set(one.fleetNodeId, one.name);
      node.append(h("option", { value: one.fleetNodeId }, isolate(one.name)));
    }
  }

  async function separate(alias, device, button) {
    const agreed = await confirmDialog({
      title: "Separate these devices?",
      body: [["These identifiers were merged because ", foreign(reason(alias)), ": ", foreign(alias.identifier), " and ", foreign(device.identifier), "."],
        "The former identifier becomes a device of its own, without an address until it is reported. Later reports do not merge them again."],
      action: "Separate",
      cancel: "Keep merged",
    });
    if (!agreed) return;
    await attempt(table.error, async () => {
      await busy(button, () => call("fleet.v1.DeviceService/UndoIdentityChange", { identityChangeId: alias.identityChangeId }));
      announce("Devices separated.");
      await table.reload();
    });
  }

  node.addEventListener("change", () => {
    show(pairAll, may("miner:pair") && names.has(node.value));
    chosen.set([]);
    showFiles();
    table.restart();
    search.recount();
  });
  table.reload();
  const stopRefused = poll(0, refused.load);
  return () => {
    table.stop();
    search.stop();
    stopRefused();
  };
}

/** Creates the list of reported devices that belong to another node. It is hidden while empty. */
function refusedSection(names) {
  const table = grid({ kind: "refused", label: "Refused devices", columns: REFUSED });
  const note = h("p", { class: "hint" });
  const element = h("section", { "aria-labelledby": "refused-title", hidden: true },
    h("h2", { id: "refused-title" }, "Refused devices"), note, table.element);
  async function load() {
    const { devices = [], nextCursor } = await call("fleet.v1.DeviceService/ListRefusedDevices", { limit: PAGE });
    fill(note, "Nodes reported these devices, but the devices belong to another node or to the server. ",
      int(nextCursor) ? [`The first ${PAGE} are shown; `, h("code", {}, "fleetctl devices refused"), " lists all."] : null);
    table.clear();
    table.append(devices.map((device) => table.row(refusedCells(device, names))));
    show(element, devices.length > 0);
  }
  return { element, load };
}

function refusedCells(device, names) {
  return {
    endpoint: breakable(endpoint(device.ip, device.port)),
    reporter: foreign(names.get(String(device.fleetNodeId)) ?? `node ${device.fleetNodeId}`),
    identifier: foreign(device.identifier),
    reason: [h("span", { class: "primary" }, foreign(sentence(device.reason))), h("span", { class: "hint" }, sentence(device.remedy))],
    seen: timeAgo(device.lastSeen, `${plural(device.count, "time")}, first ${absolute(device.firstSeen)}`),
  };
}

/** Returns why two identifiers are one device, as part of a sentence. */
function reason(alias) {
  return String(alias.reason ?? "").trim();
}

function formerly(alias, device, separate) {
  const merged = int(alias.mergedDeviceId) ? ` (device ${alias.mergedDeviceId})` : "";
  const why = `${sentence(isolate(reason(alias)))} Since ${absolute(alias.since)}.${alias.evidence ? ` Evidence: ${isolate(alias.evidence)}` : ""}`;
  const button = may("fleetnode:manage")
    ? h("button", { type: "button", class: "link", onclick: () => separate(alias, device, button), "aria-label": `Separate ${isolate(alias.identifier)}` }, "Separate")
    : null;
  return h("span", { class: "hint formerly", title: why }, "formerly ", foreign(alias.identifier), `${merged}: `, foreign(reason(alias)), " ", button);
}

function cells(device, names, actions) {
  const id = String(device.fleetNodeId ?? "0");
  return {
    endpoint: deviceAddress(device, hostName(device.hostName, device.hostNameSource)),
    model: [
      h("a", { class: "primary one-line", href: `#/devices/${device.deviceId}`, title: isolate(makeAndModel(device)) }, foreign(makeAndModel(device))),
      device.missingSince ? h("span", { class: "badge badge-bad", title: `Missing since ${absolute(device.missingSince)}` }, "Missing") : null,
      labelLinks(device.labels),
    ],
    firmware: device.firmware ? oneLine(device.firmware) : h("span", { class: "none" }, "–"),
    identifier: [
      h("span", { class: "one-line", title: device.evidence ? `${isolate(device.identifier)}. Evidence: ${isolate(device.evidence)}` : isolate(device.identifier) }, foreign(device.identifier)),
      (device.aliases ?? []).map((alias) => formerly(alias, device, actions.separate)),
    ],
    node: [
      int(id) ? oneLine(names.get(id) ?? `revoked node ${id}`) : "server",
      (device.seenBy ?? []).map(({ fleetNodeId, lastSeen }) => h("span", { class: "hint", title: `Last seen ${absolute(lastSeen)}` },
        " also ", foreign(names.get(String(fleetNodeId)) ?? `revoked node ${fleetNodeId}`))),
      int(device.claimedFromFleetNodeId) ? h("span", { class: "hint" }, ` claimed from revoked node ${device.claimedFromFleetNodeId}`) : null,
    ],
    pairing: pairingCell(device, names, actions),
    seen: timeAgo(device.lastSeen, `First seen ${absolute(device.firstSeen)}, last seen ${absolute(device.lastSeen)}`),
  };
}
