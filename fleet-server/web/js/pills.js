// A field for several entries: each complete entry becomes a pill that can be removed. Invalid pills are red and counted.

import { announce, foreign, h, setText, show } from "./dom.js";
import { isolate, plural } from "./format.js";
import { entries as split } from "./request.js";

/** Pills drawn. A pasted list can have thousands of entries; the others are counted. */
const SHOWN = 200;

/**
 * Creates the field. `input` are the attributes of its text field, `noun` names an entry, and `changed` is called when
 * the entries change. A text that is still typed counts as an entry too.
 */
export function pillBox({ input: attributes, noun, changed }) {
  const input = h("input", {
    class: "pillbox-input mono", type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", inputmode: "text", ...attributes,
  });
  const list = h("ul", { class: "pills", "aria-label": `Entered ${noun}s` });
  const more = h("span", { class: "hint pills-more", hidden: true });
  const count = h("p", { class: "pills-count hint", id: `${attributes.id}-count`, role: "status", hidden: true });
  const box = h("div", { class: "input pillbox" }, list, more, input);
  const element = h("div", {}, box, count);
  /** @type {string[]} */
  let pills = [];
  /** @type {Map<string, string>} */
  let invalid = new Map();

  /** Returns the entries of the text field that no pill has. */
  const typed = () => split(input.value).filter((entry) => !pills.includes(entry));

  function draw() {
    // Invalid entries first: they must be seen although the list is long.
    const bad = pills.filter((entry) => invalid.has(entry));
    const shown = pills.length > SHOWN ? [...bad, ...pills.filter((entry) => !invalid.has(entry))].slice(0, SHOWN) : pills;
    list.replaceChildren(...shown.map(pill));
    setText(more, `and ${plural(pills.length - shown.length, `more ${noun}`, `more ${noun}s`)}`);
    show(more, pills.length > shown.length);
    describe();
  }

  function describe() {
    const all = [...pills, ...typed()];
    const bad = all.filter((entry) => invalid.has(entry)).length;
    setText(count, [all.length > 1 ? plural(all.length, noun) : "", bad ? `${bad} invalid` : ""].filter(Boolean).join(", "));
    count.classList.toggle("pills-bad", bad > 0);
    show(count, Boolean(count.textContent));
    if (typed().some((entry) => invalid.has(entry)) || bad) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    box.classList.toggle("pillbox-bad", bad > 0);
  }

  function pill(entry) {
    const why = invalid.get(entry);
    const remove = h("button", { type: "button", class: "pill-remove", "aria-label": `Remove ${isolate(entry)}`, onclick: () => removeAt(entry) }, "×");
    return h("li", { class: why ? "pill pill-bad" : "pill", title: why ? isolate(why) : null, "data-entry": entry },
      h("span", { class: "mono" }, foreign(entry)), why ? h("span", { class: "visually-hidden" }, " (invalid)") : null, remove);
  }

  function removeAt(entry) {
    const at = pills.indexOf(entry);
    pills = pills.filter((one) => one !== entry);
    draw();
    announce(`${isolate(entry)} removed.`);
    const next = list.children[Math.min(at, list.children.length - 1)]?.querySelector("button");
    if (next) next.focus();
    else input.focus();
    changed();
  }

  /** Turns the typed entries into pills. With `last` false, the last one is still typed. */
  function commit(last) {
    const parts = split(input.value);
    const rest = last || /[\s,;]$/.test(input.value) ? "" : parts.pop() ?? "";
    const fresh = [...new Set(parts)].filter((entry) => !pills.includes(entry));
    input.value = rest;
    if (!fresh.length) return;
    pills = [...pills, ...fresh];
    draw();
  }

  input.addEventListener("input", () => {
    if (/[\s,;]/.test(input.value.trimStart())) commit(false);
    describe();
    changed();
  });
  input.addEventListener("paste", (event) => {
    const text = event.clipboardData?.getData("text") ?? "";
    if (!/[\s,;]/.test(text.trim())) return;
    // A text field would remove the line breaks between the entries.
    event.preventDefault();
    input.value = `${input.value} ${text.replace(/#.*$/gm, " ")} `;
    commit(true);
    changed();
  });
  input.addEventListener("blur", () => commit(true));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && input.value.trim()) {
      event.preventDefault();
      commit(true);
      changed();
    } else if (event.key === "Backspace" && !input.value && pills.length) {
      event.preventDefault();
      // The last entry is edited instead of removed, because it was probably mistyped.
      input.value = pills.at(-1) ?? "";
      pills = pills.slice(0, -1);
      draw();
      changed();
    }
  });
  box.addEventListener("click", (event) => { if (event.target === box || event.target === list) input.focus(); });

  return {
    element,
    input,
    /** All entries in order, without duplicates. */
    get entries() {
      return [...pills, ...typed()];
    },
    set(entries) {
      pills = [...new Set(entries)];
      input.value = "";
      invalid = new Map();
      draw();
    },
    /** Marks entries as invalid: a map from each to its error. */
    mark(errors) {
      const same = errors.size === invalid.size && [...errors].every(([entry, why]) => invalid.get(entry) === why);
      invalid = errors;
      if (same) describe();
      else draw();
    },
    /** Removes the invalid entries. */
    removeInvalid() {
      pills = pills.filter((entry) => !invalid.has(entry));
      if (split(input.value).some((entry) => invalid.has(entry))) input.value = "";
      invalid = new Map();
      draw();
      input.focus();
      changed();
    },
  };
}
