// Pairing: the pairing status and binding of a device, unpairing it, and the dialog that pairs devices on a node.

import { handledSignOut, may } from "./app.js";
import { busy, confirmDialog, errorBox } from "./dialog.js";
import { announce, fill, freshId, h, setText, show } from "./dom.js";
import { count, int, plural } from "./format.js";
import { call } from "./rpc.js";

/** Interval between two polls of a running pairing. */
const POLL_MS = 500;

const SERVICE = "fleet.v1.DevicePairingService";

const STATUS = {
  PAIRED: { word: "Paired", look: "good" },
  DEFAULT_PASSWORD: { word: "Default password", look: "bad" },
  AUTHENTICATION_NEEDED: { word: "Needs password", look: "wait" },
  FAILED: { word: "Failed", look: "bad" },
  PENDING: { word: "Pairing…", look: "wait" },
  UNPAIRED: { word: "Not paired", look: "off" },
};

/** Creates the badge of a status. The prefix of the API name is optional. */
export function pairingBadge(status, error) {
  const { word, look } = STATUS[String(status ?? "").replace("PAIRING_STATUS_", "")] ?? STATUS.UNPAIRED;
  return h("span", { class: `badge badge-${look}`, title: error || null }, word);
}

/**
 * Creates the table cell of a device: its pairing status, its binding and the possible actions.
 * `changed` is called after an action.
 */
export function pairingCell(device, names, { error, changed }) {
  const bound = String(device.boundToFleetNodeId ?? "0");
  const binding = device.boundToServer ? "by the server" : int(bound) ? `to ${names.get(bound) ?? `node ${bound}`}` : "";
  const status = String(device.pairingStatus ?? "UNPAIRED");
  const actions = [];
  if (may("miner:pair") && !device.boundToServer && names.has(String(device.fleetNodeId ?? "0"))) {
    actions.push(h("button", { type: "button", class: "button button-quiet", "aria-label": `Pair ${device.identifier}`,
      onclick: () => pairDialog({ node: String(device.fleetNodeId), name: names.get(String(device.fleetNodeId)), identifiers: [device.identifier] }).then(changed) }, "Pair"));
  }
  if (may("fleetnode:manage") && (binding || status !== "UNPAIRED")) {
    actions.push(h("button", { type: "button", class: "button button-quiet-danger", "aria-label": `Unpair ${device.identifier}`,
      onclick: (event) => unpair(event.currentTarget, device, error, changed) }, "Unpair"));
  }
  return [pairingBadge(status, device.pairingError), binding ? h("span", { class: "hint" }, ` ${binding}`) : null,
    actions.length ? h("span", { class: "row-actions" }, actions) : null];
}

async function unpair(button, device, error, changed) {
  const agreed = await confirmDialog({
    title: `Unpair ${device.identifier}?`,
    body: ["The binding is removed, and the credentials that the node stored for the device are deleted. The device stays in the inventory and can be paired again."],
    action: "Unpair",
    cancel: "Keep paired",
    danger: true,
  });
  if (!agreed) return;
  error.clear();
  try {
    await busy(button, () => call("fleetnodeadmin.v1.FleetNodeAdminService/UnpairDevice", { deviceId: device.deviceId }));
    announce("Device unpaired.");
    await changed();
  } catch (failure) {
    if (!handledSignOut(failure)) error.show(failure);
  }
}

/**
 * Asks for credentials, pairs devices on a node and shows the results live. Without `identifiers`, all unpaired
 * devices of the node are paired. Resolves when the dialog is closed; a running pairing continues.
 */
export function pairDialog({ node, name, identifiers = [] }) {
  const title = identifiers.length === 1 ? `Pair ${identifiers[0]}` : `Pair all unpaired devices of ${name}`;
  const heading = freshId("pair-title");
  const error = errorBox();
  const username = h("input", { id: freshId("pair-user"), class: "input", value: "root", maxlength: 255, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  // Without a name, the field is never submitted with the form, and no password manager offers to store the password.
  const password = h("input", { id: freshId("pair-password"), class: "input mono", type: "password", maxlength: 1024, autocomplete: "off" });
  const submit = h("button", { type: "submit", class: "button button-primary" }, "Pair");
  const stop = h("button", { type: "button", class: "button button-quiet-danger", hidden: true }, "Cancel pairing");
  const close = h("button", { type: "button", class: "button" }, "Close");
  const state = h("p", { role: "status", class: "hint" });
  const list = h("ul", { class: "plain-list", "aria-label": "Results" });
  const fields = h("div", { class: "stack" },
    h("p", {}, `${name} tries this password once on each device, after it has identified the device again. The server does not store the password.`),
    h("div", { class: "field" }, h("label", { for: username.id }, "User name"), username),
    h("div", { class: "field" }, h("label", { for: password.id }, "Password"), password,
      h("p", { class: "hint" }, "Leave empty to find out which devices need a password.")));
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": heading },
    h("form", { method: "post", class: "stack", novalidate: true, onsubmit: begin },
      h("h2", { id: heading }, title), fields, error.element, state, list,
      h("div", { class: "actions actions-end" }, close, stop, submit)));
  let open = true;
  let pairing = "";

  close.addEventListener("click", () => dialog.close());
  stop.addEventListener("click", () => attempt(() => busy(stop, () => call(`${SERVICE}/CancelPairing`, { pairingId: pairing }))));

  async function attempt(work) {
    error.clear();
    try {
      await work();
    } catch (failure) {
      if (open && !handledSignOut(failure)) error.show(failure);
    }
  }

  function begin(event) {
    event.preventDefault();
    attempt(() => busy(submit, run));
  }

  async function run() {
    const message = { fleetNodeId: node, deviceIdentifiers: identifiers, allUnpaired: identifiers.length === 0 };
    if (password.value) message.credentials = { username: username.value, password: password.value };
    password.value = "";
    const { pairingId, refused = [] } = await call(`${SERVICE}/StartPairing`, message);
    pairing = pairingId;
    show(fields, false);
    show(submit, false);
    show(stop, true);
    fill(list);
    add(refused);
    await follow();
    show(stop, false);
  }

  async function follow() {
    let after = "0";
    while (open) {
      const page = await call(`${SERVICE}/GetPairing`, { pairingId: pairing, after });
      if (!open) return;
      const results = page.results ?? [];
      after = page.nextCursor ?? after;
      add(results);
      const { done = "0", targets = "0", ended, code, reason } = page.pairing ?? {};
      setText(state, `${count(done)} of ${plural(targets, "device")} tried`);
      if (ended && results.length === 0) {
        if (code !== "ok") error.show(reason);
        else setText(state, `Done: ${count(done)} of ${plural(targets, "device")} tried.`);
        return;
      }
      if (results.length === 0) await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
    }
  }

  function add(entries) {
    for (const { deviceIdentifier, pairingStatus, error: why } of entries) {
      list.append(h("li", {}, pairingBadge(pairingStatus), " ", h("code", {}, deviceIdentifier), why ? h("span", { class: "hint" }, ` ${why}`) : null));
    }
  }

  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      open = false;
      dialog.remove();
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
    password.focus();
  });
}
