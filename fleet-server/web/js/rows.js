// The devices of a scan as table rows in order of arrival. Rows are appended once per frame, never move, and are
// limited to a page.

import { fill, h } from "./dom.js";
import { count, endpoint, int, makeAndModel } from "./format.js";
import { deviceAddress, grid, hostName, oneLine } from "./grid.js";
import { labelLinks, relabeled } from "./labels.js";
import { selectAllBox } from "./selection.js";

/** Rows drawn per frame. More would block the page while an old scan of thousands of rows is replayed. */
const ROWS_PER_FRAME = 100;
/** Rows drawn before the operator must ask for more. */
const PAGE = 5000;

const COLUMNS = [
  { name: "endpoint", label: "Address" },
  { name: "model", label: "Device" },
  { name: "firmware", label: "Firmware" },
  { name: "identifier", label: "Identifier" },
  { name: "after", label: "Found after" },
];

/**
 * Creates the table in `container`, and the button that shows more rows in `more`. With `chosen`, rows can be selected:
 * `item(device)` returns the facts that an action needs.
 */
export function deviceRows(container, more, { chosen = null, item = (/** @type {any} */ device) => device } = {}) {
  const whole = chosen && selectAllBox(chosen, () => visible().map((device) => [keyOf(device), item(device)]), "Select all devices shown");
  chosen?.onchange(() => whole.update());
  const table = grid({ kind: "found", label: "Devices found, in order of arrival", columns: whole ? [{ name: "select", label: whole.box }, ...COLUMNS] : COLUMNS });
  const devices = [];
  const drawn = [];
  const positions = new Map();
  const addresses = new Set();
  let shown = 0;
  let allowed = PAGE;
  let offered = -1;
  let wanted = "";

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

  const keyOf = (device) => String(device.device_id ?? device.seq);
  const visible = () => devices.slice(0, shown).filter(matches);

  function rowOf(device) {
    const select = chosen ? { select: chosen.box(keyOf(device), item(device), device.identifier) } : {};
    const row = table.row({ ...select, ...cells(device) }, { "data-seq": device.seq });
    row.hidden = !matches(device);
    return row;
  }

  function matches(device) {
    return !wanted || textOf(device).includes(wanted);
  }

  function redraw(position, device) {
    devices[position] = device;
    if (position >= drawn.length) return;
    const row = rowOf(device);
    drawn[position].replaceWith(row);
    drawn[position] = row;
  }

  return {
    /**
     * Queues a device for the next `paint`. A chunk that runs again can report a device again, whose row then stays
     * where it is and shows the newer report.
     */
    add(device) {
      addresses.add(device.ip);
      const id = keyOf(device);
      const position = positions.get(id);
      if (position === undefined) {
        positions.set(id, devices.length);
        devices.push(device);
        return;
      }
      redraw(position, { ...device, seq: devices[position].seq, labels: devices[position].labels });
    },
    /** Adds labels to the devices with these ids and removes others, after the operator changed them. */
    relabel(ids, change) {
      for (const id of ids) {
        const position = positions.get(id);
        if (position !== undefined) redraw(position, { ...devices[position], labels: relabeled(devices[position].labels, change) });
      }
    },
    /** Number of distinct devices. */
    get count() {
      return devices.length;
    },
    /** Number of distinct hosts that answered as a device. */
    get hosts() {
      return addresses.size;
    },
    /** Shows only the rows with a text. Returns their number among the drawn ones. */
    filter(text) {
      wanted = text.trim().toLowerCase();
      let matching = 0;
      for (const [at, row] of drawn.entries()) {
        const fits = matches(devices[at]);
        if (row.hidden === fits) row.hidden = !fits;
        if (fits) matching += 1;
      }
      whole?.update();
      return matching;
    },
    /** Draws the rows of this frame and schedules another frame if rows remain. */
    paint(schedule) {
      const until = Math.min(devices.length, allowed, shown + ROWS_PER_FRAME);
      if (until > shown) {
        if (!table.element.isConnected) container.append(table.element);
        const rows = devices.slice(shown, until).map(rowOf);
        drawn.push(...rows);
        table.append(rows);
        shown = until;
      }
      if (shown < Math.min(devices.length, allowed)) schedule();
      offer(schedule);
    },
  };
}

/** The texts of a row that a filter searches, in lower case. */
function textOf(device) {
  return `${endpoint(device.ip, device.port)} ${makeAndModel(device)} ${device.firmware ?? ""} ${device.identifier ?? ""} ${(device.labels ?? []).join(" ")}`.toLowerCase();
}

function cells(device) {
  return {
    endpoint: deviceAddress(device, hostName(device.host_name, device.host_name_source)),
    model: [oneLine(makeAndModel(device), "primary"), labelLinks(device.labels)],
    firmware: device.firmware ? oneLine(device.firmware) : h("span", { class: "none" }, "–"),
    identifier: oneLine(device.identifier),
    after: `${(int(device.elapsed_ms) / 1000).toFixed(2)} s`,
  };
}
