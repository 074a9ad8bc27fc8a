// Where the page starts: session first, then the view that the address names. Read this one first.
//
// The address holds nothing but the view and an id: `#/scans`, `#/scans/new`, `#/scans/<scan>`, `#/devices`,
// `#/nodes`, `#/nodes/enroll`, `#/nodes/<node>/confirm`, `#/audit`, `#/account`. Keys, codes and passwords never enter it.

import { banner, currentOperator, frame, may, onSignedOut, setSession, title } from "./app.js";
import { auditView } from "./audit.js";
import { fill, h, show } from "./dom.js";
import { sentence } from "./format.js";
import { currentSession, signOut } from "./rpc.js";
import { accountView } from "./account.js";
import { devicesView } from "./devices.js";
import { confirmView, enrollView } from "./enroll.js";
import { newScanView } from "./newscan.js";
import { nodesView } from "./nodes.js";
import { scanView } from "./scan.js";
import { scansView } from "./scans.js";
import { signInView } from "./signin.js";

const ROUTES = [
  [/^\/scans$/, "scans", scansView],
  [/^\/scans\/new$/, "scans", newScanView],
  [/^\/scans\/([0-9a-fA-F-]{36})$/, "scans", scanView],
  [/^\/devices$/, "devices", devicesView],
  [/^\/nodes$/, "nodes", nodesView],
  [/^\/nodes\/enroll$/, "nodes", enrollView],
  [/^\/nodes\/(\d{1,19})\/confirm$/, "nodes", confirmView],
  [/^\/audit$/, "audit", auditView],
  [/^\/account$/, "account", accountView],
];

const main = document.getElementById("main");

/** Ends what the current view left running: timers, event streams, requests. */
let leave = () => {};

function open(view, ...parameters) {
  leave();
  leave = () => {};
  banner("");
  // A question belongs to the view that asked it.
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  fill(main);
  leave = view(main, ...parameters) ?? (() => {});
}

function route({ moveFocus = true } = {}) {
  if (!currentOperator()) return;
  const path = location.hash.replace(/^#/, "");
  const found = ROUTES.map(([pattern, section, view]) => ({ section, view, match: pattern.exec(path) })).find(({ match }) => match);
  if (!found) {
    location.replace("#/scans");
    return;
  }
  for (const link of document.querySelectorAll("a[data-section]")) {
    if (link.dataset.section === found.section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  open(found.view, ...found.match.slice(1));
  window.scrollTo(0, 0);
  if (moveFocus) (main.querySelector("h1") ?? main).focus({ preventScroll: true });
}

function showSignIn(message = "") {
  setSession(null);
  frame(false);
  title("Sign in");
  open((root) => signInView(root, { message, onSignedIn: start }));
}

async function start() {
  let session;
  try {
    session = await currentSession();
  } catch (error) {
    showUnreachable(error);
    return;
  }
  if (!session) {
    showSignIn();
    return;
  }
  setSession(session);
  document.getElementById("account-email").textContent = session.email ?? "";
  document.getElementById("account-role").textContent = [session.organization, session.role].filter(Boolean).join(" · ");
  document.getElementById("footer").textContent = session.serverVersion ? `Fleet server ${session.serverVersion}` : "Fleet server";
  for (const link of document.querySelectorAll(".nav [data-needs]")) show(link, may(link.dataset.needs));
  frame(true);
  route();
}

function showUnreachable(error) {
  frame(false);
  title("No connection");
  open((root) => {
    const retry = h("button", { type: "button", class: "button button-primary", onclick: start }, "Try again");
    root.append(h("section", { class: "panel panel-narrow" },
      h("h1", { tabindex: "-1" }, "No connection"),
      h("p", { role: "alert" }, sentence(error.message)),
      h("div", { class: "actions" }, retry)));
    const timer = setTimeout(start, 5000);
    return () => clearTimeout(timer);
  });
}

document.getElementById("sign-out").addEventListener("click", async () => {
  try {
    await signOut();
  } catch (error) {
    if (error.code !== "unauthenticated") {
      banner("You are still signed in: the server could not be reached. Try again.");
      return;
    }
  }
  showSignIn("You are signed out.");
});

document.querySelector(".skip-link").addEventListener("click", (event) => {
  // The address belongs to the views.
  event.preventDefault();
  main.focus();
});

onSignedOut(() => showSignIn("Your session is over. Sign in again to go on where you were."));
window.addEventListener("hashchange", () => route());
start();
