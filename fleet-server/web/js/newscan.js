// The form that starts or schedules a scan. The server checks the targets while they are typed.

import { attempt, handledSignOut, may, poll, title } from "./app.js";
import { busy, errorBox } from "./dialog.js";
import { breakable, fill, h, rich, setText, show } from "./dom.js";
import { count, int, isolate, plural, sentence } from "./format.js";
import { listNodes, nodeStatus } from "./nodes.js";
import { paceField } from "./pace.js";
import { pillBox } from "./pills.js";
import { showPlan } from "./plan.js";
import { nodesField, takePrefill } from "./prefill.js";
import { findNamed, freshRequestId, LOCAL_SUBNET, namedEntry, requestOf, valuesOf } from "./request.js";
import { call, isAborted } from "./rpc.js";
import { repeatFields } from "./schedules.js";

/** Interval between two looks at the nodes. */
const NODES_MS = 3000;
/** Delay between the last keystroke and the check by the server. */
const DEBOUNCE_MS = 300;
/** Invalid entries that are looked for. Each costs a call. */
const MOST_INVALID = 20;

const MODES = [
  ["targets", "Addresses and names"],
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
  const targets = pillBox({ noun: "target", changed: () => changed(), input: { id: "target", placeholder: "10.0.0.0/22", "aria-describedby": "target-hint target-count check" } });
  const excludes = pillBox({ noun: "exclude", changed: () => changed(), input: { id: "exclude", placeholder: "10.0.0.9", "aria-describedby": "exclude-hint exclude-count check" } });
  targets.set(initial.targets);
  excludes.set(initial.excludes);
  const service = text("service", { maxlength: 255, placeholder: "_http._tcp", "aria-describedby": "mdns-hint check" });
  const seconds = text("seconds", { type: "number", min: 1, max: 60, placeholder: "5", inputmode: "numeric", "aria-describedby": "mdns-hint check" });
  const minutes = text("minutes", { type: "number", min: 1, max: 9, placeholder: "5", inputmode: "numeric", "aria-describedby": "reports-hint check" });
  const ports = text("ports", { maxlength: 2000, placeholder: "Default ports", "aria-describedby": "ports-hint check" });
  Object.entries({ service, seconds, minutes, ports }).forEach(([name, field]) => { field.value = initial[name]; });
  const portsHint = h("p", { id: "ports-hint", class: "hint" });
  const subnets = h("div", { class: "chips" });
  const pace = paceField(initial.rate);
  const check = h("div", { id: "check", class: "check-panel", role: "status", "aria-live": "polite" });
  const submit = h("button", { type: "submit", class: "button button-primary", id: "start-scan", disabled: true }, "Start scan");
  const error = errorBox();
  const overrideBox = h("input", { type: "checkbox", id: "override", onchange: () => showSubmit() });
  const override = h("div", { class: "field", hidden: true },
    h("label", { class: "check", for: "override" }, overrideBox, h("span", {}, "Start in spite of the blackout")),
    h("p", { class: "hint" }, "The audit trail records it."));
  const name = h("input", { id: "scan-name", class: "input", type: "text", maxlength: 64, autocomplete: "off", spellcheck: "false", placeholder: "nightly" });
  name.value = prefill.name ?? "";
  const optional = h("span", { class: "optional" }, " optional");
  const repeat = repeatFields({ name, initial: prefill.timing, changed: () => showSubmit() });

  const groups = {
    targets: h("div", { class: "stack" },
      h("div", { class: "field" }, h("label", { for: "target" }, "Targets"), targets.element, subnets,
        h("p", { id: "target-hint", class: "hint" }, "Addresses, host names, networks such as ", h("code", {}, "10.0.0.0/22"), " and ranges such as ", h("code", {}, "10.0.0.5-40"), ". Separate them by blanks or commas, or paste a list.")),
      h("div", { class: "field" }, h("label", { for: "exclude" }, "Excludes", h("span", { class: "optional" }, " optional")), excludes.element,
        h("p", { id: "exclude-hint", class: "hint" }, "Addresses, networks or ranges that this scan leaves out. The excludes of the site always apply."))),
    mdns: h("div", { class: "field" },
      h("div", { class: "pair" },
        h("div", { class: "field" }, h("label", { for: "service" }, "Service type"), service),
        h("div", { class: "field" }, h("label", { for: "seconds" }, "Listen for (seconds)"), seconds)),
      h("p", { id: "mdns-hint", class: "hint" }, "The node listens for mDNS announcements in its local subnets and scans the hosts that announce the service, at the default ports.")),
    reports: h("div", { class: "field" },
      h("label", { for: "minutes" }, "Listen for (minutes)"), minutes,
      h("p", { id: "reports-hint", class: "hint" }, "Press the IP report buttons while the node listens. Devices appear in the order in which you press them. The node must run with ", h("code", {}, "--listen-announcements"), ".")),
  };
  const hasPorts = () => mode() === "targets";
  const portsField = h("div", { class: "field" }, h("label", { for: "ports" }, "Ports", h("span", { class: "optional" }, " optional")), ports, portsHint);

  const form = h("form", { class: "stack scan-form", novalidate: true, onsubmit: begin, oninput: changed },
    h("div", { class: "field" }, h("label", { for: "node" }, "Scan from"), node, nodeHint),
    h("fieldset", { class: "field" }, h("legend", {}, "What to scan"), h("div", { class: "segments" }, radios.map(({ element }) => element))),
    groups.targets, groups.mdns, groups.reports, portsField, pace.element,
    h("div", { class: "field" }, h("label", { for: "scan-name" }, "Name", optional), name),
    repeat.element, check, override, error.element,
    h("div", { class: "actions" }, submit, h("a", { class: "button button-quiet", href: "#/scans" }, "Cancel")));
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "#/scans" }, "Scans")),
    h("h1", { tabindex: "-1" }, "New scan"),
    h("div", { class: "panel scan-form-panel" }, form));

  // Some browsers report a choice with this event only.
  node.addEventListener("change", () => changed({ target: node }));

  const nodes = new Map();
  let timer = 0;
  let pending = null;
  let starting = false;
  let planned = false;
  // Set while the site of the node has a blackout, which only an administrator may override.
  let blackout = false;
  // The id stays the same until the form changes, so a retry after a lost response does not start a second scan.
  let requestId = freshRequestId();

  const mode = () => radios.find(({ input }) => input.checked)?.value ?? "targets";
  const nodesOfScan = () => nodesField(node.value);

  /** Builds the request without the entries that are known to be invalid. */
  function request(invalid = new Map()) {
    const valid = (entry) => !invalid.has(entry);
    return requestOf({
      mode: mode(), targets: targets.entries.filter(valid), excludes: excludes.entries.filter((entry) => valid(`!${entry}`)),
      service: service.value, seconds: seconds.value, minutes: minutes.value, ports: ports.value, rate: pace.rate,
    });
  }

  function showSubmit() {
    setText(submit, repeat.repeats() ? "Create schedule" : "Start scan");
    show(optional, !repeat.repeats());
    show(override, blackout && may("org:admin") && !repeat.repeats());
    const held = blackout && !overrideBox.checked && !repeat.repeats();
    submit.disabled = starting || !planned || held || !repeat.ready();
  }

  function clearInvalid() {
    for (const field of [service, seconds, minutes, ports]) field.removeAttribute("aria-invalid");
    targets.mark(new Map());
    excludes.mark(new Map());
  }

  function showMode() {
    for (const [key, group] of Object.entries(groups)) show(group, key === mode());
    show(portsField, hasPorts());
  }

  function showNode() {
    const members = nodesOf(node.value, [...nodes.values()]);
    const chosen = members.length === 1 ? members[0] : undefined;
    showNodeHint();
    // The slowest of several nodes, so that no node gets more than its share of a pace.
    pace.setNode([...members].sort((a, b) => int(a.rate) - int(b.rate))[0]);
    const defaults = chosen?.defaultPorts ?? [];
    fill(portsHint, defaults.length
      ? ["Leave empty for the default ports of this node: ", h("span", { class: "mono" }, defaults.join(", ")), "."]
      : "Leave empty for the default ports of the node.");
    const chip = (value, label) => h("button", { type: "button", class: "chip", onclick: () => { targets.set([...targets.entries, value]); targets.input.focus(); changed(); } }, label);
    fill(subnets,
      chip(LOCAL_SUBNET, "Local subnet"),
      [...new Set(members.flatMap((one) => one.localSubnets ?? []))].map((subnet) => chip(subnet, h("span", { class: "mono" }, breakable(subnet)))));
  }

  function showNodeHint() {
    const members = nodesOf(node.value, [...nodes.values()]);
    const offline = members.filter((one) => !one.connected);
    if (nodes.has(node.value)) setText(nodeHint, nodeStatus(members[0]).means);
    else if (!members.length) setText(nodeHint, "");
    else setText(nodeHint, `${plural(members.length, "node")}. Each target goes to the node whose subnets cover it.${offline.length ? ` Offline: ${offline.map((one) => isolate(one.name)).join(", ")}.` : ""}`);
  }

  /** Offers sites and all nodes, whose targets are divided. */
  function offerSeveral() {
    if (nodes.size < 2) return;
    const chosen = node.value;
    const sites = new Map([...nodes.values()].filter((one) => int(one.siteId)).map((one) => [String(one.siteId), one.siteName || `site ${one.siteId}`]));
    node.append(
      h("optgroup", { label: "Sites" }, [...sites].map(([id, label]) => h("option", { value: `site:${id}` }, isolate(label)))),
      h("optgroup", { label: "All nodes" }, h("option", { value: "auto" }, "Automatic: each target from the node that covers it")));
    node.value = chosen;
  }

  function changed(event) {
    // The name and the times do not change the plan of the scan.
    if (event && (repeat.element.contains(event.target) || event.target === overrideBox || event.target === name)) {
      if (event.target === name) showSubmit();
      return;
    }
    // The boxes report their changes themselves.
    if (event && (event.target === targets.input || event.target === excludes.input)) return;
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
    if (!node.value || !request()) {
      clearInvalid();
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
    /** @type {Map<string, string>} The errors by entry; excludes begin with `!`. */
    const invalid = new Map();
    try {
      const plan = await planWithout(invalid, signal);
      if (signal.aborted) return;
      clearInvalid();
      mark(invalid);
      if (invalid.size) {
        showInvalid(plan, invalid);
      } else {
        showPlan(check, plan);
        blackout = Boolean(plan.blackoutUntil);
        planned = true;
      }
      showSubmit();
    } catch (failure) {
      if (isAborted(failure) || signal.aborted || handledSignOut(failure)) return;
      showError(failure);
      // The check of these targets is repeated until the server answers.
      if (failure.offline) timer = setTimeout(checkPlan, 2000);
    }
  }

  /** Plans the scan. The server names one invalid entry at a time: each is left out and the rest planned again. */
  async function planWithout(invalid, signal) {
    for (;;) {
      const wanted = request(invalid);
      if (!wanted) return null;
      try {
        return await call("fleet.v1.ScanService/PlanScan", { ...nodesOfScan(), request: wanted }, { signal });
      } catch (failure) {
        if (isAborted(failure) || failure.code !== "invalid_argument" || mode() !== "targets" || invalid.size >= MOST_INVALID) throw failure;
        const excluded = namedEntry(excludes.entries.map((entry) => `!${entry}`), failure.message);
        const named = excluded ?? namedEntry(targets.entries.filter((entry) => !invalid.has(entry)), failure.message);
        if (!named || invalid.has(named)) throw failure;
        invalid.set(named, sentence(failure.message));
      }
    }
  }

  function mark(invalid) {
    const of = (entries, prefix) => new Map(entries.filter((entry) => invalid.has(`${prefix}${entry}`)).map((entry) => [entry, invalid.get(`${prefix}${entry}`)]));
    targets.mark(of(targets.entries, ""));
    excludes.mark(of(excludes.entries, "!"));
  }

  function showInvalid(plan, invalid) {
    const all = targets.entries.length + excludes.entries.length;
    const [first] = invalid.values();
    const message = h("p", { class: "check-error", id: "check-error" }, rich(first));
    const remove = all > 1
      ? h("button", { type: "button", class: "button button-small", onclick: () => { excludes.removeInvalid(); targets.removeInvalid(); } }, invalid.size === 1 ? "Remove invalid entry" : `Remove ${count(invalid.size)} invalid entries`)
      : null;
    if (plan) showPlan(check, plan, invalid.size);
    else {
      check.className = "check-panel check-bad";
      fill(check);
    }
    check.prepend(message, ...(all > 1 ? [h("p", { class: "check-note" }, `Invalid entries: ${count(invalid.size)} of ${count(all)}.${plan ? " The others:" : ""}`)] : []));
    if (remove) check.append(remove);
  }

  function showError(failure) {
    check.className = "check-panel check-bad";
    const fields = { targets: [targets.input], mdns: [service, seconds], reports: [minutes] }[mode()];
    const inPorts = hasPorts() && (/\bports?\b/i.test(failure.message) || Boolean(findNamed(ports.value, failure.message)));
    if (!failure.offline) (inPorts ? ports : fields[0]).setAttribute("aria-invalid", "true");
    const retry = failure.offline ? h("button", { type: "button", class: "button button-small", onclick: checkPlan }, "Retry") : null;
    fill(check, h("p", { class: "check-error", id: "check-error" }, rich(sentence(failure.message))), retry);
  }

  async function begin(event) {
    event.preventDefault();
    if (submit.disabled || starting) return;
    starting = true;
    await attempt(error, async () => {
      if (repeat.repeats()) {
        await busy(submit, () => repeat.create({ ...nodesOfScan(), request: request() }));
        location.hash = "#/scans";
        return;
      }
      const named = name.value.trim() ? { name: name.value.trim() } : {};
      const { scan } = await busy(submit, () => call("fleet.v1.ScanService/StartScan", { requestId, ...nodesOfScan(), ...named, request: request(), overrideBlackout: overrideBox.checked }));
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
    offerSeveral();
    node.value = prefill.node;
    // A node that was revoked since, or none.
    if (!node.value) node.value = all[0].fleetNodeId;
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
    showNodeHint();
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

/** The nodes that a choice stands for. */
function nodesOf(value, nodes) {
  if (value === "auto") return nodes;
  return nodes.filter((one) => (value.startsWith("site:") ? String(one.siteId) === value.slice(5) : one.fleetNodeId === value));
}
