// Converts values of the API into texts for people. Does not use the DOM.

const whole = new Intl.NumberFormat("en-US");
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

/** Converts a number of the API: 64-bit integers arrive as strings, absent fields are 0. */
export function int(value) {
  const number = Number(value ?? 0);
  return Number.isFinite(number) ? number : 0;
}

/** Formats an integer with thousands separators. */
export function count(value) {
  return whole.format(int(value));
}

/** Formats a count with its noun: `1 device`, `2,000 devices`. */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${int(value) === 1 ? one : many}`;
}

/** Formats milliseconds: `0.42 s`, `8.3 s`, `1 min 04 s`, `2 h 05 min`. */
export function duration(milliseconds) {
  const ms = Math.max(0, int(milliseconds));
  if (ms < 1000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
}

/** Formats a running time. After ten seconds it shows whole seconds, because tenths would flicker. */
export function running(milliseconds) {
  const ms = Math.max(0, int(milliseconds));
  return ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : duration(Math.floor(ms / 1000) * 1000).replace(".0 s", " s");
}

/** Converts a protobuf duration (`1.500s`) to milliseconds. */
export function durationMillis(text) {
  const seconds = Number.parseFloat(text ?? "0");
  return Number.isFinite(seconds) ? seconds * 1000 : 0;
}

/** Converts a protobuf timestamp to a Date; null if it is absent or invalid. */
export function date(text) {
  if (!text) return null;
  const value = new Date(text);
  return Number.isNaN(value.getTime()) ? null : value;
}

/** Formats a timestamp with date and time. */
export function absolute(text) {
  const value = date(text);
  return value ? moment.format(value) : "";
}

/** Formats a timestamp relative to now (`5 min ago`), or as day and time if it is more than six hours away. */
export function relative(text, now = Date.now()) {
  const value = date(text);
  if (!value) return "never";
  const seconds = Math.round((now - value.getTime()) / 1000);
  if (Math.abs(seconds) < 5) return "just now";
  const distance = (amount) => (seconds >= 0 ? `${amount} ago` : `in ${amount}`);
  const size = Math.abs(seconds);
  if (size < 60) return distance(`${size} s`);
  if (size < 3600) return distance(`${Math.floor(size / 60)} min`);
  if (size < 6 * 3600) return distance(`${Math.floor(size / 3600)} h`);
  return day.format(value);
}

/** Formats the time of day of a timestamp. */
export function timeOfDay(text) {
  const value = date(text);
  return value ? clock.format(value) : "";
}

/** Makes a text of the server a sentence: capital letter first, full stop last. */
export function sentence(text) {
  const trimmed = String(text ?? "").trim();
  if (!trimmed) return "";
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?:]$/.test(first) ? first : `${first}.`;
}

/**
 * Isolates a foreign text where no element is possible: in attributes, options and announcements. Without isolation,
 * right-to-left characters in it would reorder the text around it.
 */
export function isolate(text) {
  return `\u2068${text ?? ""}\u2069`;
}

/** Formats an endpoint; IPv6 addresses are in brackets. */
export function endpoint(ip, port) {
  const host = String(ip ?? "").includes(":") ? `[${ip}]` : String(ip ?? "");
  return int(port) ? `${host}:${int(port)}` : host;
}

/** Ports of APIs. The page of a device that was found there is at the port of its scheme. */
const API_PORTS = [4028, 4433];

/** Returns the URL of a device, or null. Devices choose these texts, so only http and https to a literal address are linked. */
export function deviceLink({ scheme, ip, port }) {
  if (scheme !== "http" && scheme !== "https") return null;
  if (!/^[0-9a-fA-F.:]+$/.test(ip ?? "") || !int(port)) return null;
  try {
    return new URL(`${scheme}://${endpoint(ip, API_PORTS.includes(int(port)) ? 0 : port)}/`).href;
  } catch {
    return null;
  }
}

/** Parts of a user agent that name a browser or a system. The first that occurs counts, because later ones occur in others too. */
const BROWSERS = [["Edg/", "Edge"], ["OPR/", "Opera"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]];
const SYSTEMS = [["Windows", "Windows"], ["Android", "Android"], ["iPhone", "iOS"], ["iPad", "iPadOS"], ["CrOS", "ChromeOS"], ["Mac OS", "macOS"], ["Linux", "Linux"]];

/** Describes the browser of a session: `Firefox on Linux`, or the whole text if it is of no known browser. */
export function browserName(userAgent) {
  const known = (list) => list.find(([part]) => userAgent.includes(part))?.[1];
  const [browser, system] = [known(BROWSERS), known(SYSTEMS)];
  return browser && system ? `${browser} on ${system}` : userAgent;
}

/** Joins manufacturer and model without repeating the manufacturer. */
export function makeAndModel({ manufacturer, model }) {
  const make = (manufacturer ?? "").trim();
  const type = (model ?? "").trim();
  if (!make || type.toLowerCase().startsWith(make.toLowerCase())) return type || "Unknown model";
  return type ? `${make} ${type}` : make;
}
