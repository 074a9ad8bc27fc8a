// Letting a node in: code, fingerprint, confirmation, key. Codes and keys are shown once and live in this view only.

import { handledSignOut, may, poll, title } from "./app.js";
import { busy, copyButton, errorBox } from "./dialog.js";
import { announce, fill, h } from "./dom.js";
import { timeOfDay } from "./format.js";
import { fingerprint, listNodes, nodeStatus, revoke } from "./nodes.js";
import { chooseNode } from "./prefill.js";
import { call } from "./rpc.js";

const STEPS = ["Make a code", "Enroll the node", "Compare the fingerprint", "Hand over the key"];

/** The whole way, from a new code. */
export function enrollView(root) {
  return wizard(root, (steps) => steps.code());
}

/** The way from a node that already waits. */
export function confirmView(root, nodeId) {
  return wizard(root, (steps) => steps.find(nodeId));
}

function wizard(root, begin) {
  title("Enroll a node");
  const marks = STEPS.map((name) => h("li", {}, name));
  const body = h("div", { class: "panel wizard-body" });
  let stop = () => {};
  let left = false;
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
      if (!left) work(nodes);
    });
  }

  const steps = {
    code() {
      const error = errorBox();
      const make = h("button", { type: "button", class: "button button-primary", id: "make-code" }, "Make a code");
      const replaces = h("select", { id: "replaces", class: "input" }, h("option", { value: "0" }, "No other node"));
      const replacing = h("div", { class: "inline-field", hidden: true }, h("label", { for: "replaces" }, "It replaces"), replaces);
      offerRevoked(replaces, replacing);
      make.addEventListener("click", async () => {
        error.clear();
        try {
          const answer = await busy(make, () => call("fleetnodeadmin.v1.FleetNodeAdminService/CreateEnrollmentCode", { replacesFleetNodeId: replaces.value }));
          if (!left) steps.wait(answer);
        } catch (failure) {
          if (!handledSignOut(failure)) error.show(failure);
        }
      });
      step(0, "Make a code",
        h("p", {}, "A node is a machine beside your devices that runs ", h("code", {}, "fleetnode"), ". A code lets one machine ask to become a node of your organization. It is good for one hour and for one node."),
        error.element,
        may("fleetnode:manage")
          ? [replacing, h("div", { class: "actions" }, make)]
          : h("p", { class: "notice" }, "Your role cannot enroll nodes. Ask an operator or an administrator."));
    },

    wait({ code, expiresAt, pendingEnrollmentId }) {
      const command = `fleetnode enroll --server-url ${location.origin}${insecure() ? " --allow-insecure-transport" : ""}`;
      step(1, "Enroll the node",
        h("p", {}, "On the machine that shall become the node, run:"),
        secretRow(command, "Command"),
        h("p", {}, "When it asks for the code, paste this one. ", h("strong", {}, "It is shown only here, only now.")),
        secretRow(code, "Enrollment code", "enrollment-code"),
        h("p", { class: "hint" }, `Good until ${timeOfDay(expiresAt)}. Nobody can become a node with it unless you confirm the fingerprint in the next step.`),
        waiting("Waiting for the node to answer with this code…"));
      watch((nodes) => {
        const node = nodes.find((one) => one.pendingEnrollmentId && one.pendingEnrollmentId === pendingEnrollmentId);
        if (node) {
          announce(`Node ${node.name} answered. Compare its fingerprint.`);
          steps.compare(node);
        }
      });
    },

    async find(nodeId) {
      step(2, "Compare the fingerprint", h("p", { class: "loading" }, "Looking for the node…"));
      try {
        const node = (await listNodes()).find((one) => one.fleetNodeId === nodeId);
        if (left) return;
        if (!node) steps.gone("There is no such node any more. Its code may have expired: enroll it with a new one.");
        else if (node.enrollment === "confirmed") steps.gone(`Node “${node.name}” is already confirmed.`);
        else steps.compare(node);
      } catch (failure) {
        if (!handledSignOut(failure)) steps.gone(failure.message);
      }
    },

    compare(node) {
      const error = errorBox();
      const same = h("input", { type: "checkbox", id: "same" });
      const confirm = h("button", { type: "button", class: "button button-primary", id: "confirm-node", disabled: true }, "Confirm the node");
      const refuse = h("button", { type: "button", class: "button button-danger-outline" }, "It differs: refuse");
      same.addEventListener("change", () => { confirm.disabled = !same.checked; });
      confirm.addEventListener("click", () => attempt(confirm, async () => {
        const { apiKey } = await call("fleetnodeadmin.v1.FleetNodeAdminService/ConfirmFleetNode", {
          fleetNodeId: node.fleetNodeId, pendingEnrollmentId: node.pendingEnrollmentId,
        });
        if (!left) steps.key(node, apiKey);
      }));
      refuse.addEventListener("click", () => attempt(refuse, async () => {
        if (await revoke(node) && !left) steps.gone(`Node “${node.name}” was refused. Find out who used the code before you make another one.`);
      }));
      async function attempt(button, work) {
        error.clear();
        try {
          await busy(button, work);
        } catch (failure) {
          if (!handledSignOut(failure)) error.show(failure);
        } finally {
          confirm.disabled = !same.checked;
        }
      }
      step(2, "Compare the fingerprint",
        h("p", {}, "The node ", h("strong", {}, node.name), " asks to be let in. On its terminal it prints a fingerprint. It must be this one, character by character:"),
        h("div", { class: "compare", id: "fingerprint" }, fingerprint(node.identityFingerprint)),
        may("fleetnode:manage")
          ? [
            h("label", { class: "check", for: "same" }, same, h("span", {}, "I compared it with the node's terminal: it is the same")),
            error.element,
            h("div", { class: "actions" }, confirm, refuse),
            h("p", { class: "hint" }, "If it differs, another machine used your code. Refuse it, and make a new code."),
          ]
          : h("p", { class: "notice" }, "Your role cannot confirm nodes. Ask an operator or an administrator."));
    },

    key(node, apiKey) {
      const status = waiting(`Waiting for ${node.name} to come online…`);
      step(3, "Hand over the key",
        h("p", {}, "The node waits for its key at the prompt ", h("code", {}, "API key"), ". Paste it there. ", h("strong", {}, "It is shown only here, only now"), "; if it is lost, revoke the node and enroll it again."),
        secretRow(apiKey, "API key of the node", "api-key"),
        h("p", {}, "Then start the node there:"),
        secretRow("fleetnode run", "Command"),
        status,
        h("div", { class: "actions" }, h("a", { class: "button", href: "#/nodes" }, "Done")));
      watch((nodes) => {
        const now = nodes.find((one) => one.fleetNodeId === node.fleetNodeId);
        if (!now?.connected) return;
        stop();
        announce(`Node ${now.name} is online.`);
        fill(status,
          h("span", { class: "badge badge-good" }, nodeStatus(now).word),
          h("span", {}, `${now.name} is connected. `),
          h("a", { href: "#/scans/new", onclick: () => chooseNode(now.fleetNodeId) }, "Start its first scan"));
      });
    },

    gone(text) {
      step(2, "Nothing to confirm",
        h("p", {}, text),
        h("div", { class: "actions" }, h("a", { class: "button", href: "#/nodes" }, "Back to the nodes")));
    },
  };

  begin(steps);
  return () => {
    left = true;
    stop();
    // Secrets do not outlive the view.
    fill(body);
  };
}

/** Offers the revoked nodes whose place the new one can take; without any, nothing is asked. */
async function offerRevoked(select, field) {
  try {
    const { nodes = [] } = await call("fleet.v1.NodeService/ListRevokedNodes");
    for (const node of nodes) {
      select.append(h("option", { value: node.fleetNodeId }, `${node.name} (node ${node.fleetNodeId}, revoked)`));
    }
    field.hidden = nodes.length === 0;
  } catch (failure) {
    handledSignOut(failure);
  }
}

function secretRow(text, label, id) {
  return h("div", { class: "secret" }, h("code", { id, "aria-label": label, tabindex: "0" }, text), copyButton(text));
}

/** Whether a node would refuse this address without being told that plain HTTP is meant. */
function insecure() {
  return location.protocol === "http:" && !/^(localhost|127\.[\d.]+|\[::1\])$/.test(location.hostname);
}

function waiting(text) {
  return h("p", { class: "waiting", role: "status" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", {}, text));
}
