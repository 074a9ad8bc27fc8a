// Entry point: loads the session, then opens the view that the URL hash names. Read this file first.
//
// The hash contains only a view and an id: `#/` (the overview), `#/scans`, `#/scans/new`, `#/scans/<scan>`,
// `#/scans/<scan>/changes/<group>/<other scan>`, `#/devices?search=…`, `#/devices/<device>`, `#/nodes`,
// `#/sign-in/<problem>`, `#/nodes/enroll`, `#/nodes/<node>/confirm`, `#/alerts`, `#/audit`, `#/people`, `#/account`. It never contains keys, codes or
// passwords.

import { banner, currentOperator, frame, may, onSignedOut, setSession, title } from "./app.js";
import { auditView } from "./audit.js";
import { fill, h, show, tickTimes } from "./dom.js";
import { sentence } from "./format.js";
import { currentSession, signOut } from "./rpc.js";
import { accountView } from "./account.js";
import { alertsView } from "./alerts.js";
import { changesView } from "./changes.js";
import { deviceView } from "./device.js";
import { devicesView } from "./devices.js";
import { confirmView, enrollView } from "./enroll.js";
import { newScanView } from "./newscan.js";
import { nodesView } from "./nodes.js";
import { overviewView } from "./overview.js";
import { peopleView } from "./people.js";
import { scanView } from "./scan.js";
import { scansView } from "./scans.js";
import { problemOf, signInView } from "./signin.js";
import { sitesView } from "./sites.js";

/** @type {[RegExp, string, (root: HTMLElement, ...parameters: string[]) => (() => void) | undefined][]} */
const ROUTES = [
  [/^\/?$/, "overview", overviewView],
  [/^\/scans$/, "scans", scansView],
  [/^\/scans\/new$/, "scans", newScanView],
  [/^\/scans\/([0-9a-fA-F-]{36})$/, "scans", scanView],
  [/^\/scans\/([0-9a-fA-F-]{36})\/changes\/(new|missing|moved|changed|unchanged|unidentified|rejected|undecided)(?:\/([0-9a-fA-F-]{36}))?$/, "scans", changesView],
  [/^\/devices(?:\?.*)?$/, "devices", devicesView],
  [/^\/devices\/(\d{1,19})$/, "devices", deviceView],
  [/^\/nodes$/, "nodes", nodesView],
  [/^\/nodes\/enroll$/, "nodes", enrollView],
  [/^\/nodes\/(\d{1,19})\/confirm$/, "nodes", confirmView],
  [/^\/sites$/, "nodes", sitesView],
  [/^\/alerts$/, "alerts", alertsView],
  [/^\/audit$/, "audit", auditView],
  [/^\/people$/, "people", peopleView],
  [/^\/account$/, "account", accountView],
];

const main = document.getElementById("main");

/** Stops the timers, event streams and requests of the current view. */
let closeView = () => {};

function open(view, ...parameters) {
  closeView();
  closeView = () => {};
  banner("");
  // A dialog belongs to the view that opened it.
  for (const dialog of document.getElementsByTagName("dialog")) dialog.close();
  fill(main);
  closeView = view(main, ...parameters) ?? (() => {});
}

function route({ moveFocus = true } = {}) {
  if (!currentOperator()) return;
  const path = location.hash.replace(/^#/, "");
  const found = ROUTES.map(([pattern, section, view]) => ({ section, view, match: pattern.exec(path) })).find(({ match }) => match);
  if (!found) {
    location.replace("#/");
    return;
  }
  for (const link of document.getElementsByTagName("a")) {
    if (!link.dataset.section) continue;
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
    showSignIn(problemOf(location.hash));
    return;
  }
  setSession(session);
  document.getElementById("account-email").textContent = session.email ?? "";
  document.getElementById("account-role").textContent = [session.organization, session.role].filter(Boolean).join(" · ");
  document.getElementById("footer").textContent = session.serverVersion ? `Fleet server ${session.serverVersion}` : "Fleet server";
  for (const link of document.getElementsByTagName("a")) if (link.dataset.needs) show(link, may(link.dataset.needs));
  frame(true);
  route();
}

function showUnreachable(error) {
  frame(false);
  title("Server not reachable");
  open((root) => {
    const retry = h("button", { type: "button", class: "button button-primary", onclick: start }, "Retry");
    root.append(h("section", { class: "panel panel-narrow" },
      h("h1", { tabindex: "-1" }, "Server not reachable"),
      h("p", { role: "alert" }, sentence(error.message)),
      h("div", { class: "actions" }, retry)));
    const timer = setTimeout(start, 2000);
    return () => clearTimeout(timer);
  });
}

document.getElementById("sign-out").addEventListener("click", async () => {
  try {
    await signOut();
  } catch (error) {
    if (error.code !== "unauthenticated") {
      banner("The server cannot be reached, so you are still signed in. Try again.");
      return;
    }
  }
  showSignIn("You have signed out.");
});

document.querySelector(".skip-link").addEventListener("click", (event) => {
  // Following the link would change the hash, which selects the view.
  event.preventDefault();
  main.focus();
});

onSignedOut(() => showSignIn("Your session has expired. Sign in again to continue."));
window.addEventListener("hashchange", () => route());
setInterval(tickTimes, 1000);
start();
