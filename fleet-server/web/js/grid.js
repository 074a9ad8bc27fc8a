// Tables whose rows are appended in blocks: the browser skips what is out of sight, so that ten thousand rows stay
// as light as ten. Built from ARIA roles, since table rows cannot be skipped.

import { h } from "./dom.js";
import { deviceLink, endpoint } from "./format.js";

/** Rows in one block. */
const BLOCK = 50;

/**
 * Makes a table. `kind` names its column widths in the style sheet; `columns` is a list of `{ name, label }`.
 * Cells are given by name as text, element or list of them.
 */
export function grid({ kind, label, columns }) {
  const body = h("div", { role: "rowgroup", class: "grid-body" });
  const element = h("div", { role: "table", class: `grid grid-${kind}`, "aria-label": label },
    h("div", { role: "rowgroup", class: "grid-head" },
      h("div", { role: "row", class: "row" },
        columns.map(({ name, label: text }) => h("span", { role: "columnheader", class: `cell cell-${name}` }, text)))),
    body);
  let block = null;

  function row(cells, properties = {}) {
    return h("div", { role: "row", ...properties, class: `row ${properties.class ?? ""}`.trim() },
      columns.map(({ name }) => h("span", { role: "cell", class: `cell cell-${name}` }, cells[name])));
  }

  return {
    element,
    row,
    /** Appends rows at the end; what stands above does not move. */
    append(rows) {
      for (const next of rows) {
        if (!block || block.childElementCount >= BLOCK) {
          block = h("div", { class: "grid-block", role: "presentation" });
          body.append(block);
        }
        block.append(next);
      }
    },
    /** Puts a row before all others. */
    prepend(next) {
      if (body.firstElementChild) body.firstElementChild.prepend(next);
      else this.append([next]);
    },
    clear() {
      body.replaceChildren();
      block = null;
    },
  };
}

/** A device's address: a link where its scheme is one that a browser may follow. */
export function deviceAddress(device) {
  const text = endpoint(device.ip, device.port);
  const link = deviceLink(device);
  return link ? h("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, text) : text;
}
