// The devices of a scan as table rows in order of arrival. Rows are appended once per frame, do not move unless the
// filter changes, and are limited to a page. The filter searches all devices, also those without a row.

import { fill, h } from "./dom.js";
import { count, endpoint, int, makeAndModel } from "./format.js";
import { deviceAddress, grid, hostName, oneLine } from "./grid.js";
import { labelLinks, relabeled } from "./labels.js";
import { selectAllBox } from "./selection.js";

/** Rows drawn per frame. More would block the page while an old scan of thousands of rows is replayed. */
const ROWS_PER_FRAME = 100;
/** Rows drawn before the operator must ask for more. A row costs as much as three events of a replay. */
const PAGE = 1000;

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
  /** Positions of the devices that match the filter. The first `shown` have a row. */
  let matching = [];
  /** @type {Map<number, any>} The rows by position. */
  const drawn = new Map();
  const positions = new Map();
  const addresses = new Set();
  let shown = 0;
  let allowed = PAGE;
  let offered = -1;
  let wanted = "";
  /** Whether a replaced device matches the filter now or does not match it any more. */
  let stale = false;

  function offer(schedule) {
    const waiting = matching.length - allowed;
    if (waiting === offered || (waiting <= 0 && offered === -1)) return;
    offered = waiting > 0 ? waiting : -1;
    if (waiting <= 0) {
      fill(more);
      return;
    }
    const next = Math.min(PAGE, waiting);
    if (!more.firstChild) {
      fill(more, h("button", { type: "button", class: "button", onclick: () => { allowed += PAGE; offered = NaN; schedule(); } }));
    }
    more.firstChild.textContent = `Show ${count(next)} more of ${count(waiting)} devices`;
  }

  const keyOf = (device) => String(device.device_id ?? device.seq);
  const visible = () => matching.slice(0, shown).map((position) => devices[position]);

  function rowOf(device) {
    const select = chosen ? { select: chosen.box(keyOf(device), item(device), device.identifier) } : {};
    return table.row({ ...select, ...cells(device) }, { "data-seq": device.seq });
  }

  function matches(device) {
    return !wanted || textOf(device).includes(wanted);
  }

  /** Replaces a device, and its row if it has one. */
  function redraw(position, device) {
    stale ||= matches(devices[position]) !== matches(device);
    devices[position] = device;
    const before = drawn.get(position);
    if (!before) {
      // An action on a selected device needs its newer address.
      if (chosen?.has(keyOf(device))) chosen.add([[keyOf(device), item(device)]]);
      return;
    }
    const row = rowOf(device);
    before.replaceWith(row);
    drawn.set(position, row);
  }

  /** Removes the rows, so that those of all devices that match now are drawn. */
  function restart() {
    stale = false;
    matching = [...devices.keys()].filter((position) => matches(devices[position]));
    table.clear();
    drawn.clear();
    chosen?.forget();
    shown = 0;
    whole?.update();
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
        if (matches(device)) matching.push(devices.length);
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
    /** Shows only the devices with a text, and draws their rows anew. Returns their number. */
    filter(text, schedule) {
      const next = text.trim().toLowerCase();
      if (next !== wanted) [wanted, allowed] = [next, PAGE];
      else if (!stale) return matching.length;
      restart();
      schedule();
      return matching.length;
    },
    /** Draws the rows of this frame and schedules another frame if rows remain. */
    paint(schedule) {
      if (stale) restart();
      const most = Math.min(matching.length, allowed);
      const until = Math.min(most, shown + ROWS_PER_FRAME);
      if (until > shown) {
        if (!table.element.isConnected) container.append(table.element);
        const next = matching.slice(shown, until);
        const rows = next.map((position) => rowOf(devices[position]));
        for (const [at, position] of next.entries()) drawn.set(position, rows[at]);
        table.append(rows);
        shown = until;
        whole?.update();
      }
      if (shown < most) schedule();
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
