// A chart of several counts per day, as plain SVG. Each count has a row with its own scale, because a few missing
// devices would be invisible beside thousands of seen ones.

import { fill, freshId, h, setText } from "./dom.js";
import { count } from "./format.js";

const NS = "http://www.w3.org/2000/svg";
/** Width of a day and height of a row, in units of the drawing. */
const DAY = 10;
const ROW = 40;
/** The highest bar. The name of the row is above it. */
const HIGHEST = 24;
/** The height of a count of 1 beside a large one, so that it stays visible. */
const LEAST = 2;

const date = new Intl.DateTimeFormat(undefined, { weekday: "short", month: "short", day: "numeric", timeZone: "UTC" });

/**
 * Creates a chart. `rows` is a list of `{ name, label, look }`. `set(days)` draws days, each `{ date, …counts by name }`,
 * oldest first. The day under the pointer, or chosen with the arrow keys, is described below the chart.
 */
export function dayChart({ label, rows }) {
  const svg = element("svg", { class: "chart-days", preserveAspectRatio: "none", role: "group", "aria-label": `${label}: use the arrow keys` });
  const most = rows.map(() => h("span", { class: "chart-most" }));
  const reading = h("p", { class: "chart-reading", id: freshId("chart") });
  const figure = h("figure", { class: "chart", "aria-label": label },
    h("div", { class: "chart-rows" }, rows.map((row, at) => h("div", { class: "chart-row" },
      h("span", { class: `chart-name look-${row.look}` }, row.label), most[at]))),
    svg,
    h("figcaption", {}, reading));
  let columns = [];
  let days = [];
  let chosen = -1;

  function sentence(day) {
    const counts = rows.map((row) => `${count(day[row.name])} ${row.label.toLowerCase()}`);
    return `${date.format(new Date(`${day.date}T00:00:00Z`))}: ${counts.join(", ")}`;
  }

  function read(at) {
    chosen = at;
    for (const [number, column] of columns.entries()) {
      column.classList.toggle("is-chosen", number === at);
      column.setAttribute("tabindex", number === at ? "0" : "-1");
    }
    if (days[at]) setText(reading, sentence(days[at]));
  }

  svg.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const last = columns.length - 1;
    const to = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: last }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    read(Math.min(last, Math.max(0, to)));
    columns[chosen].focus();
  });

  function column(at) {
    const group = element("g", { class: "chart-day", role: "img", tabindex: "-1" });
    group.append(element("rect", { class: "chart-hit", x: at * DAY, y: 0, width: DAY, height: ROW * rows.length }));
    for (const row of rows) group.append(element("rect", { class: `chart-bar look-${row.look}`, x: at * DAY + 1.5, width: DAY - 3 }));
    group.addEventListener("pointerenter", () => read(at));
    group.addEventListener("focus", () => read(at));
    return group;
  }

  return {
    element: figure,
    set(next) {
      const isSame = JSON.stringify(next) === JSON.stringify(days);
      if (isSame) return;
      days = next;
      if (columns.length !== days.length) {
        svg.setAttribute("viewBox", `0 0 ${days.length * DAY} ${ROW * rows.length}`);
        columns = days.map((_day, at) => column(at));
        fill(svg, columns);
        chosen = days.length - 1;
      }
      for (const [number, row] of rows.entries()) {
        const highest = Math.max(0, ...days.map((day) => day[row.name]));
        setText(most[number], highest ? `up to ${count(highest)}` : "none");
        for (const [at, day] of days.entries()) {
          const value = day[row.name];
          const height = value ? Math.max(LEAST, (value / highest) * HIGHEST) : 0;
          const bar = columns[at].children[number + 1];
          bar.setAttribute("height", String(height));
          bar.setAttribute("y", String((number + 1) * ROW - height));
        }
      }
      for (const [at, day] of days.entries()) columns[at].setAttribute("aria-label", sentence(day));
      read(chosen);
    },
  };
}

function element(tag, attributes) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return made;
}
