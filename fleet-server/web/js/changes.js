// What changed between two scans: one tab for each group, with its rows, its files and the choice of the other scan.
// The URL holds the scan, the group and the other scan.

import { handledSignOut, poll, title } from "./app.js";
import { fill, foreign, h, setText, show } from "./dom.js";
import { absolute, count, endpoint, int, isolate, makeAndModel, plural, sentence } from "./format.js";
import { deviceAddress } from "./grid.js";
import { pagedTable } from "./paged.js";
import { summary } from "./request.js";
import { call } from "./rpc.js";
import { stateOf } from "./states.js";

const PAGE = 200;

/** Every group with its label and the text of an empty list. Undecided devices have a tab only if there are any. */
const GROUPS = [
  { name: "new", label: "New", empty: "No new devices." },
  { name: "missing", label: "Missing", empty: "No device is missing. A device is missing only if this scan probed its address and nothing answered." },
  { name: "moved", label: "Moved", empty: "No device has moved." },
  { name: "changed", label: "Changed", empty: "No device has changed." },
  { name: "unchanged", label: "Unchanged", empty: "No device is unchanged." },
  { name: "unidentified", label: "Unidentified", empty: "Every host that answered was identified." },
  { name: "rejected", label: "Rejected", empty: "No report was rejected." },
  { name: "undecided", label: "Undecided", empty: "This scan decides about every earlier device." },
];

const COLUMNS = [
  { name: "endpoint", label: "Address" },
  { name: "model", label: "Device" },
  { name: "change", label: "Change" },
  { name: "identifier", label: "Identifier" },
];

/** Labels of the facts that can differ. */
const FACTS = { address: "Address", site: "Site", port: "Port", scheme: "Scheme", manufacturer: "Make", model: "Model", firmware: "Firmware", mac: "MAC", serial: "Serial" };

/** Fields of a sighting that are not named as the fact. */
const NAMES = { address: "ip", site: "siteName" };

/** Returns the URL hash of a group. */
export function changesHash(scanId, group, against = "") {
  return `#/scans/${scanId}/changes/${group}${against ? `/${against}` : ""}`;
}

/** Loads the counts of all groups as `{ counts, against, explanation }`; `counts` is a Map by name of the group. */
export async function loadCounts(scanId, againstScanId = "") {
  const response = await call("fleet.v1.ResultService/GetScanDifference", { scanId, againstScanId, limit: 1 });
  return countsOf(response);
}

function countsOf(response) {
  const name = (group) => String(group ?? "").replace(/^DIFFERENCE_GROUP_/, "").toLowerCase();
  const counts = new Map((response.counts ?? []).map((one) => [name(one.group), int(one.count)]));
  return { counts, against: response.againstScanId ?? "", explanation: response.explanation ?? "" };
}

/** Creates the links to the groups. `current` is the name of the open one. */
export function groupLinks(scanId, counts, { current = "", against = "" } = {}) {
  const shown = GROUPS.filter(({ name }) => name !== "undecided" || current === name || counts.get(name));
  return h("nav", { class: "tabs", "aria-label": "Changes" }, shown.map(({ name, label }) => h("a", {
    class: "tab", href: changesHash(scanId, name, against), "aria-current": name === current ? "page" : null, "data-group": name,
  }, label, " ", h("span", { class: "tab-count" }, counts.has(name) ? count(counts.get(name)) : "–"))));
}

/** Shows one group of the changes of a scan. */
export function changesView(root, scanId, group = "new", against = "") {
  const { label, empty } = GROUPS.find(({ name }) => name === group) ?? GROUPS[0];
  const heading = h("h1", { tabindex: "-1" }, "Changes");
  const since = h("p", { class: "hint", id: "changes-since" });
  const explanation = h("p", { class: "notice", id: "explanation", hidden: true });
  const tabs = h("div", {}, groupLinks(scanId, new Map(), { current: group, against }));
  const other = h("select", { id: "changes-against", class: "input" }, h("option", { value: "" }, "Previous scan of the same targets"));
  const files = h("p", { class: "hint files" }, "Download: ", file("csv"), " ", file("json"));
  const table = pagedTable({
    grid: { kind: "changes", label: `${label} since the other scan`, columns: COLUMNS },
    noun: "row",
    size: PAGE,
    labels: { previous: "Previous", next: "Next" },
    empty: h("p", { class: "panel empty" }, empty),
    async load(cursor) {
      const response = await call("fleet.v1.ResultService/GetScanDifference", {
        scanId, againstScanId: against, group: `DIFFERENCE_GROUP_${group.toUpperCase()}`, limit: PAGE, cursor,
      });
      describe(countsOf(response));
      return { rows: (response.rows ?? []).map((row) => table.row(cells(row))), next: response.nextCursor };
    },
  });

  function file(format) {
    const query = new URLSearchParams({ group, ...(against ? { against } : {}) });
    return h("a", { href: `/api/scans/${scanId}/difference.${format}?${query}`, download: "" }, format.toUpperCase());
  }

  function describe(found) {
    fill(tabs, groupLinks(scanId, found.counts, { current: group, against }));
    setText(explanation, found.explanation);
    show(explanation, Boolean(found.explanation));
    if (found.against) fill(since, "Compared with ", h("a", { href: `#/scans/${found.against}` }, against ? "the chosen scan" : "the previous scan of the same targets"), ".");
    else fill(since, "There is no earlier scan of the same targets, so every device counts as new.");
  }

  async function loadScans() {
    const [{ scan }, { scans = [] }] = await Promise.all([
      call("fleet.v1.ScanService/GetScan", { scanId }),
      call("fleet.v1.ScanService/ListScans", { limit: 200 }),
    ]);
    const name = `Changes in scan of ${isolate(summary(scan.request))}`;
    setText(heading, name);
    title(name);
    for (const one of scans) {
      if (one.scanId === scanId || !stateOf(one.state).over) continue;
      other.append(h("option", { value: one.scanId }, `${isolate(summary(one.request))}, ${absolute(one.createdAt)}`));
    }
    // A chosen scan can be older than the list.
    if (against && ![...other.options].some((option) => option.value === against)) other.append(h("option", { value: against }, `Scan ${against}`));
    other.value = against;
  }

  other.addEventListener("change", () => { location.hash = changesHash(scanId, group, other.value); });
  title("Changes");
  root.append(
    h("p", { class: "crumb" }, h("a", { href: `#/scans/${scanId}` }, "Scan")),
    h("div", { class: "page-head" }, heading,
      h("div", { class: "inline-field" }, h("label", { for: "changes-against" }, "Compare with"), other)),
    since, explanation, tabs, files, ...table.elements);
  table.reload();
  const stop = poll(0, loadScans, { failed: (failure) => { if (!handledSignOut(failure)) table.error.show(failure); } });
  return () => {
    table.stop();
    stop();
  };
}

function cells(row) {
  const seen = row.after ?? row.before;
  const where = { ip: row.ip, port: row.port, scheme: seen?.scheme };
  return {
    endpoint: [
      row.ip ? (row.after ? deviceAddress(where) : h("span", {}, endpoint(row.ip, row.port))) : h("span", { class: "none" }, "–"),
      row.nodeName ? h("span", { class: "hint seen-by" }, foreign(nodeAndSite(row))) : null,
    ],
    model: seen
      ? [h("span", { class: "primary" }, foreign(makeAndModel(seen))), seen.firmware ? h("span", { class: "hint" }, foreign(seen.firmware)) : null]
      : h("span", { class: "none" }, "–"),
    change: change(row),
    identifier: row.identifier ? foreign(row.identifier) : h("span", { class: "none" }, "–"),
  };
}

/** The node and the site of a row. A node that has a site of its own shares its name. */
function nodeAndSite({ nodeName, siteName }) {
  return siteName && siteName !== nodeName ? `${nodeName}, ${siteName}` : nodeName;
}

/** What changed, or the reason for the group. */
function change(row) {
  const changed = row.changed ?? [];
  if (!changed.length) {
    const times = int(row.count) > 1 ? ` (${plural(row.count, "report")})` : "";
    return row.reason ? [foreign(sentence(row.reason)), times] : h("span", { class: "none" }, "–");
  }
  const value = (seen, fact) => String((NAMES[fact] ? seen?.[NAMES[fact]] : seen?.[fact]) ?? "");
  return h("ul", { class: "plain-list facts-changed" }, changed.map((fact) => h("li", {},
    `${FACTS[fact] ?? fact}: `, foreign(value(row.before, fact)), " → ", h("strong", {}, foreign(value(row.after, fact))))));
}
