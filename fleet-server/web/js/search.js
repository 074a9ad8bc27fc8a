// The search of the inventory: its box, its order, the totals and frequent values, and their form in the URL.

import { poll } from "./app.js";
import { fill, foreign, h, show } from "./dom.js";
import { count, int, plural } from "./format.js";
import { call } from "./rpc.js";

/** The orders by the name in the URL. */
const ORDERS = {
  id: { label: "First found first", order: "DEVICE_ORDER_UNSPECIFIED", descending: false },
  seen: { label: "Last seen first", order: "DEVICE_ORDER_LAST_SEEN", descending: true },
  address: { label: "By address", order: "DEVICE_ORDER_ADDRESS", descending: false },
  unseen: { label: "Longest unseen first", order: "DEVICE_ORDER_LAST_SEEN", descending: false },
  new: { label: "Newest first", order: "DEVICE_ORDER_FIRST_SEEN", descending: true },
  model: { label: "By model", order: "DEVICE_ORDER_MODEL", descending: false },
  firmware: { label: "By firmware", order: "DEVICE_ORDER_FIRMWARE", descending: false },
};

/** The words of the search for pairing states. */
const PAIRING = {
  UNPAIRED: "unpaired", PAIRED: "paired", DEFAULT_PASSWORD: "default-password", OPEN: "open", AUTHENTICATION_NEEDED: "password", PENDING: "pending", FAILED: "failed",
};

/** Values offered of each kind. */
const OFFERED = 6;
const DELAY_MS = 250;

/**
 * Creates the search. `nodeId` returns the selected node, and `changed` is called when the list must be loaded again.
 * The URL holds the search, so that a link opens the same list.
 */
export function deviceSearch({ nodeId, changed }) {
  const stored = new URLSearchParams(location.hash.split("?")[1] ?? "");
  const box = h("input", {
    id: "device-search", class: "input", type: "search", autocomplete: "off", spellcheck: "false", maxlength: "512",
    "aria-describedby": "device-search-hint", placeholder: "model:S19 site:barn seen:<1d",
  });
  box.value = stored.get("search") ?? "";
  const order = h("select", { id: "device-order", class: "input" },
    Object.entries(ORDERS).map(([name, { label }]) => h("option", { value: name }, label)));
  order.value = Object.hasOwn(ORDERS, stored.get("order") ?? "") ? stored.get("order") : "id";
  const total = h("p", { class: "about", id: "device-total", role: "status" });
  const facets = h("div", { class: "facets", hidden: true });
  const element = h("form", { class: "search", role: "search", onsubmit: (event) => { event.preventDefault(); apply(); } },
    h("div", { class: "field" }, h("label", { for: "device-search" }, "Search"), box,
      h("p", { class: "hint", id: "device-search-hint" }, "Words, or fields: model, make, firmware, mac, serial, id, label, node, site, ip, port, pairing, missing, seen, first. For example ",
        h("code", {}, "pairing:failed"), ", ", h("code", {}, "mac:02*"), ", ", h("code", {}, "ip:10.0.0.0/24"), ".")),
    h("div", { class: "field" }, h("label", { for: "device-order" }, "Order"), order),
    total, facets);
  let timer = 0;
  // The devices that match; 0 while unknown.
  let matching = 0;
  let stop = () => {};
  // Counts the searches. A late answer to an earlier one is ignored.
  let generation = 0;

  function apply() {
    clearTimeout(timer);
    remember();
    changed();
    recount();
  }

  function remember() {
    const state = new URLSearchParams();
    if (box.value.trim()) state.set("search", box.value.trim());
    if (order.value !== "id") state.set("order", order.value);
    const query = state.toString();
    // Not an assignment, which would open the view again and lose the focus.
    history.replaceState(null, "", `#/devices${query ? `?${query}` : ""}`);
  }

  /** Loads the totals. The list reports errors of the search. */
  function recount() {
    stop();
    generation += 1;
    const current = generation;
    stop = poll(0, async () => {
      const found = await call("fleet.v1.DeviceSearchService/GetDeviceFacets", { search: box.value.trim(), fleetNodeId: nodeId() });
      if (current !== generation) return;
      matching = int(found.total);
      fill(total, plural(found.total, "device"));
      const kinds = [["model", "Models", found.models], ["firmware", "Firmware", found.firmware], ["pairing", "Pairing", found.pairing]];
      fill(facets, kinds.map(([field, label, values = []]) => group(field, label, values)));
      show(facets, kinds.some(([, , values = []]) => values.length > 1));
    }, { quiet: true, failed: () => {
      if (current !== generation) return;
      matching = 0;
      fill(total);
      show(facets, false);
    } });
  }

  function group(field, label, values) {
    const known = values.filter(({ value }) => value).slice(0, OFFERED);
    if (values.length < 2 || !known.length) return null;
    return h("div", { class: "facet", role: "group", "aria-label": `Frequent values: ${label}` }, h("span", { class: "hint" }, label), " ",
      h("span", { class: "chips" }, known.map(({ value, count: devices }) => {
        const word = field === "pairing" ? PAIRING[value] ?? value.toLowerCase() : value;
        return h("button", { type: "button", class: "chip", "data-term": `${field}:${word}`, onclick: () => add(field, word) },
          foreign(word), ` ${count(devices)}`);
      })));
  }

  function add(field, value) {
    // A quotation mark cannot be part of a value.
    const text = value.replaceAll('"', "*");
    const term = `${field}:${/\s/.test(text) ? `"${text}"` : text}`;
    box.value = `${box.value.trim()} ${term}`.trim();
    apply();
    box.focus();
  }

  box.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, DELAY_MS); });
  order.addEventListener("change", apply);
  recount();
  return {
    element,
    /** The fields of a request. */
    get request() {
      const { order: by, descending } = ORDERS[order.value];
      return { search: box.value.trim(), order: by, descending };
    },
    /** The number of devices that match; 0 while it is unknown. */
    get total() {
      return matching;
    },
    recount,
    stop() {
      clearTimeout(timer);
      generation += 1;
      stop();
    },
  };
}
