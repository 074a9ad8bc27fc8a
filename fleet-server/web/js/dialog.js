// Confirmation dialogs and small widgets that views share.

import { announce, fill, freshId, h, rich } from "./dom.js";
import { sentence } from "./format.js";

/**
 * Opens a modal dialog. `content(heading)` creates its content, which must contain the heading. Returns the dialog and a
 * promise that resolves when it is closed. The focus then returns to the element that had it, or, if that is gone, to
 * the heading of the page.
 */
export function openDialog(heading, content) {
  const opener = document.activeElement;
  const id = freshId("dialog");
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": id }, content(h("h2", { id }, heading)));
  const closed = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, closed: closed.then((value) => { restoreFocus(opener); return value; }) };
}

/** Moves the focus to an element, or to the heading of the page if the element cannot have it. */
export function restoreFocus(element) {
  if (element instanceof HTMLElement && element.isConnected && element !== document.body) element.focus({ preventScroll: true });
  if (document.activeElement === null || document.activeElement === document.body) /** @type {HTMLElement | null} */ (document.querySelector("main h1"))?.focus({ preventScroll: true });
}

/** Asks for confirmation. Resolves to whether the operator agreed. */
export async function confirmDialog({ title, body, action, cancel = "Back", danger = false }) {
  const { closed } = openDialog(title, (heading) => h("form", { method: "dialog" },
    heading,
    h("div", { class: "dialog-body" }, (Array.isArray(body) ? body : [body]).map((text) => h("p", {}, text))),
    h("div", { class: "actions actions-end" },
      h("button", { class: "button", value: "no", autofocus: true }, cancel),
      h("button", { class: `button ${danger ? "button-danger" : "button-primary"}`, value: "yes", id: "dialog-action" }, action))));
  return await closed === "yes";
}

/**
 * Asks for a short text. Resolves to the trimmed text, or to null if the operator declined. An empty text cannot be
 * sent.
 */
export async function textDialog({ title, label, hint = "", value = "", action, cancel = "Back", danger = false }) {
  const id = freshId("text");
  const input = h("input", { id, class: "input", maxlength: 255, autocomplete: "off", required: true, autofocus: true, value });
  if (hint) input.setAttribute("aria-describedby", `${id}-hint`);
  const { closed } = openDialog(title, (heading) => h("form", { method: "dialog" },
    heading,
    h("div", { class: "dialog-body" }, h("div", { class: "field" },
      h("label", { for: id }, label), input, hint ? h("p", { id: `${id}-hint`, class: "hint" }, hint) : null)),
    h("div", { class: "actions actions-end" },
      h("button", { class: "button", value: "no", formnovalidate: true, type: "button", onclick: (event) => event.target.closest("dialog").close("no") }, cancel),
      h("button", { class: `button ${danger ? "button-danger" : "button-primary"}`, value: "yes", id: "dialog-action" }, action))));
  const text = await closed === "yes" ? input.value.trim() : "";
  return text || null;
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
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  document.body.append(helper);
  helper.select();
  const done = document.execCommand("copy");
  helper.remove();
  focused?.focus();
  return done;
}

/** Disables a button while `work` runs, which prevents a second run by a second click. */
export async function busy(button, work) {
  const focused = document.activeElement === button;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    return await work();
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
    // A disabled button loses the focus.
    if (focused && document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}
