// Signing in: a key goes in once, a cookie that scripts cannot read comes back. The key is kept nowhere.

import { errorBox, busy } from "./dialog.js";
import { h } from "./dom.js";
import { RpcError, signIn } from "./rpc.js";

/** Shows the sign-in; `onSignedIn` is called when the cookie is there. */
export function signInView(root, { message, onSignedIn }) {
  const error = errorBox();
  // Without a name the field is in no form submission, whatever happens to this script.
  const key = h("input", {
    id: "key", class: "input mono", type: "password", required: true, maxlength: 512, autocomplete: "off",
    autocapitalize: "none", spellcheck: "false", "aria-describedby": "key-hint",
  });
  const submit = h("button", { type: "submit", class: "button button-primary button-wide" }, "Sign in");
  const form = h("form", { method: "post", class: "stack", novalidate: true, onsubmit: enter },
    h("div", { class: "field" },
      h("label", { for: "key" }, "Operator key"),
      key,
      h("p", { id: "key-hint", class: "hint" }, "Begins with ", h("code", {}, "fok_"), ". It is exchanged for a session and then forgotten by this page.")),
    error.element,
    submit);

  root.append(h("section", { class: "signin", "aria-labelledby": "signin-title" },
    h("div", { class: "signin-mark", "aria-hidden": "true" }, document.querySelector(".mark").cloneNode(true)),
    h("h1", { id: "signin-title", tabindex: "-1" }, "Sign in to Fleet"),
    message ? h("p", { class: "signin-message", role: "status" }, message) : null,
    form,
    h("p", { class: "hint signin-help" }, "No key yet? An administrator makes one with ", h("code", {}, "fleetd admin create-key"), "; ", h("code", {}, "fleetd demo"), " prints one.")));
  key.focus();

  async function enter(event) {
    event.preventDefault();
    error.clear();
    const value = key.value.trim();
    if (!value) {
      error.show("Enter your operator key.");
      key.focus();
      return;
    }
    try {
      await busy(submit, () => signIn(value));
      key.value = "";
      onSignedIn();
    } catch (failure) {
      key.value = "";
      error.show(explain(failure));
      key.focus();
    }
  }
}

function explain(failure) {
  if (!(failure instanceof RpcError)) return failure;
  if (failure.code === "unauthenticated") return "This key is not valid. Check that you copied all of it, or ask an administrator for a new one.";
  if (failure.code === "resource_exhausted") return "Too many attempts. Wait a minute, then try again.";
  return failure;
}
