// The selection of rows: a checkbox for each, and a bar with the actions for all selected ones. The selection stays when
// the table shows another page.

import { restoreFocus } from "./dialog.js";
import { h, setText, show } from "./dom.js";
import { isolate, plural } from "./format.js";

/**
 * Creates the selection. `noun` names a row, and `actions` is a list of `{ id, label, look, run(items) }`, with `run`
 * called with the selected items. An action can have `fits(item)`; it is then called with the fitting items only and
 * hidden without one.
 */
export function selection({ noun, actions }) {
  const items = new Map();
  /** @type {Map<string, HTMLInputElement>} The checkboxes that are shown. */
  const boxes = new Map();
  const count = h("strong", { role: "status" });
  const buttons = actions.map((action) => {
    const button = h("button", { type: "button", class: `button button-small ${action.look ?? ""}`.trim(), id: action.id, onclick: () => action.run(fitting(action), button) }, action.label);
    return { action, button };
  });
  const clear = h("button", { type: "button", class: "button button-small button-quiet", onclick: () => { set([]); restoreFocus(null); } }, "Clear selection");
  const bar = h("div", { class: "selection-bar", role: "region", "aria-label": `Selected ${noun}s`, hidden: true },
    count, h("span", { class: "actions" }, buttons.map(({ button }) => button), clear));
  let listener = () => {};

  const fitting = ({ fits }) => [...items.values()].filter((item) => !fits || fits(item));

  function update() {
    setText(count, `${plural(items.size, noun)} selected`);
    for (const { action, button } of buttons) {
      const fit = fitting(action).length;
      show(button, fit > 0);
      setText(button, fit < items.size ? `${action.label} (${fit})` : action.label);
    }
    show(bar, items.size > 0);
    listener();
  }

  /** Replaces the selection by `[key, item]` pairs. */
  function set(pairs) {
    items.clear();
    for (const [key, item] of pairs) items.set(key, item);
    for (const [key, box] of boxes) box.checked = items.has(key);
    update();
  }

  return {
    bar,
    /** Creates the checkbox of a row. `name` is a text of the network. */
    box(key, item, name) {
      const box = h("input", { type: "checkbox", class: "row-box", "aria-label": `Select ${isolate(name)}` });
      box.checked = items.has(key);
      // A row that is shown again can have changed.
      if (box.checked) items.set(key, item);
      box.addEventListener("change", () => {
        if (box.checked) items.set(key, item);
        else items.delete(key);
        update();
      });
      boxes.set(key, box);
      return box;
    },
    /** Forgets the checkboxes of rows that are no longer shown. */
    forget() {
      boxes.clear();
    },
    /** Adds `[key, item]` pairs. */
    add(pairs) {
      set([...items, ...pairs]);
    },
    /** Removes keys. */
    remove(keys) {
      const gone = new Set(keys);
      set([...items].filter(([key]) => !gone.has(key)));
    },
    set,
    has: (key) => items.has(key),
    get size() {
      return items.size;
    },
    /** Calls `work` whenever the selection changes. */
    onchange(work) {
      listener = work;
    },
  };
}

/** A checkbox in the head of a table that selects all shown rows. `pairs` returns them as `[key, item]`. */
export function selectAllBox(chosen, pairs, label) {
  const box = h("input", { type: "checkbox", class: "row-box", "aria-label": label });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(pairs());
    else chosen.remove(pairs().map(([key]) => key));
  });
  return {
    box,
    update() {
      const shown = pairs();
      const selected = shown.filter(([key]) => chosen.has(key)).length;
      box.checked = shown.length > 0 && selected === shown.length;
      box.indeterminate = selected > 0 && selected < shown.length;
    },
  };
}
