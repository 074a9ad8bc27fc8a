// The labels of a device: links to the devices that share them, and their editor.

import { attempt, may } from "./app.js";
import { busy } from "./dialog.js";
import { announce, fill, foreign, freshId, h } from "./dom.js";
import { isolate } from "./format.js";
import { call } from "./rpc.js";

/** Returns a label as a link to the devices that have it. */
export function labelLink(label) {
  return h("a", { class: "label-link", href: `#/devices?search=${encodeURIComponent(`label:${label}`)}` }, foreign(label));
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
