// Confirmation dialogs and small widgets that views share.

import { announce, fill, h, rich } from "./dom.js";
import { sentence } from "./format.js";

/** Asks for confirmation. Resolves to whether the operator agreed. The focus returns to the element that had it. */
export function confirmDialog({ title, body, action, cancel = "Back", danger = false }) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": "dialog-title", "aria-describedby": "dialog-body" },
      h("form", { method: "dialog" },
        h("h2", { id: "dialog-title" }, title),
        h("div", { id: "dialog-body", class: "dialog-body" }, [body].flat().map((text) => h("p", {}, text))),
        h("div", { class: "actions actions-end" },
          h("button", { class: "button", value: "no", autofocus: true }, cancel),
          h("button", { class: `button ${danger ? "button-danger" : "button-primary"}`, value: "yes", id: "dialog-action" }, action))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Creates a box that shows an error and announces it at once. */
export function errorBox() {
  const element = h("div", { class: "notice notice-error", role: "alert", hidden: true });
  return {
    element,
    show(error) {
      fill(element, rich(sentence(error?.message ?? error)));
      element.hidden = false;
    },
    clear() {
      element.hidden = true;
      fill(element);
    },
  };
}

/** Creates a button that copies a text and confirms it. Works without a secure context. */
export function copyButton(text, label = "Copy") {
  const button = h("button", { type: "button", class: "button", onclick: copy }, label);
  let timer = 0;
  async function copy() {
    const done = await copyText(text);
    button.textContent = done ? "Copied" : "Copy failed: select the text";
    announce(button.textContent);
    clearTimeout(timer);
    timer = setTimeout(() => { button.textContent = label; }, 2500);
  }
  return button;
}

async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // The permission was denied: fall back to execCommand.
    }
  }
  const helper = h("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true" });
  helper.value = text;
  const focused = document.activeElement;
  document.body.append(helper);
  helper.select();
  const done = document.execCommand("copy");
  helper.remove();
  focused?.focus();
  return done;
}

/** Disables a button while `work` runs, which prevents a second run by a second click. */
export async function busy(button, work) {
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}
