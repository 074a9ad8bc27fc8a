// The summary of an ended scan: the outcome of every target and every report, with checked totals.

import { h } from "./dom.js";
import { count, duration, int, plural } from "./format.js";

/** The outcomes of a target: name in the ledger, label, meaning. */
const PARTS = [
  ["identified", "Identified", "The make or model of the device is known."],
  ["owned_elsewhere", "Identified, belongs elsewhere", "The device belongs to another node, which is named below."],
  ["unidentified", "Unidentified", "The host answered, but its make is not known."],
  ["refused", "Refused", "The host answered, but no port was open."],
  ["silent", "Silent", "The host did not answer."],
  ["skipped", "Skipped", "Excluded, for the reasons below."],
  ["not_reached", "Not reached", "The scan ended before these targets were probed."],
  ["unknown", "Unknown", "The node did not report an outcome."],
];

/** Converts the ledger of `GetScan`, whose names are lowerCamelCase, to the names of the event stream. */
export function ledgerOfScan(scan) {
  const ledger = scan.ledger ?? {};
  return {
    ...ledger,
    targets_unknown: ledger.targetsUnknown,
    not_reached: ledger.notReached,
    owned_elsewhere: ledger.ownedElsewhere,
    owned_elsewhere_reasons: ledger.ownedElsewhereReasons,
    skipped_reasons: ledger.skippedReasons,
    rejected_reasons: ledger.rejectedReasons,
    first_device_ms: ledger.firstDeviceMs,
    elapsed_ms: ledger.elapsedMs,
    state: scan.state,
    code: scan.code,
    reason: scan.reason,
  };
}

/** Creates the tables of the scan summary. */
export function ledgerTable(ledger) {
  const targets = int(ledger.targets);
  const sum = PARTS.reduce((all, [name]) => all + int(ledger[name]), 0);
  const reported = int(ledger.reported);
  const reports = int(ledger.accepted) + int(ledger.rejected);
  return h("div", { class: "ledger" },
    bar(ledger, targets),
    h("table", { class: "ledger-table", id: "ledger-targets" },
      h("caption", {}, "Targets"),
      h("tbody", {}, PARTS.map(([name, label, meaning]) => [
        line(name, label, ledger[name], meaning),
        name === "owned_elsewhere" ? reasons(ledger.owned_elsewhere_reasons) : null,
        name === "skipped" ? reasons(ledger.skipped_reasons) : null,
      ])),
      ledger.targets_unknown ? unknownTargets() : total("targets", "Targets", targets, sum === targets, sum)),
    h("table", { class: "ledger-table", id: "ledger-reports" },
      h("caption", {}, "Reports"),
      h("tbody", {},
        line("accepted", "Accepted", ledger.accepted, "Stored in the inventory."),
        line("rejected", "Rejected", ledger.rejected, "Rejected by the server, for the reasons below."),
        reasons(ledger.rejected_reasons)),
      total("reported", "Reported", reported, reports === reported, reports)),
    h("dl", { class: "ledger-times" },
      h("div", {}, h("dt", {}, "First device after"), h("dd", {}, ledger.first_device_ms === undefined || ledger.first_device_ms === null ? "none found" : duration(ledger.first_device_ms))),
      h("div", {}, h("dt", {}, "Elapsed"), h("dd", {}, duration(ledger.elapsed_ms)))));
}

function line(name, label, value, meaning) {
  return h("tr", { "data-part": name, class: int(value) ? "" : "zero" },
    h("th", { scope: "row" }, h("span", { class: `swatch swatch-${name}`, "aria-hidden": "true" }), label, h("span", { class: "meaning" }, meaning)),
    h("td", { "data-value": int(value) }, count(value)));
}

/** The total of a scan whose node chose the addresses and does not report which. */
function unknownTargets() {
  return h("tfoot", {}, h("tr", { "data-total": "targets" },
    h("th", { scope: "row" }, "Targets", h("span", { class: "meaning" }, "The node chose the addresses and reports only devices.")),
    h("td", {}, "Unknown")));
}

function total(name, label, value, holds, sum) {
  return h("tfoot", {}, h("tr", { "data-total": name },
    h("th", { scope: "row" }, label, holds ? null : h("span", { class: "meaning wrong" }, `The rows add up to ${count(sum)}. Please report this error.`)),
    h("td", { "data-value": value }, count(value))));
}

function reasons(tallies) {
  return (tallies ?? []).map((tally) => h("tr", { class: "reason" },
    h("th", { scope: "row" }, tally.reason, tally.example ? h("span", { class: "meaning" }, "for example ", h("span", { class: "mono" }, tally.example)) : null),
    h("td", {}, count(tally.count))));
}

function bar(ledger, targets) {
  const parts = PARTS.filter(([name]) => int(ledger[name]) > 0);
  return h("div", { class: "ledger-bar", role: "img", "aria-label": parts.map(([name, label]) => `${label} ${count(ledger[name])}`).join(", ") || plural(targets, "target") },
    parts.map(([name]) => {
      const part = h("span", { class: `swatch-${name}` });
      part.style.flexGrow = String(int(ledger[name]));
      return part;
    }));
}
