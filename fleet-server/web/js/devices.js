// The inventory, page by page.

import { handledSignOut, title } from "./app.js";
import { errorBox } from "./dialog.js";
import { announce, h, setText, show } from "./dom.js";
import { absolute, int, makeAndModel, plural, relative } from "./format.js";
import { deviceAddress, grid } from "./grid.js";
import { listNodes } from "./nodes.js";
import { call } from "./rpc.js";

const PAGE = 100;

const COLUMNS = [
  { name: "endpoint", label: "Address" },
  { name: "model", label: "Device" },
  { name: "firmware", label: "Firmware" },
  { name: "identifier", label: "Identifier" },
  { name: "node", label: "Node" },
  { name: "seen", label: "Last seen" },
];

/** Shows the inventory. */
export function devicesView(root) {
  title("Devices");
  const error = errorBox();
  const node = h("select", { id: "device-node", class: "input" }, h("option", { value: "0" }, "Every node"));
  const table = grid({ kind: "devices", label: "Devices", columns: COLUMNS });
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No devices here"),
    h("p", {}, "Devices appear when a scan finds them."),
    h("a", { class: "button", href: "#/scans" }, "Go to the scans"));
  const loading = h("p", { class: "loading" }, "Loading devices…");
  const previous = h("button", { type: "button", class: "button", disabled: true }, "Previous");
  const next = h("button", { type: "button", class: "button", disabled: true }, "Next");
  const where = h("span", { class: "hint" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages of devices" }, previous, where, next);
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Devices"),
      h("div", { class: "inline-field" }, h("label", { for: "device-node" }, "Node"), node)),
    error.element, loading, empty, table.element, pager);
  show(table.element, false);
  show(pager, false);

  const names = new Map();
  // The cursors that lead to the pages seen so far; the last one is the page on show.
  let cursors = ["0"];
  let following = "0";
  let turn = 0;
  let left = false;

  async function load() {
    const mine = ++turn;
    error.clear();
    previous.disabled = true;
    next.disabled = true;
    try {
      const { devices = [], nextCursor = "0" } = await call("fleet.v1.DeviceService/ListDevices", {
        fleetNodeId: node.value, limit: PAGE, cursor: cursors.at(-1),
      });
      if (left || mine !== turn) return;
      following = String(nextCursor);
      table.clear();
      table.append(devices.map((device) => table.row(cells(device, names))));
      const page = cursors.length;
      const begin = (page - 1) * PAGE;
      setText(where, devices.length ? `Devices ${begin + 1} to ${begin + devices.length}` : "");
      show(empty, devices.length === 0 && page === 1);
      show(table.element, devices.length > 0);
      show(pager, page > 1 || int(following) !== 0);
      announce(`${plural(devices.length, "device")} shown.`);
    } catch (failure) {
      if (left || mine !== turn || handledSignOut(failure)) return;
      error.show(failure);
    } finally {
      if (mine === turn) {
        loading.remove();
        previous.disabled = cursors.length < 2;
        next.disabled = int(following) === 0;
      }
    }
  }

  function go(change) {
    change();
    load().then(() => window.scrollTo(0, 0));
  }
  next.addEventListener("click", () => go(() => cursors.push(following)));
  previous.addEventListener("click", () => go(() => cursors.pop()));
  node.addEventListener("change", () => go(() => { cursors = ["0"]; following = "0"; }));

  async function begin() {
    try {
      for (const one of await listNodes()) {
        names.set(one.fleetNodeId, one.name);
        node.append(h("option", { value: one.fleetNodeId }, one.name));
      }
    } catch (failure) {
      if (left || handledSignOut(failure)) return;
    }
    if (!left) await load();
  }
  begin();
  return () => { left = true; };
}

function cells(device, names) {
  const id = String(device.fleetNodeId ?? "0");
  return {
    endpoint: deviceAddress(device),
    model: [h("span", { class: "primary" }, makeAndModel(device)), device.driver ? h("span", { class: "tag" }, device.driver) : null],
    firmware: device.firmware || h("span", { class: "none" }, "–"),
    identifier: h("span", { title: device.evidence ?? "" }, device.identifier),
    node: int(id) ? names.get(id) ?? `revoked node ${id}` : "server",
    seen: h("time", { datetime: device.lastSeen, title: `First seen ${absolute(device.firstSeen)}, last seen ${absolute(device.lastSeen)}` }, relative(device.lastSeen)),
  };
}
