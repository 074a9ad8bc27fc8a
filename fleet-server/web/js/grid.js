// Tables for many rows. Rows are in blocks with `content-visibility: auto`, so the browser does not lay out the
// blocks outside the viewport. This does not work for table elements; the table is built from ARIA roles instead.

import { breakable, foreign, h } from "./dom.js";
import { deviceLink, endpoint, isolate } from "./format.js";

/** Sources of host names. */
const SOURCES = new Map([["dns", "reverse DNS"], ["mdns", "mDNS"]]);

/** Rows per block. */
const BLOCK = 50;

/**
 * Creates a table. `kind` selects the column widths in the style sheet; `columns` is a list of `{ name, label }`, whose
 * label is a text or an element. The cells of a row are texts, elements or lists of them, by column name.
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
    /** Appends rows; the rows above do not move. */
    append(rows) {
      for (const next of rows) {
        if (!block || block.childElementCount >= BLOCK) {
          block = h("div", { class: "grid-block", role: "presentation" });
          body.append(block);
        }
        block.append(next);
      }
    },
    /** Inserts a row at the top. */
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

/** Returns the endpoint of a device, as a link if `deviceLink` allows one, and below it the name of its host. */
export function deviceAddress(device, name = null) {
  const text = breakable(endpoint(device.ip, device.port));
  const link = deviceLink(device);
  // The device gets neither the address of this page nor a handle to its window.
  const address = link ? h("a", { href: link, target: "_blank", rel: "noopener noreferrer" }, text) : h("span", {}, text);
  return [address, name];
}

/** Returns a foreign text on one line, which is cut where its cell ends. The whole text is its title. */
export function oneLine(text, look = "") {
  return h("span", { class: `one-line ${look}`.trim(), title: isolate(text) }, foreign(text));
}

/** Returns the name of a host with its source; null if it has none. The name comes from the site's network. */
export function hostName(name, source) {
  return name ? h("span", { class: "hint host-name", title: `Host name by ${SOURCES.get(source) ?? "an unknown source"}` }, foreign(name)) : null;
}
