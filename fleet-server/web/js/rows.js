// The devices of a scan as rows, in the order they came: appended in frames, never moved, and bounded on the page.

import { fill, h } from "./dom.js";
import { count, int, makeAndModel } from "./format.js";
import { deviceAddress, grid } from "./grid.js";

/** Rows made in one frame, so that a replay of thousands never blocks the page. */
const ROWS_A_FRAME = 200;
/** Rows on the page before the rest waits for a click. */
const PAGE = 5000;

const COLUMNS = [
  { name: "endpoint", label: "Address" },
  { name: "model", label: "Device" },
  { name: "firmware", label: "Firmware" },
  { name: "identifier", label: "Identifier" },
  { name: "after", label: "After" },
];

/** Makes the rows in `container`, and the button for more of them in `more`. */
export function deviceRows(container, more) {
  const table = grid({ kind: "found", label: "Devices found, in the order they answered", columns: COLUMNS });
  const devices = [];
  let shown = 0;
  let allowed = PAGE;
  let offered = -1;

  function offer(schedule) {
    const waiting = devices.length - allowed;
    if (waiting === offered || (waiting <= 0 && offered === -1)) return;
    offered = waiting > 0 ? waiting : -1;
    if (waiting <= 0) {
      fill(more);
      return;
    }
    const next = Math.min(PAGE, waiting);
    if (!more.firstChild) {
      fill(more, h("button", { type: "button", class: "button", onclick: () => { allowed += PAGE; offered = -2; schedule(); } }));
    }
    more.firstChild.textContent = `Show ${count(next)} more of ${count(waiting)} devices`;
  }

  return {
    /** Takes a device; it is drawn by the next `paint`. */
    add(device) {
      devices.push(device);
    },
    /** Draws what is due in this frame; asks for another one when there is more. */
    paint(schedule) {
      const until = Math.min(devices.length, allowed, shown + ROWS_A_FRAME);
      if (until > shown) {
        if (!table.element.isConnected) container.append(table.element);
        table.append(devices.slice(shown, until).map((device) => table.row(cells(device), { "data-seq": device.seq })));
        shown = until;
      }
      if (shown < Math.min(devices.length, allowed)) schedule();
      offer(schedule);
    },
  };
}

function cells(device) {
  return {
    endpoint: deviceAddress(device),
    model: [h("span", { class: "primary" }, makeAndModel(device)), device.driver ? h("span", { class: "tag" }, device.driver) : null],
    firmware: device.firmware || h("span", { class: "none" }, "–"),
    identifier: device.identifier,
    after: `${(int(device.elapsed_ms) / 1000).toFixed(2)} s`,
  };
}
