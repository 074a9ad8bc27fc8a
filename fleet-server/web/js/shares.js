// The shares of a scan over several nodes, and the fields that name the nodes of a scan. Draws one line per share.

import { fill, foreign, h, setText, show } from "./dom.js";
import { count, date, duration, int, isolate, plural, sentence } from "./format.js";
import { stateName, stateOf } from "./states.js";

/**
 * The share of one node, as `Scan.shares` has it. Numbers of 64 bits arrive as strings.
 * @typedef {object} ScanShare
 * @property {string} fleetNodeId
 * @property {string} [nodeName]
 * @property {string} [state] `SCAN_STATE_RUNNING` and so on
 * @property {string | number} [targets] without the skipped ones
 * @property {string | number} [done]
 * @property {number} [commands]
 * @property {number} [commandsDone]
 * @property {string} [reason] the outcome; empty while the share runs, and on success
 * @property {string} [code]
 */

/**
 * The share of one node in a plan, as `PlanScanResponse.shares` has it. The plan also has `uncovered`, the number of
 * targets that no node covers, and `uncoveredTargets`, at most 64 of their ranges.
 * @typedef {object} PlannedShare
 * @property {string} fleetNodeId
 * @property {string} [nodeName]
 * @property {string | number} [targets]
 * @property {number} [commands]
 * @property {string} [estimate] such as `1.5s`
 * @property {boolean} [connected]
 */

/**
 * The nodes of a scan. Exactly one field is set; the same fields go into StartScan, PlanScan, CreateSchedule and
 * UpdateSchedule.
 * @typedef {object} NodeChoice
 * @property {string} [fleetNodeId]
 * @property {string[]} [fleetNodeIds]
 * @property {string} [siteId]
 * @property {boolean} [auto]
 */

/**
 * The nodes that an operator named for a scan or a schedule, for the next request.
 * @param {{ fleetNodeId?: string, fleetNodeIds?: string[], siteId?: string, auto?: boolean, shares?: ScanShare[] }} from
 * @returns {NodeChoice}
 */
export function choiceOf(from) {
  if (from.auto) return { auto: true };
  if (int(from.siteId)) return { siteId: from.siteId };
  const several = from.fleetNodeIds ?? (from.shares ?? []).map((share) => share.fleetNodeId);
  if (several.length > 1) return { fleetNodeIds: several };
  return { fleetNodeId: several[0] ?? from.fleetNodeId };
}

/**
 * The shares of a scan; none for a scan of a single node, whose state is that of the scan.
 * @param {{ shares?: ScanShare[] }} scan
 * @returns {ScanShare[]}
 */
export function sharesOf(scan) {
  const shares = scan.shares ?? [];
  return shares.length > 1 ? shares : [];
}

/**
 * Describes a share in a sentence. `node` is undefined while the nodes are unknown.
 * @param {ScanShare} share
 * @param {{ connected?: boolean, lastSeenAt?: string } | undefined} node
 * @param {number} [now]
 */
export function shareText(share, node, now = Date.now()) {
  const state = stateOf(share.state);
  const name = isolate(share.nodeName || `node ${share.fleetNodeId}`);
  const probed = `${count(share.done)} of ${plural(share.targets, "target")} probed`;
  if (state.over) return sentence(`${name}: ${probed}${share.reason ? `. ${share.reason}` : ""}`);
  if (node && !node.connected) {
    const at = date(node.lastSeenAt);
    const ago = at ? ` ${duration(Math.floor(Math.max(0, now - Number(at)) / 1000) * 1000).replace(/\.0+ s$/, " s")} ago` : "";
    return `${name} disconnected${ago}: ${probed}. Its share continues by itself when the node reconnects.`;
  }
  if (stateName(share.state) === "queued") return `${name}: waiting, ${plural(share.targets, "target")}.`;
  return `${name}: ${probed}.`;
}

/**
 * The sentence about the targets that no node covers; empty if there are none.
 * @param {{ uncovered?: string | number, uncoveredTargets?: string[] }} plan
 */
export function uncoveredText(plan) {
  if (!int(plan.uncovered)) return "";
  const ranges = (plan.uncoveredTargets ?? []).join(", ");
  const verb = int(plan.uncovered) === 1 ? "is" : "are";
  return `${plural(plan.uncovered, "target")} ${verb} in the subnets of no node and will not be scanned: ${ranges}.`;
}

/** Lists the shares of a scan. `update` draws them again; the list hides itself for a scan of a single node. */
export function shareList() {
  const element = h("ul", { class: "share-list", id: "shares", "aria-label": "Nodes of this scan" });
  /** @type {Map<string, { badge: HTMLElement, text: HTMLElement }>} */
  const items = new Map();
  show(element, false);

  /**
   * @param {{ shares?: ScanShare[] }} scan
   * @param {{ fleetNodeId: string, connected?: boolean, lastSeenAt?: string }[]} nodes
   */
  function update(scan, nodes) {
    const shares = sharesOf(scan);
    show(element, shares.length > 0);
    if (shares.length !== items.size) {
      items.clear();
      fill(element);
    }
    for (const share of shares) {
      const id = String(share.fleetNodeId);
      let item = items.get(id);
      if (!item) {
        item = { badge: h("span", { class: "badge" }), text: foreign("") };
        items.set(id, item);
        element.append(h("li", {}, item.badge, " ", item.text));
      }
      const state = stateOf(share.state);
      setText(item.badge, state.word);
      item.badge.className = `badge badge-${state.look}`;
      setText(item.text, shareText(share, nodes.find((node) => String(node.fleetNodeId) === id)));
    }
  }

  return { element, update };
}
