// The operators of the organization with their roles, keys and sessions. Administrators only.

import { attempt, currentOperator, poll, title } from "./app.js";
import { busy, confirmDialog, copyButton, errorBox } from "./dialog.js";
import { announce, fill, foreign, h, timeAgo } from "./dom.js";
import { absolute, browserName, int, isolate, plural } from "./format.js";
import { call, callAll } from "./rpc.js";

/** @type {[string, string][]} */
const ROLES = [
  ["viewer", "Viewer: reads"],
  ["operator", "Operator: manages nodes, scans and pairing"],
  ["admin", "Admin: everything"],
];

/** Shows the people of the organization. */
export function peopleView(root) {
  title("People");
  let closed = false;
  const heading = h("h1", { tabindex: "-1" }, "People");
  const parts = { operators: list("people-operators"), keys: list("people-keys"), sessions: list("people-sessions") };
  root.append(
    h("div", { class: "page-head" }, heading),
    h("div", { class: "account-parts" },
      part("Operators", parts.operators, createForm()),
      part("API keys of all operators", parts.keys),
      part("Browser sessions of all operators", parts.sessions)));
  const stop = poll(0, reload, { failed: parts.operators.error.show });
  return () => {
    closed = true;
    stop();
  };

  async function reload() {
    const [operators, { keys = [] }, { sessions = [] }] = await Promise.all([
      callAll("fleet.v1.OperatorService/ListOperators", "operators"),
      call("fleet.v1.KeyService/ListKeys", { allOperators: true }),
      call("fleet.v1.AccountService/ListSessions", { allOperators: true }),
    ]);
    if (closed) return;
    fill(parts.operators.element, operators.map(operatorRow));
    fill(parts.keys.element, keys.length ? keys.map(keyRow) : h("li", { class: "hint" }, "No keys."));
    fill(parts.sessions.element, sessions.length ? sessions.map(sessionRow) : h("li", { class: "hint" }, "No sessions."));
  }

  /** Runs an action of a list and loads everything again, because each action changes the other lists too. */
  async function act(of, button, procedure, message, done) {
    await attempt(of.error, async () => {
      const answer = await busy(button, () => call(procedure, message));
      if (closed) return;
      done?.(answer);
      await reload();
    });
  }

  function createForm() {
    const { error, secret } = parts.operators;
    const email = h("input", { id: "operator-email", class: "input", type: "email", maxlength: 254, autocomplete: "off", placeholder: "name@example.org" });
    const role = roleSelect("operator-role", "viewer");
    const create = h("button", { type: "submit", class: "button", id: "create-operator" }, "Create operator");
    const form = h("form", { class: "account-inline", novalidate: true },
      h("div", { class: "field" }, h("label", { for: "operator-email" }, "E-mail of the new operator"), email),
      h("div", { class: "field" }, h("label", { for: "operator-role" }, "Role"), role), create);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.clear();
      if (!email.value.trim()) {
        error.show("Enter the e-mail address of the operator.");
        email.focus();
        return;
      }
      const message = { email: email.value.trim(), role: role.value };
      await act(parts.operators, create, "fleet.v1.OperatorService/CreateOperator", message, (created) => {
        if (created.oneTimePassword) showPassword(secret, message.email, created);
        else announce("Operator created. The server accepts no passwords, so the operator signs in through the provider.");
        email.value = "";
      });
    });
    return form;
  }

  function operatorRow(operator) {
    const name = isolate(operator.email);
    const own = operator.email === currentOperator()?.email;
    const role = roleSelect(null, operator.role, (text) => text.split(":")[0]);
    role.setAttribute("aria-label", `Role of ${name}`);
    role.addEventListener("change", async () => {
      const agreed = await confirmDialog({
        title: ["Change the role of “", foreign(operator.email), "” to ", role.value, "?"],
        body: own ? "This is your own account. As another role, you may lose access to this page." : "The role applies to their sessions and keys at once.",
        action: "Change role",
      });
      if (!agreed || closed) {
        role.value = operator.role;
        return;
      }
      await act(parts.operators, role, "fleet.v1.OperatorService/SetOperatorRole", { operatorId: operator.operatorId, role: role.value });
      if (!closed && !parts.operators.error.element.hidden) role.value = operator.role;
    });
    const reset = button("Reset password", `Reset password of ${name}`, "button-small");
    reset.addEventListener("click", async () => {
      const agreed = await confirmDialog({
        title: ["Reset the password of “", foreign(operator.email), "”?"],
        body: "Their browser sessions end. You get a one-time password, with which they choose a new one.",
        action: "Reset password",
      });
      if (!agreed || closed) return;
      await act(parts.operators, reset, "fleet.v1.OperatorService/ResetOperatorPassword", { operatorId: operator.operatorId },
        (answer) => showPassword(parts.operators.secret, operator.email, answer));
    });
    const unlink = button("Unlink", `Unlink ${name} from the sign-in provider`, "button-small");
    unlink.addEventListener("click", async () => {
      const agreed = await confirmDialog({
        title: ["Unlink “", foreign(operator.email), "” from the sign-in provider?"],
        body: [["Sessions that the account of ", foreign(operator.signInIssuer), " opened end. The next account there with this verified e-mail address is linked again."]],
        action: "Unlink",
      });
      if (!agreed || closed) return;
      await act(parts.operators, unlink, "fleet.v1.OperatorService/UnlinkOperator", { operatorId: operator.operatorId }, () => heading.focus());
    });
    const remove = button("Remove", `Remove ${name}`, "button-small button-quiet-danger");
    remove.addEventListener("click", async () => {
      const agreed = await confirmDialog({
        title: ["Remove “", foreign(operator.email), "”?"],
        body: "Their keys and sessions become invalid at once. Their audit records stay.",
        action: "Remove operator", cancel: "Keep operator", danger: true,
      });
      if (!agreed || closed) return;
      await act(parts.operators, remove, "fleet.v1.OperatorService/RemoveOperator", { operatorId: operator.operatorId },
        () => { announce("Operator removed."); heading.focus(); });
    });
    return h("li", { class: "entry person", "data-email": operator.email },
      h("div", {}, h("strong", {}, foreign(operator.email)),
        h("p", { class: "hint" }, own ? "you · " : null, plural(operator.keys ?? 0, "key"), operator.signInIssuer ? [" · signs in through ", foreign(operator.signInIssuer)] : null, operator.hasPassword ? null : " · no password", " · created ", timeAgo(operator.createdAt))),
      h("div", { class: "actions" }, role, reset, operator.signInIssuer ? unlink : null, own ? null : remove));
  }

  function keyRow(key) {
    const revoke = button("Revoke", `Revoke the key ${isolate(key.name || key.keyId)} of ${isolate(key.email)}`, "button-small button-quiet-danger");
    revoke.addEventListener("click", async () => {
      const agreed = await confirmDialog({
        title: ["Revoke the key “", foreign(key.name || key.keyId), "” of ", foreign(key.email), "?"],
        body: "Scripts that use this key stop working at once, and browsers that signed in with it are signed out.",
        action: "Revoke key", cancel: "Keep key", danger: true,
      });
      if (!agreed || closed) return;
      await act(parts.keys, revoke, "fleet.v1.KeyService/RevokeKey", { keyId: key.keyId }, () => heading.focus());
    });
    return h("li", { class: "entry" },
      h("div", {}, h("strong", {}, foreign(key.name || `Key ${key.keyId}`)),
        h("p", { class: "hint" }, foreign(key.email), " · ", key.lastUsedAt ? ["last used ", timeAgo(key.lastUsedAt)] : "never used", key.expiresAt ? ` · expires ${absolute(key.expiresAt)}` : null, int(key.madeByKeyId) ? ` · created by key ${key.madeByKeyId}` : null)), revoke);
  }

  function sessionRow(session) {
    const end = button("Sign out", `Sign out ${isolate(session.email)}, session ${session.sessionId}`, "button-small button-quiet-danger");
    end.addEventListener("click", () => act(parts.sessions, end, "fleet.v1.AccountService/EndSession", { sessionId: session.sessionId }, () => heading.focus()));
    return h("li", { class: "entry", "data-session": session.sessionId },
      h("div", {}, h("strong", {}, foreign(session.email)),
        h("p", { class: "hint" }, session.current ? "this browser · " : session.fromAddress ? `${session.fromAddress} · ` : null, "signed in ", timeAgo(session.createdAt), session.signInIssuer ? [" through ", foreign(session.signInIssuer)] : null, session.userAgent ? [" · ", h("bdi", { title: isolate(session.userAgent) }, browserName(session.userAgent))] : null)),
      session.current ? null : end);
  }
}

function list(id) {
  return { element: h("ul", { class: "entries", id }), error: errorBox(), secret: h("div", {}) };
}

function part(heading, shown, form = null) {
  return h("section", { class: "panel" }, h("h2", { class: "account-head" }, heading),
    h("div", { class: "stack" }, shown.element, form, shown.secret, shown.error.element));
}

function button(text, label, look) {
  return h("button", { type: "button", class: `button ${look}`, "aria-label": label }, text);
}

function roleSelect(id, value, shown = (/** @type {string} */ text) => text) {
  const select = h("select", { id, class: "input" }, ROLES.map(([role, text]) => h("option", { value: role }, shown(text))));
  select.value = value;
  return select;
}

function showPassword(element, email, { oneTimePassword, expiresAt }) {
  fill(element,
    h("p", {}, h("strong", {}, "Copy the one-time password of ", foreign(email), " now. It is shown only once."), expiresAt ? ` It expires ${absolute(expiresAt)}.` : null),
    h("div", { class: "secret" }, h("code", { id: "one-time-password", "aria-label": "One-time password", tabindex: "0" }, oneTimePassword), copyButton(oneTimePassword)));
  announce("One-time password created. It is shown only once.");
}
