// The nodes of the organization, with actions to enroll, confirm, scan with and revoke them.

import { attempt, may, poll, title } from "./app.js";
import { confirmDialog, errorBox, textDialog } from "./dialog.js";
import { announce, fill, foreign, h, setText, setTime, show, timeAgo } from "./dom.js";
import { int, isolate, plural } from "./format.js";
import { chooseNode } from "./prefill.js";
import { call, callAll } from "./rpc.js";

const POLL_MS = 2000;

/** Loads the nodes of the organization that are not revoked. */
export async function listNodes() {
  return callAll("fleet.v1.NodeService/ListNodes", "nodes");
}

/** Returns the label and look of a node's status, and what it means. */
export function nodeStatus(node) {
  if (node.enrollment !== "confirmed") return { word: "Awaiting confirmation", look: "wait", means: "Compare its fingerprint, then confirm it." };
  if (node.duplicateIdentity) return { word: "Duplicate identity", look: "bad", means: "Two machines use this identity. Stop one of them, or revoke the node and enroll both again." };
  if (node.connected && node.halted) return { word: "Halted", look: "wait", means: `The administrator of its site halted it${node.haltReason ? ` (${isolate(node.haltReason)})` : ""}. It refuses scans until “fleetnode resume” runs on it.` };
  if (node.connected) return { word: "Online", look: "good", means: "Connected. Scans start at once." };
  if (node.online) return { word: "Reconnecting", look: "wait", means: `The node sends heartbeats, but has no connection for scans. They wait until it reconnects.${why(node)}` };
  return { word: "Offline", look: "off", means: `Not connected. Scans wait until the node reconnects.${why(node)}` };
}

/** Why a node is not connected, as a sentence. The text may come from the node. */
function why(node) {
  return node.disconnectedReason ? ` Last reason: ${isolate(node.disconnectedReason)}.` : "";
}

/** Shows a fingerprint in groups of four for comparison; it is copied without gaps. */
export function fingerprint(text) {
  const groups = String(text ?? "").match(/.{1,4}/g) ?? [];
  return h("code", { class: "fingerprint", "aria-label": groups.join(" ") }, groups.map((group) => h("span", {}, group)));
}

/** Revokes a node after a confirmation. Resolves to whether it was revoked. */
export async function revoke(node) {
  const waiting = node.enrollment !== "confirmed";
  const agreed = await confirmDialog({
    title: [waiting ? "Refuse node “" : "Revoke node “", foreign(node.name), "”?"],
    body: waiting
      ? ["The enrollment is canceled and its code cannot be used again. To enroll this node later, create a new code."]
      : ["The node is disconnected, its running scans end, and its API key becomes invalid. This cannot be undone.", "Its devices stay in the inventory but no longer belong to a node. To use the node again, enroll it with a new code."],
    action: waiting ? "Refuse node" : "Revoke node",
    cancel: waiting ? "Back" : "Keep node",
    danger: true,
  });
  if (!agreed) return false;
  const message = { fleetNodeId: node.fleetNodeId };
  if (waiting && node.pendingEnrollmentId) message.pendingEnrollmentId = node.pendingEnrollmentId;
  await call("fleetnodeadmin.v1.FleetNodeAdminService/RevokeFleetNode", message);
  announce(waiting ? "Node refused." : "Node revoked.");
  return true;
}

/** Asks for a new name of a node and sets it. Resolves to whether it was renamed. */
export async function rename(node) {
  const name = await textDialog({
    title: ["Rename node “", foreign(node.name), "”"],
    label: "New name",
    hint: "The node's own logs keep the old name.",
    value: node.name,
    action: "Rename node",
  });
  if (name === null || name === node.name) return false;
  await call("fleet.v1.NodeService/RenameNode", { fleetNodeId: node.fleetNodeId, name });
  announce("Node renamed.");
  return true;
}

/** Shows the nodes and the open enrollment codes. */
export function nodesView(root) {
  title("Nodes");
  const manage = may("fleetnode:manage");
  const error = errorBox();
  const list = h("ul", { class: "cards", id: "nodes", "aria-label": "Nodes" });
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No nodes yet"),
    h("p", {}, "A node runs on the network of your devices and scans it. Enroll a node to start."),
    manage ? h("a", { class: "button button-primary", href: "#/nodes/enroll" }, "Enroll a node") : null);
  const codes = h("section", { class: "codes", "aria-labelledby": "codes-title", hidden: true });
  const loading = h("p", { class: "loading" }, "Loading nodes…");
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Nodes"),
      h("div", { class: "actions" }, h("a", { class: "button", href: "#/sites" }, "Sites"),
        manage ? h("a", { class: "button button-primary", href: "#/nodes/enroll", id: "enroll" }, "Enroll a node") : null)),
    error.element, loading, empty, list, codes);

  const shown = new Map();
  let closed = false;

  async function refresh() {
    const [nodes, open] = await Promise.all([listNodes(), manage ? openCodes() : []]);
    if (closed) return;
    loading.remove();
    show(empty, nodes.length === 0);
    const now = new Set(nodes.map((node) => node.fleetNodeId));
    for (const [id, card] of shown) {
      if (now.has(id)) continue;
      card.element.remove();
      shown.delete(id);
    }
    for (const node of nodes) {
      let card = shown.get(node.fleetNodeId);
      if (!card) {
        card = nodeCard(manage, revokeAndRefresh, renameAndRefresh);
        shown.set(node.fleetNodeId, card);
        list.append(card.element);
      }
      card.update(node);
    }
    showCodes(codes, open, cancelCode);
  }

  const revokeAndRefresh = (node) => attempt(error, async () => { if (await revoke(node)) await refresh(); });
  const renameAndRefresh = (node) => attempt(error, async () => { if (await rename(node)) await refresh(); });
  const cancelCode = (code) => attempt(error, async () => {
    await call("fleet.v1.NodeService/CancelEnrollmentCode", { pendingEnrollmentId: code.pendingEnrollmentId });
    announce("Code canceled.");
    await refresh();
  });

  const stop = poll(POLL_MS, refresh, { failed: (failure) => { loading.remove(); error.show(failure); } });
  return () => {
    closed = true;
    stop();
  };
}

function nodeCard(manage, onRevoke, onRename) {
  let current = null;
  const badge = h("span", { class: "badge" });
  const name = h("bdi", {});
  const lastSeen = timeAgo("");
  const means = h("p", { class: "card-note" });
  const facts = {};
  const fact = (key, label) => {
    facts[key] = h("dd", {});
    return h("div", { class: "fact" }, h("dt", {}, label), facts[key]);
  };
  const confirm = h("a", { class: "button button-primary", hidden: true }, "Compare and confirm");
  const scan = h("a", { class: "button", href: "#/scans/new", hidden: true, onclick: () => chooseNode(current.fleetNodeId) }, "Scan");
  const revokeButton = h("button", { type: "button", class: "button button-quiet-danger", hidden: !manage, onclick: () => onRevoke(current) }, "Revoke");
  const renameButton = h("button", { type: "button", class: "button", hidden: !manage, onclick: () => onRename(current) }, "Rename");
  const element = h("li", { class: "card node" },
    h("div", { class: "card-head" }, h("h2", { class: "card-title" }, name), badge),
    means,
    h("dl", { class: "facts" },
      fact("seen", "Last seen"), fact("version", "Version"), fact("subnets", "Local subnets"), fact("queued", "Queued scans"),
      fact("missing", "Needs an upgrade for"), fact("print", "Fingerprint")),
    h("div", { class: "actions" }, confirm, scan, renameButton, revokeButton));

  facts.seen.append(lastSeen);

  return {
    element,
    update(node) {
      const status = nodeStatus(node);
      const awaiting = node.enrollment !== "confirmed";
      setText(name, node.name);
      setText(badge, status.word);
      badge.className = `badge badge-${status.look}`;
      element.dataset.status = status.look;
      setText(means, status.means);
      setTime(lastSeen, node.lastSeenAt);
      setText(facts.version, node.version || "Unknown");
      setText(facts.subnets, (node.localSubnets ?? []).join(", ") || "Unknown");
      setText(facts.queued, int(node.queuedScans) ? plural(node.queuedScans, "scan") : "None");
      setText(facts.missing, (node.missingCapabilities ?? []).join(", "));
      show(facts.missing.parentElement, (node.missingCapabilities ?? []).length > 0);
      if (current?.identityFingerprint !== node.identityFingerprint) fill(facts.print, fingerprint(node.identityFingerprint));
      show(confirm, manage && awaiting);
      confirm.href = `#/nodes/${node.fleetNodeId}/confirm`;
      show(scan, manage && !awaiting);
      scan.setAttribute("aria-label", `Scan with ${isolate(node.name)}`);
      renameButton.setAttribute("aria-label", `Rename ${isolate(node.name)}`);
      setText(revokeButton, awaiting ? "Refuse" : "Revoke");
      revokeButton.setAttribute("aria-label", `${awaiting ? "Refuse" : "Revoke"} ${isolate(node.name)}`);
      current = node;
    },
  };
}

async function openCodes() {
  const codes = await callAll("fleet.v1.NodeService/ListEnrollmentCodes", "codes");
  return codes.filter((code) => code.state === "pending");
}

function showCodes(section, codes, onCancel) {
  show(section, codes.length > 0);
  const names = codes.map((code) => code.pendingEnrollmentId).join();
  if (section.dataset.names === names) return;
  section.dataset.names = names;
  fill(section,
    h("h2", { id: "codes-title" }, "Open enrollment codes"),
    h("p", { class: "hint" }, "With an open code, a machine can request enrollment. Cancel the codes that you do not need."),
    h("ul", { class: "plain-list" }, codes.map((code) => h("li", { class: "code-row" },
      h("span", {}, "Created by ", foreign(code.createdBy || "an operator"), " ", timeAgo(code.createdAt), ", expires ", timeAgo(code.expiresAt)),
      h("button", { type: "button", class: "button button-small", onclick: () => onCancel(code) }, "Cancel code")))));
}
