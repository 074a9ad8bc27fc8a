// Pairing devices: whom they are bound to, releasing them, and trying a password on them through a node.

import { handledSignOut, may } from "./app.js";
import { busy, confirmDialog, errorBox } from "./dialog.js";
import { announce, fill, freshId, h, setText, show } from "./dom.js";
import { int, plural } from "./format.js";
import { call } from "./rpc.js";

/** Between two looks at a pairing that runs. */
const LOOK_MS = 500;

const SERVICE = "fleet.v1.DevicePairingService";

const STATUS = {
  PAIRED: { word: "Paired", look: "good" },
  DEFAULT_PASSWORD: { word: "Default password", look: "bad" },
  AUTHENTICATION_NEEDED: { word: "Needs password", look: "wait" },
  FAILED: { word: "Failed", look: "bad" },
  PENDING: { word: "Pairing…", look: "wait" },
  UNPAIRED: { word: "Not paired", look: "off" },
};

/** A status as a badge: by its name with or without the prefix of the wire. */
export function pairingBadge(status, error) {
  const { word, look } = STATUS[String(status ?? "").replace("PAIRING_STATUS_", "")] ?? STATUS.UNPAIRED;
  return h("span", { class: `badge badge-${look}`, title: error || null }, word);
}

/**
 * The cell of a device: where its pairing stands, whom it is bound to, and what can be done about it.
 * `changed` is called when something was.
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
    body: ["It is then bound to no node, and the credentials that its node stored for it are deleted. It stays in the inventory and can be paired again."],
    action: "Unpair",
    cancel: "Keep it paired",
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
 * Asks for credentials and pairs devices on a node, showing each result as it comes. Without `identifiers` it is
 * everything on the node that is not paired. Resolves when the dialog is closed; what was begun goes on.
 */
export function pairDialog({ node, name, identifiers = [] }) {
  const title = identifiers.length === 1 ? `Pair ${identifiers[0]}` : `Pair every unpaired device of ${name}`;
  const heading = freshId("pair-title");
  const error = errorBox();
  const username = h("input", { id: freshId("pair-user"), class: "input", value: "root", maxlength: 255, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  // Without a name the field is in no form submission, and no password manager is asked to keep a device's password.
  const password = h("input", { id: freshId("pair-password"), class: "input mono", type: "password", maxlength: 1024, autocomplete: "off" });
  const submit = h("button", { type: "submit", class: "button button-primary" }, "Pair");
  const stop = h("button", { type: "button", class: "button button-quiet-danger", hidden: true }, "Stop");
  const close = h("button", { type: "button", class: "button" }, "Close");
  const state = h("p", { role: "status", class: "hint" });
  const results = h("ul", { class: "plain-list", "aria-label": "Results" });
  const fields = h("div", { class: "stack" },
    h("p", {}, `The password is sent to ${name} and tried there, once on each device that still is what it was found to be. This server does not store it.`),
    h("div", { class: "field" }, h("label", { for: username.id }, "User name"), username),
    h("div", { class: "field" }, h("label", { for: password.id }, "Password"), password,
      h("p", { class: "hint" }, "Leave it empty to find out which devices want one.")));
  const dialog = h("dialog", { class: "dialog", "aria-labeledby": heading },
    h("form", { method: "post", class: "stack", novalidate: true, onsubmit: begin },
      h("h2", { id: heading }, title), fields, error.element, state, results,
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
    fill(results);
    add(refused);
    await follow();
    show(stop, false);
  }

  async function follow() {
    let after = "0";
    while (open) {
      const page = await call(`${SERVICE}/GetPairing`, { pairingId: pairing, after });
      if (!open) return;
      const told = page.results ?? [];
      after = page.nextCursor ?? after;
      add(told);
      const { done = "0", targets = "0", ended, code, reason } = page.pairing ?? {};
      setText(state, `${done} of ${plural(int(targets), "device")} tried`);
      if (ended && told.length === 0) {
        if (code !== "ok") error.show(reason);
        else setText(state, `Done: ${done} of ${plural(int(targets), "device")} tried.`);
        return;
      }
      if (told.length === 0) await new Promise((resolve) => { setTimeout(resolve, LOOK_MS); });
    }
  }

  function add(told) {
    for (const { deviceIdentifier, pairingStatus, error: why } of told) {
      results.append(h("li", {}, pairingBadge(pairingStatus), " ", h("code", {}, deviceIdentifier), why ? h("span", { class: "hint" }, ` ${why}`) : null));
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
