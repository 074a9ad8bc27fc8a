// The labels of a device: links to the devices that share them, and their editor.

import { attempt, may } from "./app.js";
import { busy, errorBox, openDialog } from "./dialog.js";
import { announce, fill, foreign, freshId, h } from "./dom.js";
import { isolate, plural } from "./format.js";
import { call } from "./rpc.js";

/** Labels shown in a row. */
const SHOWN = 2;
/** Devices that one call labels. */
const MOST = 256;

/** Returns a label as a link to the devices that have it. */
export function labelLink(label) {
  return h("a", { class: "label-link", href: `#/devices?search=${encodeURIComponent(`label:${label}`)}` }, foreign(label));
}

/** Returns the first labels of a device as links and the number of the others. Empty without labels. */
export function labelLinks(labels = []) {
  if (!labels.length) return [];
  const others = labels.slice(SHOWN);
  return [h("span", { class: "row-labels" }, labels.slice(0, SHOWN).map(labelLink),
    others.length ? h("span", { class: "hint", title: isolate(others.join(", ")) }, `+${others.length}`) : null)];
}

/** Returns labels after a change of them. */
export function relabeled(labels = [], { add, remove }) {
  return [...new Set([...labels, ...add])].filter((label) => !remove.includes(label)).sort();
}

/** Splits labels at blanks and commas. The server keeps them in lower case. */
function labelsOf(text) {
  return [...new Set(text.toLowerCase().split(/[\s,;]+/).filter(Boolean))];
}

/**
 * Asks for labels, and adds them to devices or removes them. Resolves to the change, `{ add, remove }`, or to null if the
 * operator declined. Devices are named by their `deviceId`.
 */
export async function labelDialog(devices) {
  const id = freshId("labels");
  const error = errorBox();
  const field = (key, autofocus) => h("input", { id: `${id}-${key}`, class: "input", maxlength: "512", autocomplete: "off", autocapitalize: "none", spellcheck: "false", autofocus, "aria-describedby": `${id}-hint` });
  const add = field("add", true);
  const remove = field("remove", false);
  const apply = h("button", { type: "submit", class: "button button-primary", id: "dialog-action" }, "Save labels");
  const cancel = h("button", { type: "button", class: "button", onclick: () => dialog.close("no") }, "Cancel");
  const ids = devices.map(({ deviceId }) => deviceId);
  let change = { add: [], remove: [] };

  async function save(event) {
    event.preventDefault();
    change = { add: labelsOf(add.value), remove: labelsOf(remove.value) };
    if (!change.add.length && !change.remove.length) {
      error.show("Enter a label to add or to remove.");
      add.focus();
      return;
    }
    await attempt(error, async () => {
      await busy(apply, async () => {
        for (let at = 0; at < ids.length; at += MOST) await call("fleet.v1.DeviceDetailService/LabelDevices", { deviceIds: ids.slice(at, at + MOST), ...change });
      });
      announce(`Labels of ${plural(ids.length, "device")} saved.`);
      dialog.close("yes");
    });
  }

  const { dialog, closed } = openDialog(`Label ${plural(ids.length, "device")}`, (heading) => h("form", { class: "stack", novalidate: true, onsubmit: save },
    heading,
    h("div", { class: "field" }, h("label", { for: add.id }, "Labels to add"), add),
    h("div", { class: "field" }, h("label", { for: remove.id }, "Labels to remove"), remove),
    h("p", { class: "hint", id: `${id}-hint` }, "Letters, digits and - _ . /, such as rack-7. Separate labels by blanks or commas."),
    error.element, h("div", { class: "actions actions-end" }, cancel, apply)));
  return await closed === "yes" ? change : null;
}

/** Creates the editor. `changed` loads the device again; `set(labels)` shows its labels. */
export function labelEditor({ deviceId, error, changed }) {
  const manage = may("fleetnode:manage");
  const id = freshId("label");
  const list = h("ul", { class: "labels", "aria-label": "Labels" });
  const box = h("input", { id, class: "input", maxlength: "32", autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-hint` });
  const add = h("button", { type: "submit", class: "button" }, "Add");
  const form = h("form", { class: "label-form", onsubmit: (event) => { event.preventDefault(); send(add, { add: [box.value.trim()] }, "Label added."); } },
    h("label", { for: id, class: "visually-hidden" }, "New label"), box, add,
    h("p", { class: "hint", id: `${id}-hint` }, "Letters, digits and - _ . /, such as rack-7"));

  async function send(button, change, done) {
    if (change.add?.[0] === "") return;
    await attempt(error, async () => {
      await busy(button, () => call("fleet.v1.DeviceDetailService/LabelDevices", { deviceIds: [deviceId], ...change }));
      box.value = "";
      announce(done);
      await changed();
      if (manage) box.focus();
    });
  }

  function item(label) {
    const remove = h("button", { type: "button", class: "label-remove", "aria-label": `Remove label ${isolate(label)}` }, "×");
    remove.addEventListener("click", () => send(remove, { remove: [label] }, "Label removed."));
    return h("li", { class: "label" }, labelLink(label), manage ? remove : null);
  }

  return {
    element: h("div", {}, list, manage ? form : null),
    set(labels) {
      fill(list, labels.length ? labels.map(item) : h("li", { class: "none" }, "None"));
    },
  };
}
