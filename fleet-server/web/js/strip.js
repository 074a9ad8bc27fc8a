// The map strip of a scan: one small square per /24 block, with a dot for each host that answered. A block filters the
// rows to its addresses.

import { h, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { entries } from "./request.js";

/** Blocks drawn. More do not help to find one. */
const BLOCKS = 256;
const SIDE = 16;
const SVG = "http://www.w3.org/2000/svg";

/** Returns the /24 blocks of the targets of a request as their first three octets, in order. Names have none. */
export function blocksOf(request = {}) {
  const range = request.ipRange ? [`${request.ipRange.startIp ?? ""}-${request.ipRange.endIp ?? ""}`] : [];
  const all = [...entries(request.nmap?.target), ...(request.ipList?.ipAddresses ?? []).flatMap(entries), ...range];
  const blocks = new Set();
  for (const entry of all) {
    const span = spanOf(entry);
    if (!span) continue;
    for (let block = span[0] >>> 8; block <= span[1] >>> 8 && blocks.size < BLOCKS; block += 1) blocks.add(block);
  }
  return [...blocks].sort((a, b) => a - b).map((block) => `${block >>> 16}.${(block >>> 8) & 255}.${block & 255}`);
}

/** The first and the last address of an entry as numbers; null for everything but IPv4. */
function spanOf(entry) {
  const parts = /^(\d+\.\d+\.\d+\.\d+)(?:\/(\d+)|(?:-|\.\.)(\d+(?:\.\d+\.\d+\.\d+)?))?$/.exec(entry);
  if (!parts) return null;
  const first = numberOf(parts[1]);
  if (parts[2] !== undefined) {
    const size = 2 ** (32 - Math.min(32, Math.max(8, Number(parts[2]))));
    const base = Math.floor(first / size) * size;
    return [base, base + size - 1];
  }
  if (parts[3] === undefined) return [first, first];
  return [first, parts[3].includes(".") ? numberOf(parts[3]) : Math.floor(first / 256) * 256 + Number(parts[3])];
}

function numberOf(ip) {
  return ip.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
}

/** Creates the strip. `choose(prefix)` is called when a block is chosen, with "" when it is chosen again. */
export function mapStrip(choose) {
  const element = h("div", { class: "strip", role: "group", "aria-label": "Scanned blocks", hidden: true });
  /** @type {Map<string, any>} */
  const blocks = new Map();
  // The state of each host; "identified" is final.
  const hosts = new Map();
  let chosen = "";

  function block(prefix) {
    const known = blocks.get(prefix);
    if (known || blocks.size >= BLOCKS) return known;
    const cells = document.createElementNS(SVG, "svg");
    cells.setAttribute("viewBox", `0 0 ${SIDE} ${SIDE}`);
    cells.setAttribute("aria-hidden", "true");
    const label = h("span", { class: "strip-label mono" }, prefix);
    const found = h("span", { class: "strip-count" });
    const about = h("span", { class: "visually-hidden" });
    const button = h("button", { type: "button", class: "strip-block", "aria-pressed": "false", "data-block": prefix }, cells, label, " ", found, " ", about);
    button.addEventListener("click", () => {
      select(chosen === prefix ? "" : prefix);
      choose(chosen ? `${chosen}.` : "");
    });
    const next = { button, cells, found, about, rects: new Map(), identified: 0, unidentified: 0 };
    blocks.set(prefix, next);
    // In the order of addresses, because blocks of names come while the scan runs.
    const after = [...blocks.keys()].sort((a, b) => numberOf(`${a}.0`) - numberOf(`${b}.0`));
    const follower = after[after.indexOf(prefix) + 1];
    element.insertBefore(button, follower ? blocks.get(follower).button : null);
    element.hidden = false;
    describe(next);
    return next;
  }

  /** Writes the count of a block, and for screen readers its noun. */
  function describe(one) {
    setText(one.found, one.identified ? count(one.identified) : "");
    const noun = one.identified === 0 ? "no devices" : one.identified === 1 ? "device" : "devices";
    setText(one.about, one.unidentified ? `${noun}, ${plural(one.unidentified, "unidentified host")}` : noun);
  }

  function select(prefix) {
    chosen = prefix;
    for (const [name, one] of blocks) one.button.setAttribute("aria-pressed", String(name === prefix));
  }

  return {
    element,
    /** Shows the blocks of a request, without hosts. */
    setRequest(request) {
      for (const prefix of blocksOf(request)) block(prefix);
    },
    /** Marks a host as `identified` or `unidentified`. IPv6 addresses have no block. */
    mark(ip, state) {
      const before = hosts.get(ip);
      if (!/^\d+\.\d+\.\d+\.\d+$/.test(ip) || before === "identified" || before === state) return;
      const at = ip.lastIndexOf(".");
      const one = block(ip.slice(0, at));
      if (!one) return;
      hosts.set(ip, state);
      const octet = Number(ip.slice(at + 1));
      let rect = one.rects.get(octet);
      if (!rect) {
        rect = document.createElementNS(SVG, "rect");
        for (const [name, value] of [["x", octet % SIDE], ["y", Math.floor(octet / SIDE)], ["width", 1], ["height", 1]]) rect.setAttribute(String(name), String(value));
        one.cells.append(rect);
        one.rects.set(octet, rect);
      }
      rect.setAttribute("class", `strip-${state}`);
      if (before) one[before] -= 1;
      one[state] += 1;
      describe(one);
    },
    /** Shows no block as chosen. */
    clear: () => select(""),
  };
}
