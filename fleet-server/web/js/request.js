// Converts the texts of the scan form to a request and back. The server alone decides which requests are valid.

/** Splits a text at white space, commas and semicolons. */
export function entries(text) {
  return String(text ?? "").split(/[\s,;]+/).filter(Boolean);
}

/** The target expression for the private subnets of the node. */
export const LOCAL_SUBNET = "fleetnode-local-subnet";

/** The service type that stands for the announcements of IP report buttons. */
export const IP_REPORTS = "ip-reports";

/**
 * Builds the request from the values of the form; null while there is no target. `targets` and `excludes` are lists of
 * entries, and `rate` is the most probes per second, 0 for the rate of the node.
 */
export function requestOf({ mode, targets, excludes, service, seconds, minutes, ports, rate }) {
  const most = rate ? { maxRate: rate } : {};
  if (mode === "mdns" || mode === "reports") {
    // An empty service or time is the server's default. An mDNS request has no ports.
    const time = mode === "mdns" ? Number.parseInt(seconds, 10) : Number.parseInt(minutes, 10) * 60;
    const serviceType = mode === "mdns" ? service.trim() : IP_REPORTS;
    return { mdns: { serviceType, ...(Number.isNaN(time) ? {} : { timeoutSeconds: time }) }, ...most };
  }
  if (!targets.length) return null;
  const wanted = entries(ports);
  const all = [...targets, ...excludes.map((entry) => `!${entry.replace(/^!/, "")}`)];
  return targets.length === 1
    ? { nmap: { target: all.join(" "), ports: wanted }, ...most }
    : { ipList: { ipAddresses: all, ports: wanted }, ...most };
}

/** Converts an earlier request to values of the form. */
export function valuesOf(request = {}) {
  const values = { mode: "targets", targets: [], excludes: [], service: "", seconds: "", minutes: "", ports: "", rate: request.maxRate ?? 0 };
  const written = request.nmap ?? request.ipList ?? request.ipRange;
  values.ports = (written?.ports ?? []).join(", ");
  const range = request.ipRange ? [rangeText(request.ipRange)] : [];
  const all = [...entries(request.nmap?.target), ...(request.ipList?.ipAddresses ?? []).flatMap(entries), ...range];
  values.targets = all.filter((entry) => !entry.startsWith("!"));
  values.excludes = all.filter((entry) => entry.startsWith("!")).map((entry) => entry.slice(1));
  if (request.mdns?.serviceType === IP_REPORTS) {
    values.mode = "reports";
    values.minutes = request.mdns.timeoutSeconds ? String(Math.ceil(request.mdns.timeoutSeconds / 60)) : "";
  } else if (request.mdns) {
    values.mode = "mdns";
    values.service = request.mdns.serviceType ?? "";
    values.seconds = request.mdns.timeoutSeconds ? String(request.mdns.timeoutSeconds) : "";
  }
  return values;
}

/** Describes the targets of a request in a few words. */
export function summary(request = {}) {
  if (request.nmap) return request.nmap.target === LOCAL_SUBNET ? "local subnet of the node" : request.nmap.target ?? "";
  if (request.ipRange) return `${request.ipRange.startIp ?? ""} – ${request.ipRange.endIp ?? ""}`;
  if (request.ipList) {
    const addresses = request.ipList.ipAddresses ?? [];
    return addresses.length > 2 ? `${addresses[0]}, ${addresses[1]} and ${addresses.length - 2} more` : addresses.join(", ");
  }
  if (request.mdns?.serviceType === IP_REPORTS) return "IP report buttons";
  if (request.mdns) return `mDNS ${request.mdns.serviceType || "_http._tcp"}`;
  return "";
}

/** Describes the ports of a request in a few words. */
export function portSummary(request = {}) {
  const ports = (request.nmap ?? request.ipList ?? request.ipRange)?.ports ?? [];
  if (ports.length === 0) return "default ports";
  return `${ports.length === 1 ? "port" : "ports"} ${ports.join(", ")}`;
}

/** Returns the entry that an error names; the longest one, because `10.0.0.1-0` contains `10.0.0.1` too. */
export function namedEntry(list, message) {
  return list.filter((entry) => namedIn(entry, message)).sort((a, b) => b.length - a.length)[0] ?? null;
}

/** Finds the entry of a text that an error names, as `{ start, end, line }`; null if none is named. */
export function findNamed(text, message) {
  const pattern = /[^\s,;]+/g;
  const candidates = [];
  for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
    if (namedIn(match[0], message)) candidates.push({ start: match.index, end: match.index + match[0].length });
  }
  // Take the longest match: a message about `10.0.0.1-0` contains `10.0.0.1` too.
  candidates.sort((a, b) => (b.end - b.start) - (a.end - a.start));
  const best = candidates[0];
  return best ? { ...best, line: text.slice(0, best.start).split("\n").length } : null;
}

function namedIn(entry, message) {
  for (let at = message.indexOf(entry); at >= 0; at = message.indexOf(entry, at + 1)) {
    const before = message.charAt(at - 1);
    const after = message.slice(at + entry.length, at + entry.length + 2);
    if (!/[A-Za-z0-9.:/-]/.test(before) && !/^([A-Za-z0-9/-]|[.:][A-Za-z0-9])/.test(after)) return true;
  }
  return false;
}

function rangeText({ startIp = "", endIp = "" }) {
  // In IPv6 addresses, only the other form is a range.
  return `${startIp}${startIp.includes(":") ? ".." : "-"}${endIp}`;
}

/** Returns a random id of a request. */
export function freshRequestId() {
  // randomUUID needs a secure context, and the page may be served over plain HTTP in a LAN.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
