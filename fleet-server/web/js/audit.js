// The audit trail, newest records first.

import { title } from "./app.js";
import { foreign, h, setText, timeAgo } from "./dom.js";
import { count, int, plural } from "./format.js";
import { pagedTable } from "./paged.js";
import { call } from "./rpc.js";

const PAGE = 50;

const COLUMNS = [
  { name: "seq", label: "No." },
  { name: "action", label: "Action" },
  { name: "author", label: "By" },
  { name: "result", label: "Result" },
  { name: "seen", label: "When" },
];

/** Filters by the prefix of an action's name. */
const KINDS = [
  ["", "All actions"],
  ["operator.", "Operators and sign-ins"],
  ["node.", "Nodes"],
  ["code.", "Enrollment codes"],
  ["scan.", "Scans"],
  ["device.", "Devices and pairing"],
  ["report.", "Node reports"],
];

/** Shows the audit trail, page by page. */
export function auditView(root) {
  title("Audit");
  const kind = h("select", { id: "audit-kind", class: "input" }, KINDS.map(([value, text]) => h("option", { value }, text)));
  const refused = h("input", { id: "audit-refused", type: "checkbox" });
  const chain = h("p", { class: "hint", id: "audit-chain" });
  const table = pagedTable({
    grid: { kind: "audit", label: "Audit records, newest first", columns: COLUMNS },
    noun: "record",
    size: PAGE,
    labels: { previous: "Newer", next: "Older" },
    empty: h("div", { class: "panel empty" },
      h("h2", {}, "No records"),
      h("p", {}, "No records match this filter.")),
    async load(before) {
      const [{ records = [], nextBefore }, head] = await Promise.all([
        call("fleet.v1.AuditService/ListAudit", { limit: PAGE, before, action: kind.value, refused: refused.checked }),
        call("fleet.v1.AuditService/GetAuditHead"),
      ]);
      setText(chain, int(head.seq)
        ? `${plural(head.seq, "record is", "records are")} sealed. The head of the chain is ${head.seq}:${hex(head.hash)}. Store it elsewhere and check it later with “fleetctl audit verify --expect”.`
        : "No records are sealed yet.");
      return { rows: records.map((record) => table.row(cells(record), record.refusal === undefined ? {} : { class: "row-refused" })), next: nextBefore };
    },
  });
  kind.addEventListener("change", table.restart);
  refused.addEventListener("change", table.restart);
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Audit"),
      h("div", { class: "inline-field" },
        h("label", { for: "audit-kind" }, "Show"), kind,
        h("label", { class: "check", for: "audit-refused" }, refused, "Refused only"))),
    ...table.elements, chain);
  table.reload();
  return table.stop;
}

function cells(record) {
  const author = record.actorName || [record.actor, record.actorId].filter(Boolean).join(" ");
  const times = int(record.count) > 1 ? h("span", { class: "tag" }, `${count(record.count)} times`) : null;
  return {
    seq: int(record.seq) ? count(record.seq) : h("span", { class: "none", title: "Not sealed yet" }, "–"),
    action: [h("span", { class: "primary" }, record.action), h("span", { class: "action-subject" }, foreign(record.subject))],
    author: [foreign(author), record.fromAddress ? h("span", { class: "action-from" }, record.fromAddress) : null],
    result: record.refusal === undefined ? "Done" : [h("span", { class: "refused" }, "Refused: ", foreign(record.refusal)), times],
    seen: timeAgo(record.at),
  };
}

/** Converts base64, the encoding of bytes in the API, to hexadecimal. */
function hex(base64) {
  return Array.from(atob(base64 ?? ""), (byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}
