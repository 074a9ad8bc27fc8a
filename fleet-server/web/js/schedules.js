// Schedules: their list in the view of scans, and the fields of the scan form that repeat a scan.

import { attempt, handledSignOut, may, poll } from "./app.js";
import { busy, confirmDialog } from "./dialog.js";
import { announce, fill, foreign, h, rich, setText, setTime, show, timeAgo } from "./dom.js";
import { count, durationMillis, int, plural, sentence } from "./format.js";
import { grid } from "./grid.js";
import { cloneSchedule } from "./prefill.js";
import { summary } from "./request.js";
import { call, isAborted } from "./rpc.js";

const POLL_MS = 3000;
/** Delay between the last keystroke and the preview by the server. */
const DEBOUNCE_MS = 300;

/** Times that the form offers. */
const EXAMPLES = [["every 1h", "Every hour"], ["30 2 * * *", "Every night"], ["0 6 * * mon", "Every Monday"]];

const COLUMNS = [
  { name: "what", label: "Schedule" },
  { name: "node", label: "Node" },
  { name: "by", label: "For" },
  { name: "started", label: "Next run" },
  { name: "found", label: "Runs" },
  { name: "actions", label: "Actions" },
];

/** Describes the times of a schedule: `30 2 * * *, Europe/Berlin, up to 10 min later, not 08:00-18:00`. */
export function timingText(timing = {}) {
  const jitter = Math.round(durationMillis(timing.jitter) / 60000);
  return [
    timing.when,
    /^every /.test(timing.when ?? "") && !timing.blackouts ? "" : timing.timeZone,
    jitter ? `up to ${jitter} min later` : "",
    timing.blackouts ? `not ${timing.blackouts}` : "",
  ].filter(Boolean).join(", ");
}

/**
 * Creates the section with the schedules. It is hidden while there are none. `error` is the error box of the view.
 * Returns the element and a function that stops its updates.
 */
export function schedulesSection(error) {
  const table = grid({ kind: "schedules", label: "Schedules, by name", columns: COLUMNS });
  const element = h("section", { class: "scan-section", "aria-labelledby": "schedules-title", hidden: true },
    h("h2", { id: "schedules-title" }, "Scheduled"), table.element);
  const rows = new Map();
  let closed = false;

  async function refresh() {
    const { schedules = [] } = await call("fleet.v1.ScheduleService/ListSchedules");
    if (closed) return;
    const names = schedules.map((schedule) => `${schedule.scheduleId} ${schedule.name}`).join("\n");
    // Rows are built again only when one came, went or was renamed, because the focus can be in them.
    if (names !== [...rows.values()].map(({ schedule }) => `${schedule.scheduleId} ${schedule.name}`).join("\n")) {
      rows.clear();
      table.clear();
      for (const schedule of schedules) {
        const row = scheduleRow(table, schedule, error, refresh);
        rows.set(schedule.scheduleId, row);
        table.append([row.element]);
      }
    }
    for (const schedule of schedules) rows.get(schedule.scheduleId)?.update(schedule);
    show(element, schedules.length > 0);
  }

  const stop = poll(POLL_MS, refresh, { failed: error.show });
  return { element, stop: () => { closed = true; stop(); } };
}

function scheduleRow(table, first, error, refresh) {
  const manage = may("fleetnode:manage");
  const times = h("span", { class: "hint scan-note" });
  const note = h("span", { class: "hint scan-note", hidden: true });
  const last = h("a", { class: "scan-note", hidden: true }, "Last scan");
  const next = timeAgo(first.nextRunAt);
  const none = h("span", { hidden: true });
  const runs = h("span", {});
  const named = (label) => ({ type: "button", class: "button button-small", "aria-label": `${label} ${first.name}` });
  const act = (button, said, procedure) => button.addEventListener("click", () => attempt(error, () => busy(button, async () => {
    await call(`fleet.v1.ScheduleService/${procedure()}`, { scheduleId: first.scheduleId });
    announce(said());
    await refresh();
  })));
  const run = h("button", named("Run now:"), "Run now");
  const pause = h("button", named("Pause or resume:"), "Pause");
  const clone = h("button", named("Clone:"), "Clone");
  clone.addEventListener("click", () => {
    cloneSchedule(row.schedule);
    location.hash = "#/scans/new";
  });
  const remove = h("button", { ...named("Delete:"), class: "button button-small button-quiet" }, "Delete");
  act(run, () => "Scan started.", () => "RunSchedule");
  act(pause, () => (row.schedule.pausedAt ? "Schedule resumed." : "Schedule paused."), () => (row.schedule.pausedAt ? "ResumeSchedule" : "PauseSchedule"));
  remove.addEventListener("click", async () => {
    const agreed = await confirmDialog({
      title: ["Delete schedule “", foreign(first.name), "”?"],
      body: "It does not run any more. Its scans are kept.", action: "Delete schedule", danger: true,
    });
    if (agreed) await attempt(error, async () => { await call("fleet.v1.ScheduleService/DeleteSchedule", { scheduleId: first.scheduleId }); await refresh(); });
  });
  const cells = {
    what: [h("strong", {}, foreign(first.name)), times, note, last],
    node: foreign(first.nodeName),
    started: [next, none],
    by: foreign(first.operator),
    found: runs,
    actions: manage ? h("span", { class: "actions" }, run, pause, clone, remove) : null,
  };
  const row = {
    schedule: first,
    element: table.row(cells),
    update(schedule) {
      row.schedule = schedule;
      const waits = Boolean(schedule.nextRunAt);
      setText(times, `${summary(schedule.request)} · ${timingText(schedule.timing)}`);
      const paused = schedule.pausedAt ? sentence(schedule.pausedReason) : "";
      const missed = int(schedule.missed) ? `${plural(schedule.missed, "run was", "runs were")} missed, because no server was running.` : "";
      setText(note, [paused, missed].filter(Boolean).join(" "));
      show(note, Boolean(note.textContent));
      last.setAttribute("href", `#/scans/${schedule.lastScanId ?? ""}`);
      show(last, Boolean(schedule.lastScanId));
      setTime(next, schedule.nextRunAt);
      show(next, waits);
      setText(none, schedule.pausedAt ? "Paused" : "None");
      show(none, !waits);
      setText(runs, count(schedule.runs));
      setText(pause, schedule.pausedAt ? "Resume" : "Pause");
    },
  };
  return row;
}

/**
 * Creates the choice between once and repeated, with the fields of the times. `name` is the field with the name, which a
 * repeated scan needs. `initial` are the times of an earlier schedule, and `changed` is called when the choice or the
 * validity changes. `ready` says whether the form can be sent, and `create(scan)` stores the schedule of `{ fleetNodeId,
 * request }`.
 */
export function repeatFields({ name, initial, changed }) {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  const radio = (value, label) => {
    const input = h("input", { type: "radio", name: "repeat", id: value, value, class: "visually-hidden" });
    return { input, element: h("span", { class: "segment" }, input, h("label", { for: value }, label)) };
  };
  const once = radio("once", "Once");
  const repeat = radio("repeat", "Repeated");
  const text = (id, properties) => h("input", { id, class: "input", type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", "aria-describedby": "repeat-preview", ...properties });
  const when = text("schedule-when", { class: "input mono", maxlength: 256, placeholder: "30 2 * * *", "aria-describedby": "schedule-when-hint repeat-preview" });
  const timeZone = text("schedule-zone", { maxlength: 64 });
  const jitter = text("schedule-jitter", { type: "number", min: 0, max: 60, placeholder: "0", inputmode: "numeric" });
  const blackouts = text("schedule-blackouts", { class: "input mono", maxlength: 1024, placeholder: "mon-fri 08:00-18:00", "aria-describedby": "schedule-blackouts-hint repeat-preview" });
  const preview = h("div", { id: "repeat-preview", class: "check-panel", role: "status", "aria-live": "polite" });
  const field = (label, input, hint) => h("div", { class: "field" }, h("label", { for: input.id }, label), input, hint);
  const chips = h("div", { class: "chips" }, EXAMPLES.map(([value, label]) => h("button", { type: "button", class: "chip", onclick: () => { when.value = value; when.focus(); update(); } }, label)));
  const fields = h("div", { class: "stack", hidden: true },
    h("div", { class: "field" }, h("label", { for: when.id }, "Times"), when, chips, h("p", { id: "schedule-when-hint", class: "hint" }, "Five fields of cron (minute, hour, day, month, weekday) such as ", h("code", {}, "30 2 * * mon-fri"), ", or an interval such as ", h("code", {}, "every 6h"), ".")),
    h("div", { class: "pair" }, field("Time zone", timeZone), field("Delay by up to (minutes)", jitter)),
    h("div", { class: "field" }, h("label", { for: blackouts.id }, "Blackout windows", h("span", { class: "optional" }, " optional")), blackouts, h("p", { id: "schedule-blackouts-hint", class: "hint" }, "Times without runs, separated by semicolons.")),
    preview);
  const element = h("div", { class: "stack" },
    h("fieldset", { class: "field" }, h("legend", {}, "How often"), h("div", { class: "segments" }, once.element, repeat.element)), fields);
  let timer = 0;
  let pending = null;
  let valid = false;
  once.input.checked = !initial;
  repeat.input.checked = Boolean(initial);
  when.value = initial?.when ?? "";
  timeZone.value = initial?.timeZone || zone;
  jitter.value = initial ? String(Math.round(durationMillis(initial.jitter) / 60000) || "") : "";
  blackouts.value = initial?.blackouts ?? "";

  const timing = () => ({ when: when.value.trim(), timeZone: timeZone.value.trim(), jitter: `${Math.max(0, int(jitter.value)) * 60}s`, blackouts: blackouts.value.trim() });

  function update() {
    clearTimeout(timer);
    pending?.abort();
    valid = false;
    show(fields, repeat.input.checked);
    when.removeAttribute("aria-invalid");
    preview.className = "check-panel";
    if (!repeat.input.checked || !when.value.trim() || !timeZone.value.trim()) {
      fill(preview, h("span", { class: "check-idle" }, "The next runs are shown here."));
    } else {
      timer = setTimeout(showRuns, DEBOUNCE_MS);
    }
    changed();
  }
  element.addEventListener("input", update);
  // Later, because `changed` can use a value that the caller creates next.
  if (initial) queueMicrotask(update);

  async function showRuns() {
    pending = new AbortController();
    const { signal } = pending;
    try {
      const { runs = [] } = await call("fleet.v1.ScheduleService/PreviewSchedule", { timing: timing(), count: 5 }, { signal });
      if (signal.aborted) return;
      preview.className = "check-panel check-good";
      fill(preview, h("p", {}, "Next runs:"), h("ul", { class: "runs" }, runs.map(({ local }) => h("li", { class: "mono" }, localText(local)))));
      valid = true;
    } catch (failure) {
      if (isAborted(failure) || signal.aborted || handledSignOut(failure)) return;
      preview.className = "check-panel check-bad";
      when.setAttribute("aria-invalid", "true");
      fill(preview, h("p", { class: "check-error" }, rich(sentence(failure.message))));
      if (failure.offline) timer = setTimeout(showRuns, 2000);
    }
    changed();
  }

  return {
    element,
    repeats: () => repeat.input.checked,
    ready: () => !repeat.input.checked || (valid && Boolean(name.value.trim())),
    async create(scan) {
      await call("fleet.v1.ScheduleService/CreateSchedule", { ...scan, name: name.value.trim(), timing: timing() });
    },
    stop() {
      clearTimeout(timer);
      pending?.abort();
    },
  };
}

/** `2026-03-29T03:00:00+02:00` as `2026-03-29 03:00 (+02:00)`. */
function localText(local = "") {
  const parts = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d(.*)$/.exec(local);
  return parts ? `${parts[1]} ${parts[2]} (${parts[3]})` : local;
}
