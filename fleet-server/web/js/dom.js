// Making and announcing elements. The only way this page makes DOM: text goes in as text, never as markup.

/**
 * Makes an element. Properties that begin with `on` are listeners; `class`, `data-*`, `aria-*` and the rest are
 * attributes; `false`, `null` and `undefined` leave an attribute out.
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

/** Appends texts, elements and nested arrays of them; nothing for `null`, `undefined` and `false`. */
export function append(parent, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return parent;
}

/** Replaces what an element holds. */
export function fill(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

/** A server's text as it is shown: what stands between back-ticks becomes code. */
export function rich(text) {
  return String(text ?? "").split("`").map((part, at, all) => (at % 2 === 1 && at < all.length - 1 ? h("code", {}, part) : part));
}

/** Sets a text only when it differs, so that screen readers and selections are left in peace. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows or hides an element. */
export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

let counter = 0;

/** An id that is free on this page, for labels and descriptions. */
export function freshId(prefix) {
  counter += 1;
  return `${prefix}-${counter}`;
}

/** Says something to screen readers without moving the focus. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  // A live region speaks on change only: the same words twice need a gap.
  setTimeout(() => { announcer.textContent = text; }, 50);
}
