// Signing in: e-mail and password, or a key, go in once; a cookie that scripts cannot read comes back. Nothing of it is
// kept. A one-time password is exchanged for one of the operator's own on the way.

import { busy, errorBox } from "./dialog.js";
import { fill, h } from "./dom.js";
import { keyTrouble } from "./secrets.js";
import { RpcError, signIn } from "./rpc.js";

/** Fewest characters of a password; the server has the last word. */
export const PASSWORD_LEAST = 12;

/** Shows the sign-in; `onSignedIn` is called when the cookie is there. */
export function signInView(root, { message, onSignedIn }) {
  const error = errorBox();
  const fields = h("div", { class: "stack" });
  const other = h("button", { type: "button", class: "button button-quiet button-wide" });
  const submit = h("button", { type: "submit", class: "button button-primary button-wide" }, "Sign in");
  const form = h("form", { method: "post", class: "stack", novalidate: true, onsubmit: enter }, fields, error.element, submit, other);
  const help = h("p", { class: "hint signin-help" });
  let way;

  root.append(h("section", { class: "signin", "aria-labeledby": "signin-title" },
    h("div", { class: "signin-mark", "aria-hidden": "true" }, document.querySelector(".mark").cloneNode(true)),
    h("h1", { id: "signin-title", tabindex: "-1" }, "Sign in to Fleet"),
    message ? h("p", { class: "signin-message", role: "status" }, message) : null,
    form,
    help));
  other.addEventListener("click", () => choose(way.other()));
  choose(byPassword());

  function choose(chosen) {
    way = chosen;
    error.clear();
    fill(fields, way.fields);
    fill(help, way.help);
    other.textContent = way.otherLabel;
    other.id = way.otherId;
    way.first.focus();
  }

  async function enter(event) {
    event.preventDefault();
    error.clear();
    const trouble = way.trouble();
    if (trouble) {
      error.show(trouble.text);
      trouble.field.focus();
      return;
    }
    try {
      await busy(submit, () => signIn(way.credential()));
      way.wipe();
      onSignedIn();
    } catch (failure) {
      if (failure instanceof RpcError && failure.code === "failed_precondition" && way.ask) {
        way.ask();
        return;
      }
      if (failure?.code === "unauthenticated") way.wipe();
      error.show(way.explain(failure));
      way.again().focus();
    }
  }

  function byPassword() {
    const email = input("email", { type: "email", autocomplete: "username", inputmode: "email" });
    const password = input("password", { type: "password", autocomplete: "current-password" });
    const fresh = input("new-password", { type: "password", autocomplete: "new-password", "aria-describedby": "new-password-hint" });
    const choice = h("div", { class: "field", hidden: true },
      h("label", { for: "new-password" }, "New password"),
      fresh,
      h("p", { id: "new-password-hint", class: "hint" }, `Yours was for one use. Choose your own: at least ${PASSWORD_LEAST} characters, several words for instance.`));
    return {
      fields: [field(email, "E-mail"), field(password, "Password"), choice],
      first: email,
      help: ["No account yet, or the password is forgotten? An administrator makes one with ", h("code", {}, "fleetctl operators"), ", on the server itself with ", h("code", {}, "fleetd admin"), "."],
      otherLabel: "Use a key instead",
      otherId: "by-key",
      other: byKey,
      trouble() {
        if (!email.value.trim()) return { text: "Enter your e-mail.", field: email };
        if (!password.value) return { text: "Enter your password.", field: password };
        if (!choice.hidden && [...fresh.value].length < PASSWORD_LEAST) return { text: `Choose at least ${PASSWORD_LEAST} characters.`, field: fresh };
        return null;
      },
      credential: () => ({ email: email.value.trim(), password: password.value, ...(choice.hidden ? {} : { newPassword: fresh.value }) }),
      ask() {
        choice.hidden = false;
        fresh.focus();
      },
      wipe() {
        password.value = "";
        fresh.value = "";
        choice.hidden = true;
      },
      again: () => (choice.hidden ? password : fresh),
      explain(failure) {
        if (failure?.code === "unauthenticated") return "E-mail or password is not right. If the password is forgotten, an administrator can reset it.";
        return limited(failure);
      },
    };
  }

  function byKey() {
    const key = input("key", { class: "input mono", type: "password", autocomplete: "off", "aria-describedby": "key-hint" });
    return {
      fields: [h("div", { class: "field" },
        h("label", { for: "key" }, "Operator key"),
        key,
        h("p", { id: "key-hint", class: "hint" }, "Begins with ", h("code", {}, "fok_"), ". It is exchanged for a session and then forgotten by this page."))],
      first: key,
      help: ["No key yet? ", h("code", {}, "fleetd admin create-key"), " makes one; ", h("code", {}, "fleetd demo"), " prints one."],
      otherLabel: "Use e-mail and password",
      otherId: "by-password",
      other: byPassword,
      trouble() {
        const value = key.value.trim();
        const text = value ? keyTrouble(value) : "Enter your operator key.";
        return text ? { text, field: key } : null;
      },
      credential: () => ({ key: key.value.trim() }),
      wipe() { key.value = ""; },
      again: () => key,
      explain(failure) {
        if (failure?.code === "unauthenticated") return "This key is not valid. It may have been revoked: ask an administrator for a new one.";
        return limited(failure);
      },
    };
  }
}

// Without a name a field is in no form submission, whatever happens to this script.
function input(id, properties) {
  return h("input", { id, class: "input", required: true, maxlength: 1024, autocapitalize: "none", spellcheck: "false", ...properties });
}

function field(control, label) {
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control);
}

function limited(failure) {
  if (failure?.code === "resource_exhausted") return "Too many attempts. Wait a minute, then try again.";
  return failure;
}
