// Creates elements and announces texts. All DOM of this page is created here, so text is never parsed as markup.

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

/** Converts a text of the server into nodes: text between backticks becomes a code element. */
export function rich(text) {
  return String(text ?? "").split("`").map((part, at, all) => (at % 2 === 1 && at < all.length - 1 ? h("code", {}, part) : part));
}

/** Sets a text only if it differs. An unchanged text keeps the selection and is not announced again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
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
