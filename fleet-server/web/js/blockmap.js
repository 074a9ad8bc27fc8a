// The map of one /24 block: 16 x 16 cells, one per address. Each state has a shape as well as a color.

import { h, setText } from "./dom.js";
import { plural, relative } from "./format.js";

/** The states by their byte in the API. */
const STATES = [
  { name: "not_reached", label: "Not reached" },
  { name: "silent", label: "Silent" },
  { name: "refused", label: "Refused" },
  { name: "unidentified", label: "Unidentified" },
  { name: "identified", label: "Identified" },
  { name: "excluded", label: "Excluded" },
  { name: "never", label: "Never scanned" },
];

/** The order of the legend: what was found first. */
const LEGEND = [4, 3, 2, 1, 0, 5, 6];
const SIDE = 16;
const IDENTIFIED = 4;

/** Creates the legend of the states. */
export function mapLegend() {
  return h("ul", { class: "map-legend", "aria-label": "Legend of the maps" }, LEGEND.map((byte) => h("li", {},
    h("span", { class: `map-cell is-${STATES[byte].name}`, "aria-hidden": "true" }), STATES[byte].label)));
}

/**
 * Creates the map of a block. `open(host)` is called when a cell is chosen; `actions` are shown in the head. `set(block)`
 * draws a block of the API and changes only the cells that differ.
 */
export function blockMap({ network, open, actions = [] }) {
  const prefix = network.replace(/0\/24$/, "");
  const cells = Array.from({ length: SIDE * SIDE }, (_one, octet) => h("span", { role: "gridcell", class: "map-cell", tabindex: octet ? "-1" : "0", "data-octet": octet }));
  const grid = h("div", { role: "grid", class: "map-grid" },
    Array.from({ length: SIDE }, (_one, row) => h("div", { role: "row", class: "map-row" }, cells.slice(row * SIDE, (row + 1) * SIDE))));
  // The number of devices, or the cell under the pointer or with the focus.
  const reading = h("p", { class: "map-reading hint" });
  const element = h("div", { role: "group", class: "map-block", "aria-label": network, "data-network": network },
    h("div", { class: "map-head" }, h("h3", {}, network), actions), grid, reading);
  const states = new Uint8Array(SIDE * SIDE).fill(255);
  /** Devices, hosts and answers by octet. */
  let hosts = new Map();
  let current = 0;
  let total = "";

  function describe(octet) {
    const host = hosts.get(octet);
    const target = host?.deviceId ? ", opens the device" : host?.scanId ? ", opens the host" : "";
    const answered = host?.answeredAt ? `, last answer ${relative(host.answeredAt)}` : "";
    return `${prefix}${octet}: ${STATES[states[octet]]?.label.toLowerCase() ?? ""}${answered}${target}`;
  }

  function move(octet, { focus = true } = {}) {
    cells[current].tabIndex = -1;
    current = octet;
    cells[current].tabIndex = 0;
    if (focus) cells[current].focus();
  }

  /** Returns the octet of the cell at an event, or -1. */
  function octetOf(event) {
    const cell = event.target instanceof Element ? event.target.closest("[data-octet]") : null;
    return cell instanceof HTMLElement ? Number(cell.dataset.octet) : -1;
  }

  function choose(octet) {
    const host = hosts.get(octet);
    if (host?.deviceId || host?.scanId) open({ ...host, ip: `${prefix}${octet}` });
  }

  grid.addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: current - 1, ArrowRight: current + 1, ArrowUp: current - SIDE, ArrowDown: current + SIDE,
      Home: event.ctrlKey ? 0 : current - (current % SIDE), End: event.ctrlKey ? SIDE * SIDE - 1 : current - (current % SIDE) + SIDE - 1,
    }[event.key];
    if (event.key === "Enter" || event.key === " ") choose(current);
    else if (to === undefined) return;
    else if (to >= 0 && to < SIDE * SIDE) move(to);
    event.preventDefault();
  });
  grid.addEventListener("click", (event) => {
    const octet = octetOf(event);
    if (octet < 0) return;
    move(octet);
    choose(octet);
  });
  // A label is written when it can be read: 256 texts per block would change with every answer.
  const read = (event) => {
    const octet = octetOf(event);
    if (octet < 0) return;
    setText(reading, describe(octet));
    cells[octet].setAttribute("aria-label", describe(octet));
  };
  const rest = () => setText(reading, total);
  grid.addEventListener("pointerover", read);
  grid.addEventListener("focusin", read);
  grid.addEventListener("pointerleave", rest);
  grid.addEventListener("focusout", rest);

  return {
    element,
    set(block) {
      const bytes = Uint8Array.from(atob(block.outcomes ?? ""), (one) => one.charCodeAt(0));
      hosts = new Map((block.hosts ?? []).map((host) => [Number(host.octet ?? 0), {
        deviceId: host.deviceId && host.deviceId !== "0" ? String(host.deviceId) : "", scanId: host.scanId ?? "", answeredAt: host.answeredAt,
      }]));
      let identified = 0;
      for (const [octet, cell] of cells.entries()) {
        const byte = bytes[octet] < STATES.length ? bytes[octet] : STATES.length - 1;
        if (byte === IDENTIFIED) identified += 1;
        const opens = Boolean(hosts.get(octet)?.deviceId || hosts.get(octet)?.scanId);
        cell.classList.toggle("opens", opens);
        if (states[octet] === byte) continue;
        cell.classList.remove(`is-${STATES[states[octet]]?.name}`);
        cell.classList.add(`is-${STATES[byte].name}`);
        states[octet] = byte;
        cell.setAttribute("aria-label", describe(octet));
      }
      const next = identified ? plural(identified, "device") : "No devices";
      if (reading.textContent === total) setText(reading, next);
      total = next;
      grid.setAttribute("aria-label", `${network}: ${plural(identified, "device")}. Use the arrow keys`);
    },
  };
}
