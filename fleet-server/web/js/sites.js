// The sites: their nodes, the targets that no scan of their nodes includes, and their blackouts.

import { attempt, may, poll, title } from "./app.js";
import { busy, confirmDialog, errorBox, textDialog } from "./dialog.js";
import { announce, fill, foreign, freshId, h, show } from "./dom.js";
import { absolute, isolate } from "./format.js";
import { listNodes } from "./nodes.js";
import { call } from "./rpc.js";

/** Shows the sites. Administrators also get the actions. */
export function sitesView(root) {
  title("Sites");
  const manage = may("org:admin");
  let closed = false;
  const error = errorBox();
  const heading = h("h1", { tabindex: "-1" }, "Sites");
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No sites yet"),
    h("p", {}, "Enroll a node, or create a site."));
  const list = h("ul", { class: "cards", id: "sites", "aria-label": "Sites" });
  const loading = h("p", { class: "loading" }, "Loading sites…");
  const create = h("button", { type: "button", class: "button button-primary", id: "create-site", hidden: !manage, onclick: createSite }, "Create site");
  root.append(
    h("p", { class: "crumb" }, h("a", { href: "#/nodes" }, "Nodes")),
    h("div", { class: "page-head" }, heading, create),
    h("p", { class: "hint lead" }, "Nodes of one site have one inventory. The rules of a site bind every scan of its nodes."),
    error.element, loading, empty, list);
  const stop = poll(0, reload, { failed: (failure) => { loading.remove(); error.show(failure); } });
  return () => {
    closed = true;
    stop();
  };

  async function reload() {
    const [{ sites = [] }, nodes] = await Promise.all([call("fleet.v1.SiteService/ListSites"), listNodes()]);
    if (closed) return;
    loading.remove();
    show(empty, sites.length === 0);
    fill(list, sites.map((site) => siteCard(site, nodes)));
  }

  /** Calls a procedure and loads the sites again. Returns whether it succeeded. */
  async function act(button, procedure, message, done) {
    return attempt(error, async () => {
      await busy(button, () => call(procedure, message));
      if (closed) return;
      announce(done);
      await reload();
    });
  }

  async function createSite() {
    const name = await textDialog({ title: "Create site", label: "Name", hint: "Move nodes to the site after that.", action: "Create site" });
    if (name !== null) await act(create, "fleet.v1.SiteService/CreateSite", { name }, "Site created.");
  }

  function siteCard(site, nodes) {
    const name = isolate(site.name);
    const { siteId } = site;
    const members = nodes.filter((node) => node.siteId === siteId);
    const excludes = site.excludes ?? [];
    const button = (label, look, work) => {
      const element = h("button", { type: "button", class: `button button-small ${look}`, "aria-label": `${label}: ${name}` }, label);
      element.addEventListener("click", () => work(element));
      return element;
    };
    const rename = button("Rename", "", async (element) => {
      const renamed = await textDialog({ title: ["Rename site “", foreign(site.name), "”"], label: "New name", value: site.name, action: "Rename site" });
      if (renamed !== null && renamed !== site.name) await act(element, "fleet.v1.SiteService/RenameSite", { siteId, name: renamed }, "Site renamed.");
    });
    const remove = button("Delete", "button-quiet-danger", async (element) => {
      const agreed = await confirmDialog({
        title: ["Delete site “", foreign(site.name), "”?"], body: "Its excludes and blackouts are deleted with it.",
        action: "Delete site", cancel: "Keep site", danger: true,
      });
      if (agreed && await act(element, "fleet.v1.SiteService/DeleteSite", { siteId }, "Site deleted.")) heading.focus();
    });
    show(remove, members.length === 0);
    const blackout = site.blackoutUntil ? h("span", { class: "badge badge-wait" }, "Blackout") : null;
    return h("li", { class: "card site" },
      h("div", { class: "card-head" }, h("h2", { class: "card-title" }, foreign(site.name)), blackout),
      h("dl", { class: "facts" },
        fact("Nodes", members.length ? members.map((node, at) => [at ? ", " : "", foreign(node.name)]) : "None"),
        fact("Blackouts", site.blackouts ? `${site.blackouts} (${site.timeZone})` : "None"),
        site.blackoutUntil ? fact("Blackout until", absolute(site.blackoutUntil)) : null),
      h("h3", {}, "Excluded targets"),
      excludes.length ? h("ul", { class: "site-excludes", "aria-label": `Excluded targets of ${name}` }, excludes.map(excludeRow)) : h("p", { class: "hint" }, "None."),
      manage ? [excludeForm(siteId, name), blackoutForm(site, name), moveForm(siteId, name, nodes), h("div", { class: "actions" }, rename, remove)] : null);
  }

  function excludeRow(exclude) {
    const remove = h("button", { type: "button", class: "button button-small button-quiet-danger", hidden: !manage, "aria-label": `Remove exclude of ${exclude.target}` }, "Remove");
    remove.addEventListener("click", async () => {
      const agreed = await confirmDialog({
        title: `Scan ${exclude.target} again?`, body: "Every later scan of the site's nodes may include it.", action: "Remove exclude", cancel: "Keep exclude", danger: true,
      });
      if (agreed && await act(remove, "fleet.v1.SiteService/RemoveExclude", { siteExcludeId: exclude.siteExcludeId }, "Exclude removed.")) heading.focus();
    });
    return h("li", { title: `Excluded by ${isolate(exclude.createdBy)} on ${absolute(exclude.createdAt)}` },
      h("span", { class: "mono" }, exclude.target), " ", foreign(exclude.reason), " ", remove);
  }

  /** Creates a form with labeled text fields. `send` gets their trimmed values. */
  function form(action, label, fields, send) {
    const submit = h("button", { type: "submit", class: "button", "aria-label": `${action}: ${label}` }, action);
    const inputs = fields.map(({ label: text, ...properties }) => {
      const id = freshId("site");
      const input = h("input", { id, class: "input", autocomplete: "off", spellcheck: "false", ...properties });
      return { input, element: h("div", { class: "field" }, h("label", { for: id }, text), input) };
    });
    const element = h("form", { class: "account-inline", novalidate: true }, inputs.map((one) => one.element), submit);
    element.addEventListener("submit", async (event) => {
      event.preventDefault();
      await send(submit, inputs.map(({ input }) => input.value.trim()));
    });
    return element;
  }

  function excludeForm(siteId, name) {
    const fields = [
      { label: "Targets", placeholder: "10.0.0.9 10.0.1.0/28", maxlength: 65536 },
      { label: "Reason", placeholder: "Printers", maxlength: 80 },
    ];
    return form("Exclude", name, fields, async (submit, [targets, reason]) => {
      if (!targets || !reason) error.show("Enter the targets and the reason.");
      else await act(submit, "fleet.v1.SiteService/ExcludeTargets", { siteId, targets, reason }, "Targets excluded.");
    });
  }

  function blackoutForm(site, name) {
    const fields = [
      { label: "Blackouts", placeholder: "mon-fri 08:00-18:00; sat 22:00-06:00", maxlength: 1024, value: site.blackouts ?? "" },
      { label: "Time zone", placeholder: "Europe/Berlin", maxlength: 64, value: site.timeZone ?? "UTC" },
    ];
    return form("Save blackouts", name, fields, (submit, [blackouts, timeZone]) =>
      act(submit, "fleet.v1.SiteService/SetBlackouts", { siteId: site.siteId, blackouts, timeZone }, "Blackouts saved."));
  }

  function moveForm(siteId, name, nodes) {
    const others = nodes.filter((node) => node.siteId !== siteId);
    if (others.length === 0) return null;
    const id = freshId("site");
    const select = h("select", { id, class: "input" }, others.map((node) => h("option", { value: node.fleetNodeId }, isolate(node.name))));
    const submit = h("button", { type: "submit", class: "button", "aria-label": `Move node here: ${name}` }, "Move node here");
    const element = h("form", { class: "account-inline" }, h("div", { class: "field" }, h("label", { for: id }, "Node of another site"), select), submit);
    element.addEventListener("submit", async (event) => {
      event.preventDefault();
      await act(submit, "fleet.v1.NodeService/MoveNode", { fleetNodeId: select.value, siteId }, "Node moved.");
    });
    return element;
  }
}

function fact(label, value) {
  return h("div", { class: "fact" }, h("dt", {}, label), h("dd", {}, value));
}
