// The page of one device: identity, nodes, ports, labels, the note and the timeline.

import { attempt, may, poll, title } from "./app.js";
import { busy, confirmDialog, errorBox } from "./dialog.js";
import { announce, breakable, fill, foreign, h, setText, show, timeAgo } from "./dom.js";
import { absolute, deviceLink, endpoint, int, isolate, makeAndModel, sentence } from "./format.js";
import { hostName } from "./grid.js";
import { labelEditor } from "./labels.js";
import { listNodes } from "./nodes.js";
import { pairingBadge, pairingCell } from "./pairing.js";
import { deleteButton } from "./removal.js";
import { call } from "./rpc.js";

const POLL_MS = 5000;
/** The ports of the pages that devices serve, in the order of preference. */
const PAGES = [{ port: 80, scheme: "http" }, { port: 443, scheme: "https" }];

/** Shows a device. */
export function deviceView(root, deviceId) {
  title(`Device ${deviceId}`);
  const error = errorBox();
  const heading = h("h1", { tabindex: "-1" }, `Device ${deviceId}`);
  const badges = h("span", { class: "actions" });
  const actions = h("div", { class: "actions" });
  const loading = h("p", { class: "loading" }, "Loading the device…");
  const facts = h("dl", { class: "facts device-facts" });
  const nodes = h("ul", { class: "plain-list", id: "device-nodes" });
  const timeline = h("ol", { class: "timeline", id: "timeline" });
  const labels = labelEditor({ deviceId, error, changed: reload });
  const note = noteEditor({ deviceId, error, changed: reload });
  const content = h("div", { class: "columns device-columns", hidden: true },
    h("div", { class: "stack" },
      h("section", { class: "panel", "aria-labelledby": "device-identity" }, h("h2", { id: "device-identity" }, "Identity"), facts),
      h("section", { class: "panel", "aria-labelledby": "device-timeline" }, h("h2", { id: "device-timeline" }, "Timeline"), timeline)),
    h("div", { class: "column-side" },
      h("section", { class: "panel", "aria-labelledby": "device-labels" }, h("h2", { id: "device-labels" }, "Labels"), labels.element),
      h("section", { class: "panel", "aria-labelledby": "device-note-title" }, h("h2", { id: "device-note-title" }, "Note"), note.element),
      h("section", { class: "panel", "aria-labelledby": "device-seen" }, h("h2", { id: "device-seen" }, "Nodes that see it"), nodes)));
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "#/devices" }, "Devices")),
    h("div", { class: "page-head" }, h("div", { class: "page-title" }, heading, badges), actions),
    error.element, loading, content);

  const names = new Map();
  let shown = "";
  let closed = false;

  async function reload() {
    const [detail, listed] = await Promise.all([call("fleet.v1.DeviceDetailService/GetDeviceDetail", { deviceId }), listNodes()]);
    if (closed) return;
    names.clear();
    for (const node of listed) names.set(String(node.fleetNodeId), node.name);
    loading.remove();
    show(content, true);
    // Unchanged contents keep the focus and the selection.
    const next = JSON.stringify([detail, [...names]]);
    if (next === shown) return;
    shown = next;
    draw(detail);
  }

  /** @param {any} detail The response of GetDeviceDetail. */
  function draw(detail) {
    const { device = {}, ports = [], events = [], note: written } = detail;
    title(makeAndModel(device));
    fill(heading, foreign(makeAndModel(device)));
    fill(badges, pairingBadge(device.pairingStatus, device.pairingError),
      device.missingSince ? h("span", { class: "badge badge-bad", title: absolute(device.missingSince) }, "Missing") : null);
    const page = ownPage(device, ports);
    const deleted = () => { location.hash = "#/devices"; };
    fill(actions, page ? h("a", { class: "button button-primary", id: "device-page", href: page, target: "_blank", rel: "noopener noreferrer" }, "Open its page") : null,
      pairingCell(device, names, { error, changed: reload }).slice(2), deleteButton(device, { error, changed: deleted }));
    const fact = (term, value) => (value ? [h("dt", {}, term), h("dd", {}, value)] : []);
    fill(facts,
      fact("Identifier", h("span", { class: "mono" }, foreign(device.identifier))),
      fact("Address", device.ip ? h("span", { class: "mono" }, breakable(endpoint(device.ip, device.port))) : "Unknown: another device answers there"),
      fact("Host name", hostName(device.hostName, device.hostNameSource)),
      fact("Open ports", ports.length ? h("span", { class: "mono", id: "device-ports" }, ports.join(", ")) : null),
      fact("Make and model", foreign(makeAndModel(device))),
      fact("Firmware", device.firmware ? foreign(device.firmware) : null),
      fact("MAC", device.mac ? h("span", { class: "mono" }, device.mac) : null),
      fact("Serial", device.serial ? h("span", { class: "mono" }, foreign(device.serial)) : null),
      fact("Evidence", device.evidence ? foreign(device.evidence) : null),
      fact("Last pairing error", device.pairingError ? foreign(sentence(device.pairingError)) : null),
      fact("First seen", timeAgo(device.firstSeen)),
      fact("Last seen", timeAgo(device.lastSeen)),
      fact("Missing since", device.missingSince ? timeAgo(device.missingSince) : null));
    const owner = { fleetNodeId: device.fleetNodeId, ip: device.ip, port: device.port, lastSeen: device.lastSeen, finds: true };
    fill(nodes, [owner, ...device.seenBy ?? []].map((one) => h("li", {},
      nodeName(one.fleetNodeId), one.finds ? " found it" : " sees it too",
      one.ip ? [" at ", h("span", { class: "mono" }, breakable(endpoint(one.ip, one.port)))] : "", ", ", timeAgo(one.lastSeen))));
    labels.set(device.labels ?? []);
    note.set(written);
    fill(timeline, events.map((event) => entry(event)));
  }

  function nodeName(id) {
    return int(id) ? foreign(names.get(String(id)) ?? `revoked node ${id}`) : "The server";
  }

  function entry(event) {
    const undo = event.kind === "merged" && int(event.identityChangeId) && may("fleetnode:manage")
      ? h("button", { type: "button", class: "link", "aria-label": `Undo the merge of ${isolate(event.former)}`, onclick: () => separate(event, undo) }, "Undo")
      : null;
    const reporter = int(event.fleetNodeId) ? [", reported by ", nodeName(event.fleetNodeId)] : null;
    return h("li", { "data-kind": event.kind }, h("span", { class: "timeline-time" }, timeAgo(event.at)),
      h("span", { class: "timeline-text" }, describe(event), h("span", { class: "hint" }, reporter), undo ? [" ", undo] : null));
  }

  async function separate(event, button) {
    const agreed = await confirmDialog({
      title: "Undo this merge?",
      body: [["These identifiers were merged because ", foreign(event.reason), ": ", foreign(event.former), " and ", foreign(event.became), "."],
        "The former identifier becomes a device of its own, without an address until it is reported. Later reports do not merge them again."],
      action: "Undo merge",
      cancel: "Keep merged",
    });
    if (!agreed) return;
    await attempt(error, async () => {
      await busy(button, () => call("fleet.v1.DeviceService/UndoIdentityChange", { identityChangeId: event.identityChangeId }));
      announce("Devices separated.");
      await reload();
    });
  }

  const stop = poll(POLL_MS, reload, { failed: (failure) => {
    loading.remove();
    if (failure.code === "not_found") setText(heading, "Device not found");
    error.show(failure);
  } });
  return () => {
    closed = true;
    stop();
  };
}

/**
 * Returns the URL of the device's own page, or null. A device whose protocol has no page, such as an Antminer on port
 * 4028, is linked at port 80 or 443 if that is open.
 */
export function ownPage(device, ports) {
  const own = deviceLink(device);
  if (own) return own;
  const open = PAGES.find(({ port }) => ports.some((one) => int(one) === port));
  return open ? deviceLink({ ...open, ip: device.ip }) : null;
}

/** Describes an event as texts and elements. */
function describe({ kind, former, became, reason }) {
  const arrow = [former ? foreign(former) : "unknown", " → ", became ? foreign(became) : "unknown"];
  switch (kind) {
    case "found": return "First seen";
    case "address": return ["Address: ", arrow];
    case "name": return ["Make and model: ", arrow];
    case "host_name": return ["Host name: ", arrow];
    case "firmware": return ["Firmware: ", arrow];
    case "pairing": return ["Pairing: ", pairingBadge(former), " → ", pairingBadge(became)];
    case "missing": return ["Missing: no answer at ", foreign(former)];
    case "back": return ["Back at ", foreign(became)];
    case "merged": return ["Merged ", foreign(former), " into ", foreign(became), reason ? [": ", foreign(reason)] : null];
    case "separated": return ["Merge of ", foreign(former), " undone"];
    default: return foreign(kind);
  }
}

/** Creates the editor of the note; operators who may not write see the text. */
function noteEditor({ deviceId, error, changed }) {
  const manage = may("fleetnode:manage");
  const text = h("p", { class: "note-text" });
  const about = h("p", { class: "hint" });
  const box = h("textarea", { id: "device-note", class: "input", rows: "4", maxlength: "2000", "aria-label": "Note" });
  const save = h("button", { type: "submit", class: "button", id: "save-note" }, "Save note");
  const form = h("form", { class: "stack-small", onsubmit: send }, box, h("div", { class: "actions" }, save));
  let stored = "";

  async function send(event) {
    event.preventDefault();
    await attempt(error, async () => {
      await busy(save, () => call("fleet.v1.DeviceDetailService/SetDeviceNote", { deviceId, text: box.value.trim() }));
      stored = box.value;
      announce("Note saved.");
      await changed();
    });
  }

  return {
    element: h("div", {}, manage ? form : text, about),
    set(note) {
      const next = note?.text ?? "";
      // A text that the operator is writing is not replaced.
      if (box.value === stored) box.value = next;
      stored = next;
      fill(text, next ? foreign(next) : "No note.");
      fill(about, note ? [foreign(note.author), ", ", timeAgo(note.changedAt)] : null);
    },
  };
}
