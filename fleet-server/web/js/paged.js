// A table that shows one page at a time, with buttons for the previous and the next page. The server pages by cursor.

import { poll } from "./app.js";
import { errorBox, restoreFocus } from "./dialog.js";
import { announce, h, setText, show } from "./dom.js";
import { plural } from "./format.js";
import { grid } from "./grid.js";

/**
 * Creates the table. `grid` are the options of `grid`; `noun` names a row, `empty` is shown without rows, and `labels`
 * are the texts of the two buttons. `load(cursor)` resolves to `{ rows, next }`; the first cursor is "0", and `next` is
 * "0" on the last page. A page that cannot be loaded because the server is not reachable is retried.
 */
export function pagedTable({ grid: options, noun, empty, size, labels, load }) {
  const error = errorBox();
  const table = grid(options);
  const loading = h("p", { class: "loading" }, `Loading ${noun}s…`);
  const previous = h("button", { type: "button", class: "button", disabled: true, onclick: () => go(() => cursors.pop()) }, labels.previous);
  const next = h("button", { type: "button", class: "button", disabled: true, onclick: () => go(() => cursors.push(following)) }, labels.next);
  const position = h("span", { class: "hint" });
  const pager = h("nav", { class: "pager", "aria-label": `Pages of ${noun}s` }, previous, position, next);
  show(empty, false);
  show(table.element, false);
  show(pager, false);

  // Cursors of the pages up to the current one.
  let cursors = ["0"];
  let following = "0";
  let stop = () => {};
  let loaded = Promise.resolve();

  /** Loads the current page. An earlier load that is still running is ignored. */
  function reload() {
    stop();
    error.clear();
    previous.disabled = true;
    next.disabled = true;
    loaded = new Promise((resolve) => {
      let current = true;
      const end = poll(0, async () => {
        const page = await load(cursors.at(-1));
        if (!current) return;
        display(table, page);
        resolve();
      }, { failed: (failure) => { loading.remove(); error.show(failure); enable(); resolve(); } });
      stop = () => { current = false; end(); resolve(); };
    });
    return loaded;
  }

  function display(shown, { rows, next: cursor }) {
    following = String(cursor || "0");
    const focused = /** @type {HTMLElement | null | undefined} */ (document.activeElement?.closest("[data-key]"));
    const key = shown.element.contains(focused) ? focused.dataset.key : null;
    shown.clear();
    shown.append(rows);
    // The focused button was replaced with its row: continue at the new row.
    if (key !== null) {
      const row = rows.find((one) => one.dataset.key === key);
      restoreFocus(row?.querySelector("button") ?? row?.querySelector("a"));
    }
    const first = (cursors.length - 1) * size;
    setText(position, rows.length ? `${first + 1} to ${first + rows.length}` : "");
    loading.remove();
    show(empty, rows.length === 0 && cursors.length === 1);
    show(shown.element, rows.length > 0);
    show(pager, cursors.length > 1 || following !== "0");
    enable();
    announce(`${plural(rows.length, noun)} shown.`);
  }

  function enable() {
    previous.disabled = cursors.length < 2;
    next.disabled = following === "0";
  }

  async function go(change) {
    change();
    await reload();
    window.scrollTo(0, 0);
    // The button that was used may be disabled on this page, which would drop the focus.
    if (document.activeElement === document.body) (next.disabled ? previous : next).focus({ preventScroll: true });
  }

  return {
    elements: [error.element, loading, empty, table.element, pager],
    error,
    row: table.row,
    reload,
    /** Returns to the first page, after a filter has changed. */
    restart: () => go(() => { cursors = ["0"]; following = "0"; }),
    stop: () => stop(),
  };
}
