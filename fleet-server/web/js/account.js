// The account: the password, the keys for scripts, and where one is signed in.

import { currentOperator, handledSignOut, may, title } from "./app.js";
import { busy, confirmDialog, copyButton, errorBox } from "./dialog.js";
import { announce, fill, h } from "./dom.js";
import { absolute, relative } from "./format.js";
import { call } from "./rpc.js";
import { PASSWORD_LEAST } from "./signin.js";

/** Shows the account. */
export function accountView(root) {
  title("Account");
  let left = false;
  const operator = currentOperator();
  root.append(
    h("div", { class: "page-head" }, h("h1", { tabindex: "-1" }, "Account")),
    h("p", { class: "hint account-line" }, `${operator.email}, ${operator.role} of ${operator.organization}`),
    h("div", { class: "account-parts" }, passwordPart(), keysPart(), sessionsPart()));
  return () => { left = true; };

  function passwordPart() {
    const error = errorBox();
    const done = h("p", { class: "notice notice-good", role: "status", hidden: true }, "The password was changed. Your other sessions have ended.");
    // The e-mail tells a password manager whose password it is.
    const email = h("input", { class: "visually-hidden", type: "email", autocomplete: "username", value: operator.email, readonly: true, tabindex: "-1", "aria-hidden": "true" });
    const current = secret("current-password", "current-password");
    const fresh = secret("new-password", "new-password");
    const again = secret("new-password-again", "new-password");
    const submit = h("button", { type: "submit", class: "button button-primary", id: "change-password" }, "Change password");
    const form = h("form", { method: "post", class: "stack", novalidate: true }, email,
      labeled(current, "Present password", "Empty if you have signed in with keys only."),
      labeled(fresh, "New password", `At least ${PASSWORD_LEAST} characters, several words for instance.`),
      labeled(again, "New password again"),
      error.element, done,
      h("div", { class: "actions" }, submit));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.clear();
      done.hidden = true;
      const trouble = [...fresh.value].length < PASSWORD_LEAST ? { text: `Choose at least ${PASSWORD_LEAST} characters.`, field: fresh }
        : fresh.value !== again.value ? { text: "The two new passwords are not the same.", field: again } : null;
      if (trouble) {
        error.show(trouble.text);
        trouble.field.focus();
        return;
      }
      try {
        await busy(submit, () => call("fleet.v1.AccountService/ChangePassword", { currentPassword: current.value, newPassword: fresh.value }));
        form.reset();
        done.hidden = false;
        sessions.load();
      } catch (failure) {
        if (!handledSignOut(failure)) error.show(failure);
      }
    });
    return part("Password", form);
  }

  function keysPart() {
    const error = errorBox();
    const shown = h("div", {});
    const list = h("ul", { class: "entries", id: "keys" });
    const name = h("input", { id: "key-name", class: "input", maxlength: 64, autocomplete: "off", placeholder: "nightly scan" });
    const make = h("button", { type: "submit", class: "button", id: "make-key" }, "Make a key");
    const form = h("form", { class: "account-inline", novalidate: true }, labeled(name, "Name of a new key"), make);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      error.clear();
      if (!name.value.trim()) {
        error.show("Name the key, after the script that it is for.");
        name.focus();
        return;
      }
      await attempt(error, make, async () => {
        const made = await call("fleet.v1.KeyService/CreateKey", { name: name.value.trim() });
        name.value = "";
        if (left) return;
        fill(shown, h("p", {}, h("strong", {}, "Copy the key now: it is shown only here, only once.")),
          h("div", { class: "secret" }, h("code", { id: "new-key", "aria-label": "New key", tabindex: "0" }, made.key), copyButton(made.key)));
        announce("The key was made. It is shown once.");
        await load();
      });
    });
    async function load() {
      await attempt(error, null, async () => {
        const { keys = [] } = await call("fleet.v1.KeyService/ListKeys");
        if (left) return;
        fill(list, keys.length ? keys.map(row) : h("li", { class: "hint" }, "You have no keys."));
      });
    }
    function row(key) {
      const revoke = h("button", { type: "button", class: "button button-small button-quiet-danger" }, "Revoke");
      revoke.addEventListener("click", async () => {
        const sure = await confirmDialog({
          title: `Revoke the key “${key.name || key.keyId}”?`,
          body: "Whatever uses it stops working at once, and browsers that signed in with it are signed out.",
          action: "Revoke it", danger: true,
        });
        if (!sure || left) return;
        await attempt(error, revoke, async () => {
          await call("fleet.v1.KeyService/RevokeKey", { keyId: key.keyId });
          fill(shown);
          await load();
        });
      });
      const facts = [key.lastUsedAt ? `used ${relative(key.lastUsedAt)}` : "never used", key.expiresAt ? `ends ${absolute(key.expiresAt)}` : null];
      return h("li", { class: "entry", "data-key": key.keyId },
        h("div", {}, h("strong", {}, key.name || `Key ${key.keyId}`), h("p", { class: "hint" }, facts.filter(Boolean).join(" · "))), revoke);
    }
    load();
    return part("Keys for scripts", h("div", { class: "stack" },
      h("p", { class: "hint" }, "A key lets ", h("code", {}, "fleetctl"), " and your scripts act as you", may("org:admin") ? "; " : ".", may("org:admin") ? [h("code", {}, "fleetctl keys list --all"), " shows everybody's."] : null),
      list, form, shown, error.element));
  }

  function sessionsPart() {
    const error = errorBox();
    const list = h("ul", { class: "entries", id: "sessions" });
    sessions.load = async () => {
      await attempt(error, null, async () => {
        const { sessions: open = [] } = await call("fleet.v1.AccountService/ListSessions");
        if (!left) fill(list, open.map(row));
      });
    };
    function row(session) {
      const end = h("button", { type: "button", class: "button button-small button-quiet-danger" }, "End");
      end.addEventListener("click", () => attempt(error, end, async () => {
        await call("fleet.v1.AccountService/EndSession", { sessionId: session.sessionId });
        await sessions.load();
      }));
      return h("li", { class: "entry" },
        h("div", {}, h("strong", {}, session.current ? "This browser" : session.fromAddress || "Another browser"),
          h("p", { class: "hint" }, [`opened ${relative(session.createdAt)}`, session.agent].filter(Boolean).join(" · "))),
        session.current ? null : end);
    }
    sessions.load();
    return part("Signed in", h("div", { class: "stack" }, list, error.element));
  }

  async function attempt(error, button, work) {
    error.clear();
    try {
      await (button ? busy(button, work) : work());
    } catch (failure) {
      if (!left && !handledSignOut(failure)) error.show(failure);
    }
  }
}

/** How the other parts have the sessions looked at again. */
const sessions = { load: async () => {} };

function part(heading, body) {
  return h("section", { class: "panel" }, h("h2", { class: "account-head" }, heading), body);
}

// Without a name a field is in no form submission, whatever happens to this script.
function secret(id, autocomplete) {
  return h("input", { id, class: "input", type: "password", maxlength: 1024, autocomplete, autocapitalize: "none", spellcheck: "false" });
}

function labeled(control, label, hint) {
  if (hint) control.setAttribute("aria-describedby", `${control.id}-hint`);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint ? h("p", { id: `${control.id}-hint`, class: "hint" }, hint) : null);
}
