// The questions that stand between an operator and something that cannot be taken back, and small shared widgets.

import { announce, fill, h, rich } from "./dom.js";
import { sentence } from "./format.js";

/** Asks before doing. Resolves to whether the operator agreed; the focus returns to where it was. */
export function confirmDialog({ title, body, action, cancel = "Keep it", danger = false }) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { class: "dialog", "aria-labeledby": "dialog-title", "aria-describedby": "dialog-body" },
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

/** A refusal where it happened, read out at once. */
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

/** A button that copies a text, and says so. Works without a secure context too. */
export function copyButton(text, label = "Copy") {
  const button = h("button", { type: "button", class: "button", onclick: copy }, label);
  let timer = 0;
  async function copy() {
    const done = await copyText(text);
    button.textContent = done ? "Copied" : "Select and copy by hand";
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
      // Not allowed here: the older way below.
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

/** Disables a button while something runs, so that a second click cannot do it twice. */
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
