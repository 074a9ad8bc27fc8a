// The enrollment of a node in four steps. Codes and API keys are shown once and exist only in this view.

import { attempt, may, poll, title } from "./app.js";
import { busy, copyButton, errorBox } from "./dialog.js";
import { announce, fill, foreign, h } from "./dom.js";
import { isolate, timeOfDay } from "./format.js";
import { fingerprint, listNodes, nodeStatus, revoke } from "./nodes.js";
import { chooseNode } from "./prefill.js";
import { call, callAll } from "./rpc.js";

const STEPS = ["Create a code", "Enroll the node", "Compare the fingerprint", "Start the node"];

/** Starts at the first step. */
export function enrollView(root) {
  return wizard(root, (steps) => steps.code());
}

/** Starts at the confirmation of a node that is waiting for it. */
export function confirmView(root, nodeId) {
  return wizard(root, (steps) => steps.find(nodeId));
}

function wizard(root, begin) {
  title("Enroll a node");
  const marks = STEPS.map((name) => h("li", {}, name));
  const body = h("div", { class: "panel wizard-body" });
  let stop = () => {};
  let closed = false;
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "#/nodes" }, "Nodes")),
    h("h1", { tabindex: "-1" }, "Enroll a node"),
    h("ol", { class: "steps", "aria-label": "Steps" }, marks),
    body);

  function step(number, heading, ...content) {
    stop();
    stop = () => {};
    marks.forEach((mark, at) => {
      mark.className = at < number ? "done" : "";
      if (at === number) mark.setAttribute("aria-current", "step");
      else mark.removeAttribute("aria-current");
    });
    const first = body.childElementCount === 0;
    const title = h("h2", { tabindex: "-1" }, heading);
    fill(body, title, ...content);
    if (!first) title.focus();
  }

  function watch(work) {
    stop = poll(2000, async () => {
      const nodes = await listNodes();
      if (!closed) work(nodes);
    });
  }

  /** Shows in `status` that a node has fetched its key, and at last that it is connected. */
  function untilConnected(node, status) {
    let fetched = false;
    watch((nodes) => {
      const now = nodes.find((one) => one.fleetNodeId === node.fleetNodeId);
      if (now?.keyFetchedAt && !fetched) {
        fetched = true;
        announce(`Node ${isolate(now.name)} has fetched its API key.`);
        fill(status, h("span", { class: "badge badge-good" }, "Key fetched"), h("span", {}, "Waiting for ", foreign(now.name), " to connect…"));
      }
      if (!now?.connected) return;
      stop();
      announce(`Node ${isolate(now.name)} is online.`);
      fill(status,
        h("span", { class: "badge badge-good" }, nodeStatus(now).word),
        h("span", {}, foreign(now.name), " is connected. "),
        h("a", { href: "#/scans/new", onclick: () => chooseNode(now.fleetNodeId) }, "Start a scan"));
    });
  }

  const steps = {
    code() {
      const error = errorBox();
      const create = h("button", { type: "button", class: "button button-primary", id: "create-code" }, "Create code");
      const replaces = h("select", { id: "replaces", class: "input" }, h("option", { value: "0" }, "No other node"));
      // Its space is reserved, so that the button does not move when the list arrives.
      const replacing = h("div", { class: "inline-field reserved" }, h("label", { for: "replaces" }, "Replaces"), replaces);
      create.addEventListener("click", () => attempt(error, async () => {
        const created = await busy(create, () => call("fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode", { replacesFleetNodeId: replaces.value }));
        if (!closed) steps.wait(created);
      }));
      step(0, "Create a code",
        h("p", {}, "A node is a machine on the network of your devices that runs ", h("code", {}, "fleetnode"), ". With a code, one machine can request enrollment in your organization. A code expires after one hour."),
        error.element,
        may("fleetnode:manage")
          ? [replacing, h("div", { class: "actions" }, create)]
          : h("p", { class: "notice" }, "Your role cannot enroll nodes. Ask an operator or an administrator."));
      if (may("fleetnode:manage")) stop = offerRevoked(replaces, replacing);
    },

    wait({ code, expiresAt, pendingEnrollmentId }) {
      const command = `fleetnode enroll --server-url ${location.origin}${insecure() ? " --allow-insecure-transport" : ""}`;
      step(1, "Enroll the node",
        h("p", {}, "On the machine that will be the node, run:"),
        secretRow(command, "Command"),
        h("p", {}, "When it asks for the code, paste this one. ", h("strong", {}, "It is shown only once.")),
        secretRow(code, "Enrollment code", "enrollment-code"),
        h("p", { class: "hint" }, `Expires at ${timeOfDay(expiresAt)}. The code alone admits no machine: you confirm the fingerprint in the next step.`),
        waiting("Waiting for a node to enroll with this code…"));
      watch((nodes) => {
        const node = nodes.find((one) => one.pendingEnrollmentId && one.pendingEnrollmentId === pendingEnrollmentId);
        if (node) {
          announce(`Node ${isolate(node.name)} has enrolled. Compare its fingerprint.`);
          steps.compare(node);
        }
      });
    },

    find(nodeId) {
      step(2, "Compare the fingerprint", h("p", { class: "loading" }, "Loading the node…"));
      stop = poll(0, async () => {
        const node = (await listNodes()).find((one) => one.fleetNodeId === nodeId);
        if (closed) return;
        if (!node) steps.gone("This node no longer exists. Its code may have expired. Enroll it with a new code.");
        else if (node.enrollment === "confirmed") steps.gone("Node “", foreign(node.name), "” is already confirmed.");
        else steps.compare(node);
      }, { failed: (failure) => steps.gone(failure.message) });
    },

    compare(node) {
      const error = errorBox();
      const same = h("input", { type: "checkbox", id: "same" });
      const confirm = h("button", { type: "button", class: "button button-primary", id: "confirm-node", disabled: true }, "Confirm node");
      const refuse = h("button", { type: "button", class: "button button-danger-outline" }, "Refuse node");
      same.addEventListener("change", () => { confirm.disabled = !same.checked; });
      confirm.addEventListener("click", () => decide(confirm, async () => {
        if (node.fetchesKey) {
          await call("fleet.v1.NodeConfirmationService/ConfirmFetchingNode", {
            fleetNodeId: node.fleetNodeId, pendingEnrollmentId: node.pendingEnrollmentId,
          });
          if (!closed) steps.fetching(node);
          return;
        }
        const { apiKey } = await call("fleetnodeadmin.v1.FleetNodeAdminService/ConfirmFleetNode", {
          fleetNodeId: node.fleetNodeId, pendingEnrollmentId: node.pendingEnrollmentId,
        });
        if (!closed) steps.key(node, apiKey);
      }));
      refuse.addEventListener("click", () => decide(refuse, async () => {
        if (await revoke(node) && !closed) steps.gone("Node “", foreign(node.name), "” was refused. Find out which machine used the code before you create a new one.");
      }));
      async function decide(button, work) {
        await attempt(error, () => busy(button, work));
        confirm.disabled = !same.checked;
      }
      step(2, "Compare the fingerprint",
        h("p", {}, "The node ", h("strong", {}, foreign(node.name)), " requests enrollment. Its terminal shows a fingerprint. Compare every character with this one:"),
        h("div", { class: "compare", id: "fingerprint" }, fingerprint(node.identityFingerprint)),
        may("fleetnode:manage")
          ? [
            h("label", { class: "check", for: "same" }, same, h("span", {}, "The node's terminal shows the same fingerprint")),
            error.element,
            h("div", { class: "actions" }, confirm, refuse),
            h("p", { class: "hint" }, "If it differs, another machine used your code. Refuse the node and create a new code."),
          ]
          : h("p", { class: "notice" }, "Your role cannot confirm nodes. Ask an operator or an administrator."));
    },

    key(node, apiKey) {
      const status = waiting(["Waiting for ", foreign(node.name), " to connect…"]);
      step(3, "Copy the API key",
        h("p", {}, "Paste this key at the prompt ", h("code", {}, "API key"), " of the node. ", h("strong", {}, "It is shown only once."), " If it is lost, revoke the node and enroll it again."),
        secretRow(apiKey, "API key of the node", "api-key"),
        h("p", {}, "Then start the node:"),
        secretRow("fleetnode run", "Command"),
        status,
        h("div", { class: "actions" }, h("a", { class: "button", href: "#/nodes" }, "Done")));
      untilConnected(node, status);
    },

    fetching(node) {
      const status = waiting(["Waiting for ", foreign(node.name), " to fetch its API key…"]);
      step(3, "Start the node",
        h("p", {}, "The node fetches its API key itself, once. There is nothing to paste. Then start it:"),
        secretRow("fleetnode run", "Command"),
        status,
        h("p", { class: "hint" }, "If its terminal was closed, run ", h("code", {}, "fleetnode enroll"), " on it within an hour."),
        h("div", { class: "actions" }, h("a", { class: "button", href: "#/nodes" }, "Done")));
      untilConnected(node, status);
    },

    gone(...text) {
      step(2, "Node cannot be confirmed",
        h("p", {}, text),
        h("div", { class: "actions" }, h("a", { class: "button", href: "#/nodes" }, "Show nodes")));
    },
  };

  begin(steps);
  return () => {
    closed = true;
    stop();
    // Remove the secrets from the document.
    fill(body);
  };
}

/** Lists the revoked nodes that the new node can replace. The field stays invisible if there are none. */
function offerRevoked(select, field) {
  return poll(0, async () => {
    const nodes = await callAll("fleet.v1.NodeService/ListRevokedNodes", "nodes");
    for (const node of nodes) {
      select.append(h("option", { value: node.fleetNodeId }, `${isolate(node.name)} (node ${node.fleetNodeId}, revoked)`));
    }
    field.classList.toggle("reserved", nodes.length === 0);
  });
}

function secretRow(text, label, id) {
  return h("div", { class: "secret" }, h("code", { id, "aria-label": label, tabindex: "0" }, text), copyButton(text));
}

/** Returns whether a node accepts this URL only with `--allow-insecure-transport`. */
function insecure() {
  return location.protocol === "http:" && !/^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname);
}

function waiting(text) {
  return h("p", { class: "waiting", role: "status" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", {}, text));
}
