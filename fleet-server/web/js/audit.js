// The audit trail, newest records first.

import { handledSignOut, title } from "./app.js";
import { errorBox } from "./dialog.js";
import { announce, h, setText, show } from "./dom.js";
import { absolute, count, int, plural, relative } from "./format.js";
import { grid } from "./grid.js";
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
  const error = errorBox();
  const kind = h("select", { id: "audit-kind", class: "input" }, KINDS.map(([value, text]) => h("option", { value }, text)));
  const refused = h("input", { id: "audit-refused", type: "checkbox" });
  const table = grid({ kind: "audit", label: "Audit records, newest first", columns: COLUMNS });
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No records"),
    h("p", {}, "No records match this filter."));
  const loading = h("p", { class: "loading" }, "Loading records…");
  const newer = h("button", { type: "button", class: "button", disabled: true }, "Newer");
  const older = h("button", { type: "button", class: "button", disabled: true }, "Older");
  const where = h("span", { class: "hint" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages of records" }, newer, where, older);
  const chain = h("p", { class: "hint", id: "audit-chain" });
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Audit"),
      h("div", { class: "inline-field" },
        h("label", { for: "audit-kind" }, "Show"), kind,
        h("label", { class: "check", for: "audit-refused" }, refused, "Refused only"))),
    error.element, loading, empty, table.element, pager, chain);
  show(table.element, false);
  show(pager, false);

  // Cursors of the pages up to the current one.
  let befores = ["0"];
  let following = "0";
  let latest = 0;
  let closed = false;

  async function load() {
    const mine = ++latest;
    error.clear();
    newer.disabled = true;
    older.disabled = true;
    try {
      const [{ records = [], nextBefore = "0" }, head] = await Promise.all([
        call("fleet.v1.AuditService/ListAudit", { limit: PAGE, before: befores.at(-1), action: kind.value, refused: refused.checked }),
        call("fleet.v1.AuditService/GetAuditHead"),
      ]);
      if (closed || mine !== latest) return;
      following = String(nextBefore);
      table.clear();
      table.append(records.map((record) => table.row(cells(record), record.refusal === undefined ? {} : { class: "row-refused" })));
      const begin = (befores.length - 1) * PAGE;
      setText(where, records.length ? `Records ${begin + 1} to ${begin + records.length}` : "");
      show(empty, records.length === 0 && befores.length === 1);
      show(table.element, records.length > 0);
      show(pager, befores.length > 1 || int(following) !== 0);
      setText(chain, int(head.seq)
        ? `${plural(head.seq, "record is", "records are")} sealed. The head of the chain is ${head.seq}:${hex(head.hash)}. Store it elsewhere and check it later with “fleetctl audit verify --expect”.`
        : "No records are sealed yet.");
      announce(`${plural(records.length, "record")} shown.`);
    } catch (failure) {
      if (closed || mine !== latest || handledSignOut(failure)) return;
      error.show(failure);
    } finally {
      if (mine === latest) {
        loading.remove();
        newer.disabled = befores.length < 2;
        older.disabled = int(following) === 0;
      }
    }
  }

  function go(change) {
    change();
    load().then(() => window.scrollTo(0, 0));
  }
  function restart() {
    befores = ["0"];
    following = "0";
  }
  older.addEventListener("click", () => go(() => befores.push(following)));
  newer.addEventListener("click", () => go(() => befores.pop()));
  kind.addEventListener("change", () => go(restart));
  refused.addEventListener("change", () => go(restart));
  load();
  return () => { closed = true; };
}

function cells(record) {
  const author = record.whoName || [record.who, record.whoId].filter(Boolean).join(" ");
  const times = int(record.count) > 1 ? h("span", { class: "tag" }, `${count(record.count)} times`) : null;
  return {
    seq: int(record.seq) ? count(record.seq) : h("span", { class: "none", title: "Not sealed yet" }, "–"),
    action: [h("span", { class: "primary" }, record.action), h("span", { class: "action-subject" }, record.subject)],
    author: [author, record.from ? h("span", { class: "action-from" }, record.from) : null],
    result: record.refusal === undefined ? "Done" : [h("span", { class: "refused" }, `Refused: ${record.refusal}`), times],
    seen: h("time", { datetime: record.at, title: absolute(record.at) }, relative(record.at)),
  };
}

/** Converts base64, the encoding of bytes in the API, to hexadecimal. */
function hex(base64) {
  return Array.from(atob(base64 ?? ""), (byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join("");
}
