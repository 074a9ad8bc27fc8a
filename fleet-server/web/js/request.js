// Converts the texts of the scan form to a request and back. The server alone decides which requests are valid.

/** Splits a text at white space, commas and semicolons. */
export function entries(text) {
  return String(text ?? "").split(/[\s,;]+/).filter(Boolean);
}

/** The target expression for the private subnets of the node. */
export const LOCAL_SUBNET = "fleetnode-local-subnet";

/** The service type that stands for the announcements of IP report buttons. */
export const IP_REPORTS = "ip-reports";

/** Builds the request from the values of the form; null while a required field is empty. */
export function requestOf({ mode, target, list, start, end, service, seconds, minutes, ports }) {
  const wanted = entries(ports);
  switch (mode) {
    case "target":
      return target.trim() ? { nmap: { target: target.trim(), ports: wanted } } : null;
    case "list": {
      const addresses = entries(list);
      return addresses.length ? { ipList: { ipAddresses: addresses, ports: wanted } } : null;
    }
    case "range":
      return start.trim() && end.trim() ? { ipRange: { startIp: start.trim(), endIp: end.trim(), ports: wanted } } : null;
    case "mdns": {
      // An empty service or time is the server's default. An mDNS request has no ports.
      const timeoutSeconds = Number.parseInt(seconds, 10);
      return { mdns: { serviceType: service.trim(), ...(Number.isNaN(timeoutSeconds) ? {} : { timeoutSeconds }) } };
    }
    case "reports": {
      const timeoutSeconds = Number.parseInt(minutes, 10) * 60;
      return { mdns: { serviceType: IP_REPORTS, ...(Number.isNaN(timeoutSeconds) ? {} : { timeoutSeconds }) } };
    }
    default:
      return null;
  }
}

/** Converts an earlier request to values of the form. */
export function valuesOf(request = {}) {
  const values = { mode: "target", target: "", list: "", start: "", end: "", service: "", seconds: "", minutes: "", ports: "" };
  const mode = request.nmap ?? request.ipList ?? request.ipRange;
  values.ports = (mode?.ports ?? []).join(", ");
  if (request.ipList) {
    values.mode = "list";
    values.list = (request.ipList.ipAddresses ?? []).join("\n");
  } else if (request.ipRange) {
    values.mode = "range";
    values.start = request.ipRange.startIp ?? "";
    values.end = request.ipRange.endIp ?? "";
  } else if (request.mdns?.serviceType === IP_REPORTS) {
    values.mode = "reports";
    values.minutes = request.mdns.timeoutSeconds ? String(Math.ceil(request.mdns.timeoutSeconds / 60)) : "";
  } else if (request.mdns) {
    values.mode = "mdns";
    values.service = request.mdns.serviceType ?? "";
    values.seconds = request.mdns.timeoutSeconds ? String(request.mdns.timeoutSeconds) : "";
  } else if (request.nmap) {
    values.target = request.nmap.target ?? "";
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
