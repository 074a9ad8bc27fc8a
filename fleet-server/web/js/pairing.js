// Pairing: the pairing status and binding of a device, unpairing it, and the dialog that pairs devices on a node.

import { attempt, may, poll } from "./app.js";
import { busy, confirmDialog, errorBox, openDialog } from "./dialog.js";
import { announce, fill, foreign, freshId, h, setText, show } from "./dom.js";
import { count, int, isolate, plural, sentence } from "./format.js";
import { call } from "./rpc.js";

/** Interval between two polls of a running pairing. */
const POLL_MS = 500;
/** Devices per request while the dialog counts them; the maximum of the API. */
const PAGE = 1000;
/** Devices of one request; the maximum of the API. */
const MOST = 1024;
/** Devices listed below a reason; more would make the dialog slow. */
const EXAMPLES = 200;

const SERVICE = "fleet.v1.DevicePairingService";

const STATUS = {
  PAIRED: { word: "Paired", look: "good" },
  OPEN: { word: "Open", look: "good", title: "Paired without a login, because this device needs none to be read." },
  DEFAULT_PASSWORD: { word: "Default password", look: "bad" },
  AUTHENTICATION_NEEDED: { word: "Needs password", look: "wait" },
  FAILED: { word: "Failed", look: "bad" },
  PENDING: { word: "Pairing…", look: "wait" },
  UNPAIRED: { word: "Not paired", look: "off" },
};

/** Returns a status without the prefix of its API name. */
function statusName(status) {
  const name = String(status ?? "").replace("PAIRING_STATUS_", "");
  return name in STATUS ? name : "UNPAIRED";
}

/** Creates the badge of a status. The prefix of the API name is optional. */
export function pairingBadge(status, error) {
  const { word, look, title } = STATUS[statusName(status)];
  return h("span", { class: `badge badge-${look}`, title: error ? isolate(error) : title ?? null }, word);
}

/**
 * Creates the table cell of a device: its pairing status, its binding and the possible actions.
 * `changed` is called after an action.
 */
export function pairingCell(device, names, { error, changed }) {
  const owner = String(device.fleetNodeId ?? "0");
  const bound = String(device.boundToFleetNodeId ?? "0");
  const isBound = device.boundToServer || int(bound) > 0;
  const binding = device.boundToServer ? "by the server" : int(bound) && bound !== owner ? ["to ", foreign(names.get(bound) ?? `node ${bound}`)] : null;
  const button = (label, look, onclick) => h("button", { type: "button", class: `button button-small ${look}`, "aria-label": `${label} ${isolate(device.identifier)}`, onclick }, label);
  return [pairingBadge(device.pairingStatus, device.pairingError), binding ? h("span", { class: "hint" }, binding) : null,
    may("miner:pair") && names.has(owner) && !pairingObstacle(device, { node: owner, names, named: true })
      ? button("Pair", "button-quiet", () => pairDialog({ names, groups: [{ node: owner, identifiers: [device.identifier] }] }).then(changed))
      : null,
    may("fleetnode:manage") && isBound
      ? button("Unpair", "button-quiet-danger", (event) => unpair(event.currentTarget, device, error, changed))
      : null];
}

async function unpair(button, device, error, changed) {
  const agreed = await confirmDialog({
    title: ["Unpair ", foreign(device.identifier), "?"],
    body: "The binding is removed, and the credentials that the node stored for the device are deleted. The device stays in the inventory and can be paired again.",
    action: "Unpair",
    cancel: "Keep paired",
    danger: true,
  });
  if (!agreed) return;
  await attempt(error, async () => {
    await busy(button, () => call("fleetnodeadmin.v1.FleetNodeAdminService/UnpairDevice", { deviceId: device.deviceId }));
    announce("Device unpaired.");
    await changed();
  });
}

/**
 * Returns why a device cannot be paired on a node; empty if it can. These are the rules of the server
 * (`fleet-pairing`, `decide_unpaired_target`), which decides again when the pairing starts. A device that is requested
 * by name (`named`) is tried even if it is paired or needs a password.
 */
export function pairingObstacle(device, { node, names = new Map(), named = false, withPassword = true }) {
  const bound = String(device.boundToFleetNodeId ?? "0");
  if (device.boundToServer) return "Paired by the server";
  if (int(bound) && bound !== node) return `Bound to ${isolate(names.get(bound) ?? `node ${bound}`)}`;
  if (!int(bound) && String(device.fleetNodeId ?? "0") !== node) return "Found by another node";
  if (!int(bound) && int(device.claimedFromFleetNodeId)) return `Claimed from revoked node ${device.claimedFromFleetNodeId}, bind it first`;
  if (!device.ip) return "Address unknown, scan for it first";
  if (named) return "";
  const status = statusName(device.pairingStatus);
  if (status === "PAIRED" || status === "OPEN" || status === "DEFAULT_PASSWORD") return "Already paired";
  if (status === "AUTHENTICATION_NEEDED" && !withPassword) return "Needs a password";
  return "";
}

/** Groups values by a text, with the largest group first. Returns `[text, values]` pairs. */
export function groupBy(values, textOf) {
  const groups = new Map();
  for (const value of values) {
    const text = textOf(value);
    groups.set(text, [...(groups.get(text) ?? []), value]);
  }
  return [...groups].sort((a, b) => b[1].length - a[1].length || a[0].localeCompare(b[0]));
}

/** Loads all devices of a node. */
async function devicesOf(node) {
  const devices = [];
  let cursor = "0";
  do {
    const page = await call("fleet.v1.DeviceService/ListDevices", { fleetNodeId: node, limit: PAGE, cursor });
    devices.push(...page.devices ?? []);
    cursor = String(page.nextCursor ?? "0");
  } while (int(cursor));
  return devices;
}

/** Divides a list into parts of at most `size`. */
function slices(list, size) {
  return Array.from({ length: Math.ceil(list.length / size) }, (_one, at) => list.slice(at * size, (at + 1) * size));
}

/**
 * Asks for credentials, pairs devices and shows the results live, grouped by reason. `groups` are the devices of each
 * node, as `{ node, identifiers }`. Instead of them, `node` stands for all unpaired devices of that node, and the dialog
 * first shows how many these are. Resolves when the dialog is closed; a running pairing continues.
 *
 * @param {{ node?: string, names: Map<string, string>, groups?: { node: string, identifiers: string[] }[] }} options
 */
export function pairDialog({ node = "", names, groups: chosen = [] }) {
  const all = chosen.length === 0;
  const nameOf = (id) => foreign(names.get(id) ?? `node ${id}`);
  const identifiers = chosen.flatMap((group) => group.identifiers);
  // A request names a limited number of devices.
  const parts = all
    ? [{ fleetNodeId: node, allUnpaired: true, deviceIdentifiers: [] }]
    : chosen.flatMap((group) => slices(group.identifiers, MOST).map((part) => ({ fleetNodeId: group.node, allUnpaired: false, deviceIdentifiers: part })));
  const who = all ? [nameOf(node)] : chosen.length === 1 ? [nameOf(chosen[0].node)] : ["The node of each device"];
  const error = errorBox();
  const username = h("input", { id: freshId("pair-user"), class: "input", value: "root", maxlength: 255, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  // Without a name, the field is never submitted with the form, and no password manager offers to store the password.
  const password = h("input", { id: freshId("pair-password"), class: "input mono", type: "password", maxlength: 1024, autocomplete: "off", autofocus: true });
  const defaultsHint = freshId("pair-defaults-hint");
  const defaults = h("input", { id: freshId("pair-defaults"), type: "checkbox", "aria-describedby": defaultsHint });
  const submit = h("button", { type: "submit", class: "button button-primary", disabled: all }, "Pair");
  const stop = h("button", { type: "button", class: "button button-quiet-danger", hidden: true }, "Cancel pairing");
  const close = h("button", { type: "button", class: "button" }, "Close");
  const state = h("p", { role: "status", class: "pair-state", tabindex: "-1" });
  const groups = h("div", { class: "pair-groups", role: "region", "aria-label": "Results" });
  const preview = h("div", { class: "pair-preview" });
  const fields = h("div", { class: "stack" },
    preview,
    h("p", {}, who, " tries this password once on each device, after it has identified the device again. The server does not store the password."),
    h("div", { class: "field" }, h("label", { for: username.id }, "User name"), username),
    h("div", { class: "field" }, h("label", { for: password.id }, "Password"), password,
      h("p", { class: "hint" }, "Leave empty to find out which devices need a password.")),
    h("div", { class: "field" },
      h("label", { class: "check" }, defaults, " Also try the default passwords of each make"),
      h("p", { class: "hint", id: defaultsHint }, "Each is tried once, at most three on a device. Some devices lock their login after several refused passwords.")));
  const heading = all ? ["Pair all unpaired devices of ", nameOf(node)] : identifiers.length === 1 ? ["Pair ", foreign(identifiers[0])] : [`Pair ${plural(identifiers.length, "device")}`];
  let devices = null;
  let results = [];
  let open = true;
  let pairing = "";
  let stopCounting = () => {};

  close.addEventListener("click", () => dialog.close());
  stop.addEventListener("click", () => attempt(error, () => busy(stop, () => call(`${SERVICE}/CancelPairing`, { pairingId: pairing }))));
  password.addEventListener("input", showPreview);
  defaults.addEventListener("change", showPreview);

  function showPreview() {
    if (!all) return;
    if (!devices) {
      fill(preview, h("p", { class: "hint" }, "Counting the devices…"));
      return;
    }
    const obstacles = devices.map((device) => pairingObstacle(device, { node, names, withPassword: Boolean(password.value) || defaults.checked })).filter(Boolean);
    const possible = devices.length - obstacles.length;
    fill(preview,
      h("p", { class: "pair-count" }, h("strong", {}, `${count(possible)} of ${plural(devices.length, "device")}`), " can be paired."),
      h("ul", { class: "plain-list hint" }, groupBy(obstacles, (text) => text).map(([text, group]) => h("li", {}, `${text}: ${count(group.length)}`))));
    submit.disabled = possible === 0;
  }

  function begin(event) {
    event.preventDefault();
    if (!submit.disabled) attempt(error, () => busy(submit, run));
  }

  async function run() {
    const credentials = password.value || defaults.checked
      ? { credentials: { username: username.value, ...(password.value ? { password: password.value } : {}), ...(defaults.checked ? { tryDefaults: true } : {}) } }
      : {};
    results = [];
    let before = { done: 0, targets: 0 };
    for (const [at, part] of parts.entries()) {
      const { pairingId, refused = [] } = await call(`${SERVICE}/StartPairing`, { ...part, ...credentials });
      pairing = pairingId;
      // The dialog stays open while the pairing runs, and needs the password no longer.
      if (at === parts.length - 1) delete credentials.credentials;
      password.value = "";
      show(fields, false);
      show(submit, false);
      show(stop, true);
      // The focused field is gone: continue where the results appear.
      if (at === 0) state.focus();
      add(refused);
      const ended = await follow(before, at === parts.length - 1);
      if (!ended) break;
      before = ended;
    }
    show(stop, false);
    close.focus();
  }

  /** Shows the results of a part until it ends. Returns the numbers so far, or null if the rest must not start. */
  async function follow(before, last) {
    let after = "0";
    while (open) {
      const page = await call(`${SERVICE}/GetPairing`, { pairingId: pairing, after });
      if (!open) return null;
      const fresh = page.results ?? [];
      after = page.nextCursor ?? after;
      add(fresh);
      const { ended, code, reason } = page.pairing ?? {};
      const done = before.done + int(page.pairing?.done);
      const targets = before.targets + int(page.pairing?.targets);
      const finished = ended && fresh.length === 0;
      setText(state, `${finished && last ? "Done: " : ""}${count(done)} of ${plural(targets, "device")} tried${finished && last ? "." : ""}`);
      if (finished) {
        if (code === "ok") return { done, targets };
        error.show(reason);
        return null;
      }
      if (fresh.length === 0) await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
    }
    return null;
  }

  function add(fresh) {
    if (fresh.length === 0) return;
    results.push(...fresh);
    const opened = new Set([...groups.querySelectorAll("details[open]")].map((group) => group.dataset.reason));
    fill(groups, groupBy(results, ({ pairingStatus, open: isOpen, error: why }) => `${isOpen ? "OPEN" : statusName(pairingStatus)}\n${why ?? ""}`).map(([key, members]) => {
      const [status, why] = key.split("\n");
      return h("details", { class: "pair-group", "data-reason": key, open: opened.has(key) },
        h("summary", {}, h("strong", {}, count(members.length)), " ", pairingBadge(status), why ? h("span", { class: "hint" }, " ", foreign(sentence(why))) : null),
        h("ul", { class: "plain-list" }, members.slice(0, EXAMPLES).map(({ deviceIdentifier }) => h("li", {}, h("code", {}, foreign(deviceIdentifier)))),
          members.length > EXAMPLES ? h("li", { class: "hint" }, `and ${count(members.length - EXAMPLES)} more`) : null));
    }));
  }

  const { dialog, closed } = openDialog(heading, (title) => h("form", { method: "post", class: "stack", novalidate: true, onsubmit: begin },
    title, fields, error.element, state, groups, h("div", { class: "actions actions-end" }, close, stop, submit)));
  showPreview();
  if (all) {
    stopCounting = poll(0, async () => {
      devices = await devicesOf(node);
      if (open) showPreview();
    }, { quiet: true, failed: error.show });
  }
  password.focus();
  return closed.then(() => {
    open = false;
    stopCounting();
  });
}
