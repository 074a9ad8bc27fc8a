// The account of the signed-in operator: password, API keys and sessions.

import { attempt, currentOperator, may, poll, title } from "./app.js";
import { busy, confirmDialog, copyButton, errorBox } from "./dialog.js";
import { announce, fill, foreign, h, timeAgo } from "./dom.js";
import { absolute, browserName, int, isolate } from "./format.js";
import { call } from "./rpc.js";
import { PASSWORD_LEAST } from "./signin.js";

/** Shows the account. */
export function accountView(root) {
  title("Account");
  let closed = false;
  const stops = [];
  const operator = currentOperator();
  const heading = h("h1", { tabindex: "-1" }, "Account");
  root.append(
    h("div", { class: "page-head" }, heading),
    h("p", { class: "hint account-line" }, `${operator.email}, ${operator.role} of ${operator.organization}`),
    h("div", { class: "account-parts" }, passwordPart(), keysPart(), sessionsPart()));
  return () => {
    closed = true;
    for (const stop of stops) stop();
  };

  function passwordPart() {
    const error = errorBox();
    const done = h("p", { class: "notice notice-good", role: "status", hidden: true }, "Password changed. Your other sessions have ended.");
    // A password manager stores the password under this e-mail.
    const email = h("input", { class: "visually-hidden", type: "email", autocomplete: "username", value: operator.email, readonly: true, tabindex: "-1", "aria-hidden": "true" });
    const current = secret("current-password", "current-password");
    const fresh = secret("new-password", "new-password");
    const again = secret("new-password-again", "new-password");
    const submit = h("button", { type: "submit", class: "button button-primary", id: "change-password" }, "Change password");
    const form = h("form", { method: "post", class: "stack", novalidate: true }, email,
      labeled(current, "Current password", "Leave empty if you do not have a password yet."),
      labeled(fresh, "New password", `At least ${PASSWORD_LEAST} characters, for example several words.`),
      labeled(again, "Repeat new password"),
      error.element, done,
      h("div", { class: "actions" }, submit));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.clear();
      done.hidden = true;
      const problem = [...fresh.value].length < PASSWORD_LEAST ? { text: `Enter at least ${PASSWORD_LEAST} characters.`, field: fresh }
        : fresh.value !== again.value ? { text: "The new passwords do not match.", field: again } : null;
      if (problem) {
        error.show(problem.text);
        problem.field.focus();
        return;
      }
      await attempt(error, async () => {
        await busy(submit, () => call("fleet.v1.AccountService/ChangePassword", { currentPassword: current.value, newPassword: fresh.value }));
        form.reset();
        done.hidden = false;
        await sessions.load();
      });
    });
    return part("Password", form);
  }

  function keysPart() {
    const error = errorBox();
    const shown = h("div", {});
    const list = h("ul", { class: "entries", id: "keys" });
    const name = h("input", { id: "key-name", class: "input", maxlength: 64, autocomplete: "off", placeholder: "Nightly scan" });
    const create = h("button", { type: "submit", class: "button", id: "create-key" }, "Create key");
    const form = h("form", { class: "account-inline", novalidate: true }, labeled(name, "Name of the new key"), create);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.clear();
      if (!name.value.trim()) {
        error.show("Enter a name for the key, such as the script that uses it.");
        name.focus();
        return;
      }
      await attempt(error, async () => {
        const created = await busy(create, () => call("fleet.v1.KeyService/CreateKey", { name: name.value.trim() }));
        name.value = "";
        if (closed) return;
        fill(shown, h("p", {}, h("strong", {}, "Copy the key now. It is shown only once.")),
          h("div", { class: "secret" }, h("code", { id: "new-key", "aria-label": "New key", tabindex: "0" }, created.key), copyButton(created.key)));
        announce("Key created. It is shown only once.");
        await load();
      });
    });
    async function load() {
      const { keys = [] } = await call("fleet.v1.KeyService/ListKeys");
      if (closed) return;
      fill(list, keys.length ? keys.map(row) : h("li", { class: "hint" }, "No keys."));
    }
    function row(key) {
      const revoke = h("button", { type: "button", class: "button button-small button-quiet-danger", "aria-label": `Revoke ${isolate(key.name || key.keyId)}` }, "Revoke");
      revoke.addEventListener("click", async () => {
        const agreed = await confirmDialog({
          title: ["Revoke the key “", foreign(key.name || key.keyId), "”?"],
          body: "Scripts that use this key stop working at once, and browsers that signed in with it are signed out.",
          action: "Revoke key", cancel: "Keep key", danger: true,
        });
        if (!agreed || closed) return;
        await attempt(error, async () => {
          await busy(revoke, () => call("fleet.v1.KeyService/RevokeKey", { keyId: key.keyId }));
          fill(shown);
          await load();
          name.focus();
        });
      });
      return h("li", { class: "entry", "data-key": key.keyId },
        h("div", {}, h("strong", {}, foreign(key.name || `Key ${key.keyId}`)),
          h("p", { class: "hint" }, key.lastUsedAt ? ["last used ", timeAgo(key.lastUsedAt)] : "never used", key.expiresAt ? ` · expires ${absolute(key.expiresAt)}` : null, int(key.madeByKeyId) ? ` · created by key ${key.madeByKeyId}` : null)), revoke);
    }
    stops.push(poll(0, load, { failed: error.show }));
    return part("API keys", h("div", { class: "stack" },
      h("p", { class: "hint" }, h("code", {}, "fleetctl"), " and scripts use a key to act as you.", may("org:admin") ? [" ", h("code", {}, "fleetctl keys list --all"), " lists the keys of all operators."] : null),
      list, form, shown, error.element));
  }

  function sessionsPart() {
    const error = errorBox();
    const list = h("ul", { class: "entries", id: "sessions" });
    sessions.load = async () => {
      const { sessions: open = [] } = await call("fleet.v1.AccountService/ListSessions");
      if (!closed) fill(list, open.map(row));
    };
    function row(session) {
      const end = h("button", { type: "button", class: "button button-small button-quiet-danger" }, "Sign out");
      end.addEventListener("click", () => attempt(error, async () => {
        await busy(end, () => call("fleet.v1.AccountService/EndSession", { sessionId: session.sessionId }));
        await sessions.load();
        heading.focus();
      }));
      return h("li", { class: "entry" },
        h("div", {}, h("strong", {}, session.current ? "This browser" : session.fromAddress || "Another browser"),
          h("p", { class: "hint" }, "signed in ", timeAgo(session.createdAt), session.signInIssuer ? [" through ", foreign(session.signInIssuer)] : null, session.userAgent ? [" · ", h("bdi", { title: isolate(session.userAgent) }, browserName(session.userAgent))] : null)),
        session.current ? null : end);
    }
    stops.push(poll(0, sessions.load, { failed: error.show }));
    return part("Sessions", h("div", { class: "stack" }, list, error.element));
  }
}

/** Lets the password form reload the list of sessions. */
const sessions = { load: async () => {} };

function part(heading, body) {
  return h("section", { class: "panel" }, h("h2", { class: "account-head" }, heading), body);
}

// Without a name, a field is never submitted with the form, even if this script fails.
function secret(id, autocomplete) {
  return h("input", { id, class: "input", type: "password", maxlength: 1024, autocomplete, autocapitalize: "none", spellcheck: "false" });
}

function labeled(control, label, hint) {
  if (hint) control.setAttribute("aria-describedby", `${control.id}-hint`);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint ? h("p", { id: `${control.id}-hint`, class: "hint" }, hint) : null);
}
