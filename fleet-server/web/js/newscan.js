// The form that starts a scan. The server checks the targets while they are typed.

import { attempt, handledSignOut, may, poll, title } from "./app.js";
import { busy, errorBox } from "./dialog.js";
import { breakable, fill, h, rich, setText, show } from "./dom.js";
import { count, duration, durationMillis, int, isolate, plural, sentence } from "./format.js";
import { listNodes, nodeStatus } from "./nodes.js";
import { takePrefill } from "./prefill.js";
import { entries, findNamed, LOCAL_SUBNET, requestOf, valuesOf } from "./request.js";
import { call, isAborted } from "./rpc.js";
import { repeatFields } from "./schedules.js";

/** Interval between two looks at the nodes. */
const NODES_MS = 3000;
/** Delay between the last keystroke and the check by the server. */
const DEBOUNCE_MS = 300;

const MODES = [
  ["target", "Network or host"],
  ["list", "List"],
  ["range", "Range"],
  ["mdns", "mDNS"],
  ["reports", "IP report"],
];

/** Shows the form. */
export function newScanView(root) {
  title("New scan");
  const prefill = takePrefill();
  const initial = valuesOf(prefill.request);
  if (!may("fleetnode:manage")) {
    root.append(h("h1", { tabindex: "-1" }, "New scan"), h("p", { class: "notice" }, "Your role cannot start scans. Ask an operator or an administrator."));
    return undefined;
  }

  const node = h("select", { id: "node", class: "input", required: true, "aria-describedby": "node-hint" });
  const nodeHint = h("p", { id: "node-hint", class: "hint" });
  const radios = MODES.map(([value, label]) => {
    const input = h("input", { type: "radio", name: "mode", id: `mode-${value}`, value, class: "visually-hidden" });
    input.checked = value === initial.mode;
    return { value, input, element: h("span", { class: "segment" }, input, h("label", { for: `mode-${value}` }, label)) };
  });
  const text = (id, properties = {}) => h("input", {
    id, class: "input mono", type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", inputmode: "text", ...properties,
  });
  const target = text("target", { maxlength: 253, placeholder: "10.0.0.0/22", "aria-describedby": "target-hint check" });
  const list = h("textarea", {
    id: "list", class: "input mono", rows: 6, autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    placeholder: "10.0.0.5\n10.0.0.9", "aria-describedby": "list-hint check",
  });
  const start = text("start", { maxlength: 45, placeholder: "10.0.0.10", "aria-describedby": "range-hint check" });
  const end = text("end", { maxlength: 45, placeholder: "10.0.0.250", "aria-describedby": "range-hint check" });
  const service = text("service", { maxlength: 255, placeholder: "_http._tcp", "aria-describedby": "mdns-hint check" });
  const seconds = text("seconds", { type: "number", min: 1, max: 60, placeholder: "5", inputmode: "numeric", "aria-describedby": "mdns-hint check" });
  const minutes = text("minutes", { type: "number", min: 1, max: 9, placeholder: "5", inputmode: "numeric", "aria-describedby": "reports-hint check" });
  const ports = text("ports", { maxlength: 2000, placeholder: "Default ports", "aria-describedby": "ports-hint check" });
  Object.entries({ target, list, start, end, service, seconds, minutes, ports }).forEach(([name, field]) => { field.value = initial[name]; });
  const portsHint = h("p", { id: "ports-hint", class: "hint" });
  const subnets = h("div", { class: "chips" });
  const check = h("div", { id: "check", class: "check-panel", role: "status", "aria-live": "polite" });
  const submit = h("button", { type: "submit", class: "button button-primary", id: "start-scan", disabled: true }, "Start scan");
  const error = errorBox();
  const overrideBox = h("input", { type: "checkbox", id: "override", onchange: () => showSubmit() });
  const override = h("div", { class: "field", hidden: true },
    h("label", { for: "override" }, overrideBox, " Start in spite of the blackout"),
    h("p", { class: "hint" }, "The audit trail records it."));
  const repeat = repeatFields(() => showSubmit());

  const groups = {
    target: h("div", { class: "field" },
      h("label", { for: "target" }, "Target"), target, subnets,
      h("p", { id: "target-hint", class: "hint" }, "Addresses, host names, networks such as ", h("code", {}, "10.0.0.0/22"), " and ranges such as ", h("code", {}, "10.0.0.5-40"), ". Exclude with ", h("code", {}, "!10.0.0.9"), ".")),
    list: h("div", { class: "field" },
      h("label", { for: "list" }, "Targets"), list,
      h("p", { id: "list-hint", class: "hint" }, "Addresses or host names, one per line or separated by commas. At most 4,096.")),
    range: h("div", { class: "field" },
      h("div", { class: "pair" },
        h("div", { class: "field" }, h("label", { for: "start" }, "First address"), start),
        h("div", { class: "field" }, h("label", { for: "end" }, "Last address"), end)),
      h("p", { id: "range-hint", class: "hint" }, "Scans all addresses of the range, including both ends.")),
    mdns: h("div", { class: "field" },
      h("div", { class: "pair" },
        h("div", { class: "field" }, h("label", { for: "service" }, "Service type"), service),
        h("div", { class: "field" }, h("label", { for: "seconds" }, "Listen for (seconds)"), seconds)),
      h("p", { id: "mdns-hint", class: "hint" }, "The node listens for mDNS announcements in its local subnets and scans the hosts that announce the service, at the default ports.")),
    reports: h("div", { class: "field" },
      h("label", { for: "minutes" }, "Listen for (minutes)"), minutes,
      h("p", { id: "reports-hint", class: "hint" }, "Press the IP report buttons while the node listens. Devices appear in the order in which you press them. The node must run with ", h("code", {}, "--listen-announcements"), ".")),
  };
  const hasPorts = () => !["mdns", "reports"].includes(mode());
  const portsField = h("div", { class: "field" }, h("label", { for: "ports" }, "Ports", h("span", { class: "optional" }, " optional")), ports, portsHint);

  const form = h("form", { class: "stack scan-form", novalidate: true, onsubmit: begin, oninput: changed },
    h("div", { class: "field" }, h("label", { for: "node" }, "Node"), node, nodeHint),
    h("fieldset", { class: "field" }, h("legend", {}, "What to scan"), h("div", { class: "segments" }, radios.map(({ element }) => element))),
    groups.target, groups.list, groups.range, groups.mdns, groups.reports, portsField,
    check, override, repeat.element, error.element,
    h("div", { class: "actions" }, submit, h("a", { class: "button button-quiet", href: "#/scans" }, "Cancel")));
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "#/scans" }, "Scans")),
    h("h1", { tabindex: "-1" }, "New scan"),
    h("div", { class: "panel scan-form-panel" }, form));

  const nodes = new Map();
  let timer = 0;
  let pending = null;
  let starting = false;
  let planned = false;
  // Set while the site of the node has a blackout, which only an administrator may override.
  let blackout = false;
  // The id stays the same until the form changes, so a retry after a lost response does not start a second scan.
  let requestId = freshRequestId();

  const mode = () => radios.find(({ input }) => input.checked)?.value ?? "target";
  const request = () => requestOf({ mode: mode(), target: target.value, list: list.value, start: start.value, end: end.value, service: service.value, seconds: seconds.value, minutes: minutes.value, ports: ports.value });

  function showSubmit() {
    setText(submit, repeat.repeats() ? "Create schedule" : "Start scan");
    show(override, blackout && may("org:admin") && !repeat.repeats());
    const held = blackout && !overrideBox.checked && !repeat.repeats();
    submit.disabled = starting || !planned || held || !repeat.ready();
  }

  function clearInvalid() {
    for (const field of [target, list, start, end, service, seconds, minutes, ports]) field.removeAttribute("aria-invalid");
  }

  function showMode() {
    for (const [name, group] of Object.entries(groups)) show(group, name === mode());
    show(portsField, hasPorts());
  }

  function showNode() {
    const chosen = nodes.get(node.value);
    fill(nodeHint, chosen ? nodeStatus(chosen).means : "");
    const defaults = chosen?.defaultPorts ?? [];
    fill(portsHint, defaults.length
      ? ["Leave empty for the default ports of this node: ", h("span", { class: "mono" }, defaults.join(", ")), "."]
      : "Leave empty for the default ports of the node.");
    const chip = (value, label) => h("button", { type: "button", class: "chip", onclick: () => { target.value = value; target.focus(); changed(); } }, label);
    fill(subnets,
      chip(LOCAL_SUBNET, "Local subnet"),
      (chosen?.localSubnets ?? []).map((subnet) => chip(subnet, h("span", { class: "mono" }, breakable(subnet)))));
  }

  function changed(event) {
    // The fields of the schedule do not change the plan of the scan.
    if (event && (repeat.element.contains(event.target) || event.target === overrideBox)) return;
    requestId = freshRequestId();
    error.clear();
    showMode();
    if (event?.target === node) showNode();
    clearTimeout(timer);
    // An answer about earlier targets must not be shown for these.
    pending?.abort();
    planned = false;
    blackout = false;
    overrideBox.checked = false;
    showSubmit();
    clearInvalid();
    if (!node.value || !request()) {
      check.className = "check-panel";
      fill(check, h("span", { class: "check-idle" }, "The plan of the scan is shown here before it starts."));
      return;
    }
    check.classList.add("check-stale");
    timer = setTimeout(checkPlan, DEBOUNCE_MS);
  }

  async function checkPlan() {
    pending = new AbortController();
    const { signal } = pending;
    try {
      const plan = await call("fleet.v1.ScanService/PlanScan", { fleetNodeId: node.value, request: request() }, { signal });
      if (signal.aborted) return;
      showPlan(check, plan);
      clearInvalid();
      blackout = Boolean(plan.blackoutUntil);
      planned = true;
      showSubmit();
    } catch (failure) {
      if (isAborted(failure) || signal.aborted || handledSignOut(failure)) return;
      showError(failure);
      // The check of these targets is repeated until the server answers.
      if (failure.offline) timer = setTimeout(checkPlan, 2000);
    }
  }

  function showError(failure) {
    check.className = "check-panel check-bad";
    const fields = { target: [target], list: [list], range: [start, end], mdns: [service, seconds], reports: [minutes] }[mode()];
    const inPorts = hasPorts() && /\bports?\b/i.test(failure.message);
    const ordered = inPorts ? [ports, ...fields] : [...fields, ports];
    const hit = ordered.map((field) => ({ field, match: findNamed(field.value, failure.message) })).find(({ match }) => match);
    const named = hit?.field ?? (inPorts ? ports : fields[0]);
    if (!failure.offline) named.setAttribute("aria-invalid", "true");
    const retry = failure.offline ? h("button", { type: "button", class: "button button-small", onclick: checkPlan }, "Retry") : null;
    const jump = hit && entries(hit.field.value).length > 1
      ? h("button", { type: "button", class: "button button-small", onclick: () => { hit.field.focus(); hit.field.setSelectionRange(hit.match.start, hit.match.end); } },
        hit.field === list ? `Show entry in line ${count(hit.match.line)}` : "Show entry")
      : null;
    fill(check, h("p", { class: "check-error", id: "check-error" }, rich(sentence(failure.message))), jump, retry);
  }

  async function begin(event) {
    event.preventDefault();
    if (submit.disabled || starting) return;
    starting = true;
    await attempt(error, async () => {
      if (repeat.repeats()) {
        await busy(submit, () => repeat.create({ fleetNodeId: node.value, request: request() }));
        location.hash = "#/scans";
        return;
      }
      const { scan } = await busy(submit, () => call("fleet.v1.ScanService/StartScan", { requestId, fleetNodeId: node.value, request: request(), overrideBlackout: overrideBox.checked }));
      location.hash = `#/scans/${scan.scanId}`;
    });
    starting = false;
    showSubmit();
  }

  async function load() {
    const all = (await listNodes()).filter(({ enrollment }) => enrollment === "confirmed");
    for (const one of all) nodes.set(one.fleetNodeId, one);
    if (all.length === 0) {
      fill(node, h("option", { value: "" }, "No confirmed nodes"));
      fill(nodeHint, "A scan needs a node. ", h("a", { href: "#/nodes/enroll" }, "Enroll a node"), ".");
      return;
    }
    all.sort((a, b) => Number(Boolean(b.connected)) - Number(Boolean(a.connected)) || a.name.localeCompare(b.name));
    fill(node, all.map((one) => h("option", { value: one.fleetNodeId }, optionText(one))));
    node.value = nodes.has(prefill.node) ? prefill.node : all[0].fleetNodeId;
    showNode();
    changed();
  }

  /** Keeps the states of the nodes current while the form is open. */
  async function refresh() {
    if (nodes.size === 0) {
      await load();
      return;
    }
    for (const one of await listNodes()) {
      if (!nodes.has(one.fleetNodeId)) continue;
      nodes.set(one.fleetNodeId, one);
      const option = [...node.options].find(({ value }) => value === one.fleetNodeId);
      if (option) setText(option, optionText(one));
    }
    setText(nodeHint, nodes.has(node.value) ? nodeStatus(nodes.get(node.value)).means : "");
  }

  const optionText = (one) => `${isolate(one.name)} (${nodeStatus(one).word.toLowerCase()})`;

  fill(node, h("option", { value: "" }, "Loading nodes…"));
  showNode();
  changed();
  const stop = poll(NODES_MS, refresh, { failed: error.show });
  return () => {
    stop();
    repeat.stop();
    clearTimeout(timer);
    pending?.abort();
  };
}

function showPlan(check, plan) {
  check.className = "check-panel check-good";
  const skipped = int(plan.skipped);
  const estimate = durationMillis(plan.estimate);
  const ports = plan.ports ?? [];
  const figure = (value, label) => h("div", { class: "figure" }, h("strong", {}, value), h("span", {}, label));
  fill(check,
    h("div", { class: "figures" },
      figure(count(plan.targets), int(plan.targets) === 1 ? "target" : "targets"),
      figure(ports.length ? count(ports.length) : "default", ports.length === 1 ? "port" : "ports"),
      figure(count(plan.commands), int(plan.commands) === 1 ? "command" : "commands"),
      figure(estimate ? `≈ ${duration(Math.max(1000, estimate)).replace(".0 s", " s")}` : "–", "estimated")),
    skipped ? h("p", { class: "check-note" }, `${plural(skipped, "target")} will be skipped.`) : null,
    (plan.notes ?? []).map((note) => h("p", { class: "check-note" }, rich(sentence(note)))));
}

function freshRequestId() {
  // randomUUID needs a secure context, and the page may be served over plain HTTP in a LAN.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
