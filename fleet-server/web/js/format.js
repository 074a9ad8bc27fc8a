// Turning wire values into words and figures for people. Nothing here touches the page.

const whole = new Intl.NumberFormat("en-US");
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

/** A number of the wire: 64-bit ones come as text, absent ones are 0. */
export function int(value) {
  const number = Number(value ?? 0);
  return Number.isFinite(number) ? number : 0;
}

/** A whole number with thousands separators. */
export function count(value) {
  return whole.format(int(value));
}

/** `1 device`, `2,000 devices`. */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${int(value) === 1 ? one : many}`;
}

/** Milliseconds as people say them: `0.42 s`, `8.3 s`, `1 min 04 s`, `2 h 05 min`. */
export function duration(milliseconds) {
  const ms = Math.max(0, int(milliseconds));
  if (ms < 1000) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const two = (number) => String(number).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${two(Math.floor((seconds % 3600) / 60))} min`;
}

/** A running time: whole seconds once it is past the first ten, so that it does not flicker. */
export function running(milliseconds) {
  const ms = Math.max(0, int(milliseconds));
  return ms < 10000 ? `${(ms / 1000).toFixed(1)} s` : duration(Math.floor(ms / 1000) * 1000).replace(".0 s", " s");
}

/** A protobuf duration (`1.500s`) in milliseconds. */
export function durationMillis(text) {
  const seconds = Number.parseFloat(text ?? "0");
  return Number.isFinite(seconds) ? seconds * 1000 : 0;
}

/** A protobuf timestamp as a Date, or null. */
export function date(text) {
  if (!text) return null;
  const value = new Date(text);
  return Number.isNaN(value.getTime()) ? null : value;
}

/** A moment in full. */
export function absolute(text) {
  const value = date(text);
  return value ? moment.format(value) : "";
}

/** A moment near now as its distance, a further one as day and time. */
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

/** The time of day of a moment. */
export function timeOfDay(text) {
  const value = date(text);
  return value ? clock.format(value) : "";
}

/** A server's text as a sentence. */
export function sentence(text) {
  const trimmed = String(text ?? "").trim();
  if (!trimmed) return "";
  const first = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?:]$/.test(first) ? first : `${first}.`;
}

/** An endpoint as it is written: IPv6 in brackets. */
export function endpoint(ip, port) {
  const host = String(ip ?? "").includes(":") ? `[${ip}]` : String(ip ?? "");
  return int(port) ? `${host}:${int(port)}` : host;
}

/** The link to a device, or null: only http and https are ever linked, and only to a literal address. */
export function deviceLink({ scheme, ip, port }) {
  if (scheme !== "http" && scheme !== "https") return null;
  if (!/^[0-9a-fA-F.:]+$/.test(ip ?? "") || !int(port)) return null;
  try {
    return new URL(`${scheme}://${endpoint(ip, port)}/`).href;
  } catch {
    return null;
  }
}

/** Make and model in one text. */
export function makeAndModel({ manufacturer, model }) {
  const make = (manufacturer ?? "").trim();
  const type = (model ?? "").trim();
  if (!make || type.toLowerCase().startsWith(make.toLowerCase())) return type || "Unknown model";
  return type ? `${make} ${type}` : make;
}
