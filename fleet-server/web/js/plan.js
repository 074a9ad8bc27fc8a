// The plan of a scan as the form shows it: addresses, packets, time, coverage, warnings.

import { fill, foreign, h, rich } from "./dom.js";
import { absolute, count, duration, durationMillis, int, plural, sentence } from "./format.js";

/** Shows a plan. `bad` is the number of invalid entries, which the plan leaves out. */
export function showPlan(check, plan, bad = 0) {
  check.className = bad ? "check-panel check-bad" : "check-panel check-good";
  const skipped = int(plan.skipped);
  const estimate = durationMillis(plan.estimate);
  const ports = plan.ports ?? [];
  const packets = int(plan.packets);
  const figure = (value, label) => h("div", { class: "figure" }, h("strong", {}, value), h("span", {}, label));
  fill(check,
    h("div", { class: "figures" },
      figure(count(plan.targets), int(plan.targets) === 1 ? "address" : "addresses"),
      figure(ports.length ? count(ports.length) : "default", ports.length === 1 ? "port" : "ports"),
      packets ? figure(`≈ ${count(packets)}`, packets === 1 ? "packet" : "packets") : null,
      figure(estimate ? `≈ ${duration(Math.max(1000, estimate)).replace(".0 s", " s")}` : "–", int(plan.rate) ? `at ${count(plan.rate)} probes/s` : "estimated")),
    coverage(plan),
    skipped ? h("p", { class: "check-note" }, `${plural(skipped, "address", "addresses")} will be skipped${reasons(plan.skippedReasons)}.`) : null,
    warnings(plan.warnings),
    (plan.notes ?? []).map((note) => h("p", { class: "check-note" }, rich(sentence(note)))),
    plan.blackoutUntil ? h("p", { class: "check-note" }, `The blackout ends ${absolute(plan.blackoutUntil)}.`) : null);
}

function reasons(tallies = []) {
  const texts = tallies.map(({ reason, count: number }) => `${count(number)} ${reason}`);
  return texts.length ? `: ${texts.join(", ")}` : "";
}

function warnings(texts = []) {
  return texts.length ? h("ul", { class: "plan-warnings", "aria-label": "Warnings" }, texts.map((text) => h("li", {}, rich(sentence(text))))) : null;
}

/** The share of each node, and the targets that no node covers. */
function coverage(plan) {
  const shares = plan.shares ?? [];
  const uncovered = int(plan.uncovered);
  if (shares.length < 2 && !uncovered) return null;
  const listed = plan.uncoveredTargets ?? [];
  return h("div", { class: "plan-shares" },
    h("ul", { class: "plain-list", "aria-label": "Coverage" }, shares.map((share) => h("li", {},
      h("strong", {}, foreign(share.nodeName || `node ${share.fleetNodeId}`)), ` ${plural(share.targets, "address", "addresses")}`,
      share.connected ? null : h("span", { class: "hint" }, " (offline: its share waits)")))),
    uncovered ? h("p", { class: "check-error" }, `${plural(uncovered, "address is", "addresses are")} in the subnets of no node: `, h("span", { class: "mono" }, listed.slice(0, 4).join(", ")), listed.length > 4 ? " and more" : "", ".") : null);
}
