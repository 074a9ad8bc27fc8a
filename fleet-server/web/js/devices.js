// The inventory of devices.

import { handledSignOut, may, title } from "./app.js";
import { busy, confirmDialog, errorBox } from "./dialog.js";
import { announce, fill, h, setText, show } from "./dom.js";
import { absolute, endpoint, int, makeAndModel, plural, relative, sentence } from "./format.js";
import { deviceAddress, grid } from "./grid.js";
import { listNodes } from "./nodes.js";
import { pairDialog, pairingCell } from "./pairing.js";
import { call } from "./rpc.js";

const PAGE = 100;

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
  const error = errorBox();
  const node = h("select", { id: "device-node", class: "input" }, h("option", { value: "0" }, "All nodes"));
  const table = grid({ kind: "devices", label: "Devices", columns: COLUMNS });
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No devices"),
    h("p", {}, "Devices appear when a scan finds them."),
    h("a", { class: "button", href: "#/scans" }, "Show scans"));
  const loading = h("p", { class: "loading" }, "Loading devices…");
  const previous = h("button", { type: "button", class: "button", disabled: true }, "Previous");
  const next = h("button", { type: "button", class: "button", disabled: true }, "Next");
  const pairAll = h("button", { type: "button", class: "button", id: "pair-all", hidden: true,
    onclick: () => pairDialog({ node: node.value, name: names.get(node.value) }).then(load) }, "Pair all unpaired");
  const where = h("span", { class: "hint" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages of devices" }, previous, where, next);
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Devices"),
      h("div", { class: "inline-field" }, h("label", { for: "device-node" }, "Node"), node, pairAll)),
    error.element, loading, empty, table.element, pager);
  const refused = refusedSection();
  root.append(refused.element);
  show(table.element, false);
  show(pager, false);

  const names = new Map();
  // Cursors of the pages up to the current one.
  let cursors = ["0"];
  let following = "0";
  let latest = 0;
  let closed = false;

  async function load() {
    const mine = ++latest;
    error.clear();
    previous.disabled = true;
    next.disabled = true;
    try {
      const { devices = [], nextCursor = "0" } = await call("fleet.v1.DeviceService/ListDevices", {
        fleetNodeId: node.value, limit: PAGE, cursor: cursors.at(-1),
      });
      if (closed || mine !== latest) return;
      following = String(nextCursor);
      table.clear();
      table.append(devices.map((device) => table.row({ ...cells(device, names, separate), pairing: pairingCell(device, names, { error, changed: load }) })));
      const page = cursors.length;
      const begin = (page - 1) * PAGE;
      setText(where, devices.length ? `Devices ${begin + 1} to ${begin + devices.length}` : "");
      show(empty, devices.length === 0 && page === 1);
      show(table.element, devices.length > 0);
      show(pager, page > 1 || int(following) !== 0);
      announce(`${plural(devices.length, "device")} shown.`);
    } catch (failure) {
      if (closed || mine !== latest || handledSignOut(failure)) return;
      error.show(failure);
    } finally {
      if (mine === latest) {
        loading.remove();
        previous.disabled = cursors.length < 2;
        next.disabled = int(following) === 0;
      }
    }
  }

  async function separate(alias, device, button) {
    error.clear();
    const agreed = await confirmDialog({
      title: "Separate these devices?",
      body: [`${alias.identifier} and ${device.identifier} were merged because ${reason(alias)}.`,
        "The former identifier becomes a device of its own, without an address until it is reported. Later reports do not merge them again."],
      action: "Separate",
      cancel: "Keep merged",
    });
    if (!agreed) return;
    try {
      await busy(button, () => call("fleet.v1.DeviceService/UndoIdentityChange", { identityChangeId: alias.identityChangeId }));
      announce("Devices separated.");
      await load();
    } catch (failure) {
      if (!handledSignOut(failure)) error.show(failure);
    }
  }

  function go(change) {
    change();
    load().then(() => window.scrollTo(0, 0));
  }
  next.addEventListener("click", () => go(() => cursors.push(following)));
  previous.addEventListener("click", () => go(() => cursors.pop()));
  node.addEventListener("change", () => show(pairAll, may("miner:pair") && names.has(node.value)));
  node.addEventListener("change", () => go(() => { cursors = ["0"]; following = "0"; }));

  async function begin() {
    try {
      for (const one of await listNodes()) {
        names.set(one.fleetNodeId, one.name);
        node.append(h("option", { value: one.fleetNodeId }, one.name));
      }
    } catch (failure) {
      if (closed || handledSignOut(failure)) return;
    }
    if (!closed) await Promise.all([load(), refused.load(names, () => closed)]);
  }
  begin();
  return () => { closed = true; };
}

/** Creates the list of reported devices that belong to another node. It is hidden while empty. */
function refusedSection() {
  const table = grid({ kind: "refused", label: "Refused devices", columns: REFUSED });
  const note = h("p", { class: "hint" });
  const element = h("section", { "aria-labelledby": "refused-title", hidden: true },
    h("h2", { id: "refused-title" }, "Refused devices"), note, table.element);
  async function load(names, closed) {
    try {
      const { devices = [], nextCursor = "0" } = await call("fleet.v1.DeviceService/ListRefusedDevices", { limit: PAGE });
      if (closed()) return;
      fill(note, "Nodes reported these devices, but the devices belong to another node or to the server. ",
        int(nextCursor) ? [`The first ${PAGE} are shown; `, h("code", {}, "fleetctl devices refused"), " lists all."] : null);
      table.append(devices.map((device) => table.row(refusedCells(device, names))));
      show(element, devices.length > 0);
    } catch (failure) {
      if (!closed()) handledSignOut(failure);
    }
  }
  return { element, load };
}

function refusedCells(device, names) {
  return {
    endpoint: endpoint(device.ip, device.port),
    reporter: names.get(String(device.fleetNodeId)) ?? `node ${device.fleetNodeId}`,
    identifier: device.identifier,
    reason: [h("span", { class: "primary" }, sentence(device.reason)), h("span", { class: "hint" }, sentence(device.wayOut))],
    seen: h("time", { datetime: device.lastSeen, title: `${plural(device.count, "time")}, first ${absolute(device.firstSeen)}` }, relative(device.lastSeen)),
  };
}

/** Returns why two identifiers are one device, as part of a sentence. */
function reason(alias) {
  return String(alias.reason ?? "").trim();
}

function formerly(alias, device, separate) {
  const merged = int(alias.mergedDeviceId) ? ` (device ${alias.mergedDeviceId})` : "";
  const why = `${sentence(reason(alias))} Since ${absolute(alias.since)}.${alias.evidence ? ` Evidence then: ${alias.evidence}` : ""}`;
  const button = may("fleetnode:manage")
    ? h("button", { type: "button", class: "link", onclick: () => separate(alias, device, button) }, "Separate")
    : null;
  return h("span", { class: "hint formerly", title: why }, `formerly ${alias.identifier}${merged}: ${reason(alias)} `, button);
}

function cells(device, names, separate) {
  const id = String(device.fleetNodeId ?? "0");
  return {
    endpoint: deviceAddress(device),
    model: [h("span", { class: "primary" }, makeAndModel(device)), device.driver ? h("span", { class: "tag" }, device.driver) : null],
    firmware: device.firmware || h("span", { class: "none" }, "–"),
    identifier: [
      h("span", { title: device.evidence ? `Evidence: ${device.evidence}` : "" }, device.identifier),
      (device.aliases ?? []).map((alias) => formerly(alias, device, separate)),
    ],
    node: int(id) ? names.get(id) ?? `revoked node ${id}` : "server",
    seen: h("time", { datetime: device.lastSeen, title: `First seen ${absolute(device.firstSeen)}, last seen ${absolute(device.lastSeen)}` }, relative(device.lastSeen)),
  };
}
