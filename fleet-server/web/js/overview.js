// The start page: counts, the last 30 days, and the maps of the sites.

import { may, poll, title } from "./app.js";
import { blockMap, mapLegend } from "./blockmap.js";
import { dayChart } from "./chart.js";
import { errorBox } from "./dialog.js";
import { fill, foreign, h, setText, show } from "./dom.js";
import { count, int, plural } from "./format.js";
import { scanTarget } from "./prefill.js";
import { call } from "./rpc.js";

const POLL_MS = 2000;
/** Without a running scan, maps change only by reports and rules. They are read again after this many polls. */
const CALM = 15;
const PAGE = 16;
/** Sites whose maps are open at first. Each open map is read again with every poll. */
const OPEN_SITES = 4;

const FIGURES = [
  { name: "devices", label: "Devices", href: "#/devices" },
  { name: "newToday", label: "New today", href: "#/devices?search=first%3Atoday" },
  { name: "missing", label: "Missing", href: "#/devices?search=missing%3Ayes" },
  { name: "needPassword", label: "Need a password", href: "#/devices?search=pairing%3Apassword" },
  { name: "nodesOffline", label: "Nodes offline", href: "#/nodes" },
  { name: "scansRunning", label: "Scans running", href: "#/scans" },
];

/** Shows the overview. */
export function overviewView(root) {
  title("Overview");
  const manage = may("fleetnode:manage");
  const error = errorBox();
  const loading = h("p", { class: "loading" }, "Loading the overview…");
  const numbers = FIGURES.map(() => h("strong", {}, "…"));
  const figures = h("ul", { class: "overview-figures", "aria-label": "Counts" }, FIGURES.map(({ label, href, name }, at) => h("li", {},
    h("a", { class: "overview-figure", href, "data-figure": name }, numbers[at], h("span", {}, label)))));
  const chart = dayChart({
    label: "Devices per day, last 30 days",
    rows: [{ name: "seen", label: "Seen", look: "seen" }, { name: "added", label: "New", look: "new" }, { name: "missing", label: "Missing", look: "missing" }],
  });
  const empty = h("div", { class: "panel empty", hidden: true },
    h("h2", {}, "No sites yet"),
    h("p", {}, "A site begins with its first node, a program on the network of your devices."),
    manage ? h("a", { class: "button button-primary", href: "#/nodes/enroll" }, "Enroll a node") : null);
  const maps = h("div", { class: "overview-sites" });
  const legend = mapLegend();
  const content = h("div", { class: "overview", hidden: true },
    figures,
    h("section", { class: "panel", "aria-labelledby": "overview-days" }, h("h2", { id: "overview-days" }, "Last 30 days"), chart.element),
    legend, maps, empty);
  root.append(
    h("div", { class: "page-head" },
      h("h1", { tabindex: "-1" }, "Overview"),
      manage ? h("a", { class: "button button-primary", href: "#/scans/new", id: "new-scan" }, "New scan") : null),
    error.element, loading, content);

  /** The map of each site, by id. */
  const sites = new Map();
  let closed = false;
  let polls = 0;
  let wasRunning = false;

  async function refresh() {
    const overview = await call("fleet.v1.OverviewService/GetOverview");
    if (closed) return;
    const isRunning = int(overview.scansRunning) > 0;
    for (const [at, { name }] of FIGURES.entries()) setText(numbers[at], count(overview[name]));
    chart.set((overview.days ?? []).map((day) => ({ date: day.date, seen: int(day.seen), added: int(day.added), missing: int(day.missing) })));
    loading.remove();
    show(content, true);
    // One more time after the last scan, for the outcomes of its last chunk.
    if (isRunning || wasRunning || polls % CALM === 0) await refreshMaps();
    if (closed) return;
    wasRunning = isRunning;
    polls += 1;
    error.clear();
  }

  async function refreshMaps() {
    const { sites: listed = [] } = await call("fleet.v1.SiteService/ListSites");
    if (closed) return;
    for (const [id, site] of sites) {
      if (listed.some((one) => one.siteId === id)) continue;
      site.element.remove();
      sites.delete(id);
    }
    for (const site of listed) {
      if (!sites.has(site.siteId)) {
        const made = siteMap({ site, manage, isOpen: sites.size < OPEN_SITES, failed: error.show });
        sites.set(site.siteId, made);
        maps.append(made.element);
      }
      sites.get(site.siteId).update(site);
    }
    show(empty, listed.length === 0);
    show(legend, listed.length > 0);
    await Promise.all([...sites.values()].map((site) => site.refresh()));
  }

  const stop = poll(POLL_MS, refresh, { failed: (failure) => { loading.remove(); error.show(failure); } });
  return () => {
    closed = true;
    stop();
  };
}

/** Creates the map of a site, with its blocks page by page. */
function siteMap({ site, manage, isOpen, failed }) {
  const name = foreign(site.name);
  const about = h("span", { class: "hint" });
  const blocks = h("div", { class: "map-blocks" });
  const none = h("p", { class: "hint", hidden: true }, "No addresses yet. They appear when a node announces its subnets or a scan has targets here.");
  const more = h("button", { type: "button", class: "button", hidden: true }, "Show more blocks");
  const wide = h("div", { class: "map-wide", hidden: true });
  const element = h("details", { class: "panel overview-site", open: isOpen },
    h("summary", {}, h("h2", {}, name), about), none, blocks, h("div", { class: "more" }, more), wide);
  /** The shown maps by network, in the order of addresses. */
  const shown = new Map();
  let wanted = PAGE;
  let nodes = site.fleetNodeIds ?? [];

  /** Reads the wanted blocks, some per call. */
  async function refresh() {
    if (!element.open) return;
    let cursor = "";
    let total = 0;
    let read = 0;
    let networks = [];
    let networkCount = 0;
    do {
      const page = await call("fleet.v1.OverviewService/GetSiteMap", { siteId: site.siteId, limit: PAGE, cursor });
      for (const block of page.blocks ?? []) draw(block);
      read += (page.blocks ?? []).length;
      total = int(page.total);
      if (!cursor) {
        networks = page.ipv6Networks ?? [];
        networkCount = int(page.ipv6Total);
      }
      cursor = page.nextCursor ?? "";
      // A page without blocks would be read again and again.
      if (!page.blocks?.length) break;
    } while (cursor && read < wanted);
    setText(about, total ? plural(total, "block") : "");
    drawWide(networks, networkCount);
    show(none, total === 0 && networkCount === 0);
    show(more, Boolean(cursor));
  }

  /** Lists the IPv6 networks, which have too many addresses for a map. */
  function drawWide(networks, all) {
    show(wide, all > 0);
    const item = ({ network, devices }) => h("li", {}, foreign(network), ": ", int(devices) ? plural(devices, "device") : "no device found");
    fill(wide,
      h("p", { class: "hint" }, "IPv6 networks. The map shows IPv4 addresses only, because a /64 has too many addresses to draw or to scan as a whole."),
      h("ul", { class: "plain-list" }, networks.map(item)),
      all > networks.length ? h("p", { class: "hint" }, `and ${plural(all - networks.length, "more network")}`) : null);
  }

  function draw(block) {
    let map = shown.get(block.network);
    if (!map) {
      map = blockMap({ network: block.network, open: openHost, actions: manage && nodes.length ? [scanLink(block.network)] : [] });
      shown.set(block.network, map);
      const after = [...blocks.children].find((one) => one instanceof HTMLElement && order(one.dataset.network) > order(block.network));
      blocks.insertBefore(map.element, after ?? null);
    }
    map.set(block);
  }

  function scanLink(network) {
    return h("a", { class: "button button-small", href: "#/scans/new", "aria-label": `Scan ${network}`, onclick: () => scanTarget(nodes.length > 1 ? `site:${site.siteId}` : nodes[0], network) }, "Scan");
  }

  const load = () => refresh().catch(failed);
  more.addEventListener("click", () => { wanted += PAGE; load(); });
  element.addEventListener("toggle", load);
  return {
    element,
    refresh,
    /** Takes a changed site. */
    update(next) {
      if (name.textContent !== next.name) fill(name, next.name);
      nodes = next.fleetNodeIds ?? [];
    },
  };
}

/** The position of a network in the order of addresses. */
function order(network) {
  return String(network ?? "").split(/[./]/).slice(0, 3).reduce((sum, part) => sum * 256 + Number(part), 0);
}

function openHost({ deviceId, scanId }) {
  location.hash = deviceId ? `#/devices/${deviceId}` : `#/scans/${scanId}/changes/unidentified`;
}
