// Creates elements and announces texts. All DOM of this page is created here, so text is never parsed as markup.

import { absolute, relative } from "./format.js";

/**
 * Creates an element. Properties that begin with `on` become listeners, all others become attributes. An attribute
 * whose value is `false`, `null` or `undefined` is omitted.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  append(element, children);
  return element;
}

/** Appends texts, elements and nested arrays of them. Skips `null`, `undefined` and `false`. */
export function append(parent, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return parent;
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

/**
 * Wraps a text that a device, a node or another operator chose. Without isolation, right-to-left characters in it
 * would reorder the text around it.
 */
export function foreign(text) {
  return h("bdi", {}, text);
}

/** Splits an address so that a line can break after its separators, but never inside a number. */
export function breakable(address) {
  return String(address).split(/(?<=[.:\]])/).flatMap((part, at) => (at === 0 ? [part] : [h("wbr"), part]));
}

/** IPv6 addresses, with or without brackets and port. Shorter addresses fit into every line. */
const LONG_ADDRESS = /(\[?[0-9a-fA-F]{1,4}(?::{1,2}[0-9a-fA-F]{1,4}){3,}\]?(?::\d{1,5})?)/;

/** Converts a text of the server into nodes: text between backticks, which may be foreign, becomes a code element. */
export function rich(text) {
  return String(text ?? "").split("`").map((part, at, all) => (at % 2 === 1 && at < all.length - 1
    ? h("code", {}, foreign(part))
    : part.split(LONG_ADDRESS).map((piece, number) => (number % 2 === 1 ? breakable(piece) : piece))));
}

/** Sets a text only if it differs. An unchanged text keeps the selection and is not announced again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Creates a time element. `tickTimes` keeps it relative to now. */
export function timeAgo(timestamp, title = absolute(timestamp)) {
  return setTime(h("time", {}), timestamp, title);
}

/** Sets the timestamp of an element that `timeAgo` created. */
export function setTime(element, timestamp, title = absolute(timestamp)) {
  element.dateTime = timestamp ?? "";
  element.title = title;
  setText(element, relative(timestamp));
  return element;
}

/** Updates every relative time in the document. */
export function tickTimes() {
  for (const element of document.getElementsByTagName("time")) setText(element, relative(element.dateTime));
}

/** Sets `hidden` only if it differs. */
export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

let counter = 0;

/** Returns an unused id, for labels and descriptions. */
export function freshId(prefix) {
  counter += 1;
  return `${prefix}-${counter}`;
}

/** Announces a text to screen readers without moving the focus. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  // A live region announces changes only, so a repeated text needs an empty state in between.
  setTimeout(() => { announcer.textContent = text; }, 50);
}
