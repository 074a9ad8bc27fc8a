// Exchanges e-mail and password, or an operator key, for a cookie that scripts cannot read. The page keeps neither.
// An operator who signs in with a one-time password must choose a new password here. Where the server has an OpenID
// provider, a link leads to it, and the server sends the browser back to `#/sign-in/<word>` if it refuses.

import { busy, errorBox } from "./dialog.js";
import { fill, foreign, h } from "./dom.js";
import { keyProblem } from "./secrets.js";
import { RpcError, signIn, signInMethods } from "./rpc.js";

/** Minimum length of a password. The server enforces it too. */
export const PASSWORD_LEAST = 12;

/**
 * What the words of the server mean (fleet-server/src/http/sign_in.rs).
 * @type {Record<string, string>}
 */
const PROBLEMS = {
  "attempt": "The sign-in took too long, was used before, or was started in another browser. Start it again here.",
  "unavailable": "The sign-in provider does not answer. Try again later, or sign in here if you have a password or a key.",
  "denied": "The sign-in provider refused the sign-in.",
  "invalid": "The answer of the sign-in provider is not valid. The audit trail has the reason.",
  "organization": "The sign-in provider belongs to no organization of this server. The administrator of the server must configure it.",
  "storage": "The server cannot reach its storage now. Try again in a moment.",
  "limited": "Too many attempts. Wait a minute, then try again.",
  "email-missing": "The sign-in provider sent no e-mail address for your account.",
  "email-unverified": "The sign-in provider has not verified your e-mail address.",
  "domain": "The domain of your e-mail address is not allowed here.",
  "no-role": "Your account at the sign-in provider is in no group that has a role here.",
  "linked-to-another": "The operator with your e-mail address is linked to another account of the sign-in provider. An administrator can remove the link.",
  "unknown": "No operator here has your e-mail address. An administrator can create one.",
  "removed": "Your operator was removed. An administrator can create a new one.",
};

/** The problem that an address such as `#/sign-in/domain` names; empty if it names none. */
export function problemOf(hash) {
  const word = /^#\/sign-in\/([a-z-]+)$/.exec(hash)?.[1] ?? "";
  return Object.hasOwn(PROBLEMS, word) ? PROBLEMS[word] : "";
}

/** Shows the sign-in form. `onSignedIn` is called when the session exists. */
export function signInView(root, { message, onSignedIn }) {
  const error = errorBox();
  const fields = h("div", { class: "stack" });
  const other = h("button", { type: "button", class: "button button-quiet button-wide" });
  const submit = h("button", { type: "submit", class: "button button-primary button-wide" }, "Sign in");
  const form = h("form", { method: "post", class: "stack", novalidate: true, onsubmit: enter }, fields, error.element, submit, other);
  const help = h("p", { class: "hint signin-help" });
  const provider = h("div", { class: "stack signin-provider", hidden: true });
  let method;

  root.append(h("section", { class: "signin", "aria-labelledby": "signin-title" },
    h("div", { class: "signin-mark", "aria-hidden": "true" }, document.querySelector(".mark").cloneNode(true)),
    h("h1", { id: "signin-title", tabindex: "-1" }, "Sign in to Fleet"),
    message ? h("p", { class: "signin-message", role: "status" }, message) : null,
    provider,
    form,
    help));
  other.addEventListener("click", () => choose(method.other()));
  choose(byPassword());
  showProvider();

  async function showProvider() {
    let methods;
    try {
      methods = await signInMethods();
    } catch {
      // The form works without it, and its own error says what is wrong.
      return;
    }
    if (!methods.provider) return;
    fill(provider,
      h("a", { class: "button button-primary button-wide", id: "by-provider", href: "/api/sign-in/provider" }, h("span", {}, "Sign in with ", foreign(methods.provider.name))),
      h("p", { class: "hint" }, methods.passwords ? "Or sign in here:" : "Passwords are not accepted here, except one-time passwords that an administrator of the server creates."));
    provider.hidden = false;
  }

  function choose(chosen) {
    method = chosen;
    error.clear();
    fill(fields, method.fields);
    fill(help, method.help);
    other.textContent = method.otherLabel;
    other.id = method.otherId;
    method.first.focus();
  }

  async function enter(event) {
    event.preventDefault();
    error.clear();
    const problem = method.problem();
    if (problem) {
      error.show(problem.text);
      problem.field.focus();
      return;
    }
    try {
      await busy(submit, () => signIn(method.credential()));
      method.wipe();
      onSignedIn();
    } catch (failure) {
      if (failure instanceof RpcError && failure.code === "failed_precondition" && method.ask) {
        method.ask();
        return;
      }
      if (failure?.code === "unauthenticated") method.wipe();
      error.show(method.explain(failure));
      method.again().focus();
    }
  }

  function byPassword() {
    const email = input("email", { type: "email", autocomplete: "username", inputmode: "email" });
    const organization = input("organization", { autocomplete: "organization", required: false, "aria-describedby": "organization-hint" });
    const password = input("password", { type: "password", autocomplete: "current-password" });
    const fresh = input("new-password", { type: "password", autocomplete: "new-password", "aria-describedby": "new-password-hint" });
    const choice = h("div", { class: "field", hidden: true },
      h("label", { for: "new-password" }, "New password"),
      fresh,
      h("p", { id: "new-password-hint", class: "hint" }, `Your password was valid only once. Choose a new one with at least ${PASSWORD_LEAST} characters, for example several words.`));
    return {
      fields: [field(email, "E-mail"), field(password, "Password"), choice, h("details", { class: "field" },
        h("summary", {}, "Organization"),
        h("label", { for: "organization" }, "Organization name"),
        organization,
        h("p", { id: "organization-hint", class: "hint" }, "Needed only if several organizations use your e-mail."))],
      first: email,
      help: ["No account, or forgot your password? An administrator can help with ", h("code", {}, "fleetctl operators"), ", or with ", h("code", {}, "fleetd admin"), " on the server."],
      otherLabel: "Use an operator key",
      otherId: "by-key",
      other: byKey,
      problem() {
        if (!email.value.trim()) return { text: "Enter your e-mail.", field: email };
        if (!password.value) return { text: "Enter your password.", field: password };
        if (!choice.hidden && [...fresh.value].length < PASSWORD_LEAST) return { text: `Enter at least ${PASSWORD_LEAST} characters.`, field: fresh };
        return null;
      },
      credential: () => ({ email: email.value.trim(), password: password.value, ...(organization.value.trim() ? { organization: organization.value.trim() } : {}), ...(choice.hidden ? {} : { newPassword: fresh.value }) }),
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
        if (failure?.code === "unauthenticated") return "The e-mail or the password is wrong. An administrator can reset a forgotten password.";
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
        h("p", { id: "key-hint", class: "hint" }, "Begins with ", h("code", {}, "fok_"), ". This page exchanges it for a session and does not store it."))],
      first: key,
      help: ["No key? ", h("code", {}, "fleetd admin create-key"), " creates one, and ", h("code", {}, "fleetd demo"), " prints one."],
      otherLabel: "Use e-mail and password",
      otherId: "by-password",
      other: byPassword,
      problem() {
        const value = key.value.trim();
        const text = value ? keyProblem(value) : "Enter your operator key.";
        return text ? { text, field: key } : null;
      },
      credential: () => ({ key: key.value.trim() }),
      wipe() { key.value = ""; },
      again: () => key,
      explain(failure) {
        if (failure?.code === "unauthenticated") return "This key is not valid. It may have been revoked. Ask an administrator for a new one.";
        return limited(failure);
      },
    };
  }
}

// Without a name, a field is never submitted with the form, even if this script fails.
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
