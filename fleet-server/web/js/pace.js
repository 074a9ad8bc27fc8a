// The pace of a scan: Low, Normal or High, with the probes per second behind each.

import { h, setText } from "./dom.js";
import { count, int } from "./format.js";

/** The paces by name: the share of the node's rate. High is the rate of the node, which its site sets. */
const PACES = [
  { name: "low", label: "Low", share: 0.1 },
  { name: "normal", label: "Normal", share: 0.5 },
  { name: "high", label: "High", share: 1 },
];

/** Creates the choice. `initial` is the most probes per second of an earlier request, 0 for the rate of the node. */
export function paceField(initial) {
  const radios = PACES.map(({ name, label, share }) => {
    const input = h("input", { type: "radio", name: "pace", id: `pace-${name}`, value: name, class: "visually-hidden" });
    const number = h("span", { class: "pace-number" });
    return { name, share, input, number, element: h("span", { class: "segment" }, input, h("label", { for: `pace-${name}` }, label, number)) };
  });
  const hint = h("p", { class: "hint", id: "pace-hint" });
  const element = h("fieldset", { class: "field", "aria-describedby": "pace-hint" }, h("legend", {}, "Pace"),
    h("div", { class: "segments paces" }, radios.map((radio) => radio.element)), hint);
  // The rate of the chosen node; 0 if it has none.
  let rate = 0;
  let asked = initial;
  choose("normal");

  function choose(name) {
    for (const radio of radios) radio.input.checked = radio.name === name;
  }

  const rateOf = (share) => Math.max(1, Math.round(rate * share));

  return {
    element,
    /** The most probes per second of the request; 0 for the rate of the node. */
    get rate() {
      const chosen = radios.find(({ input }) => input.checked);
      return !rate || !chosen || chosen.share === 1 ? 0 : rateOf(chosen.share);
    },
    /** Shows the numbers of a node. */
    setNode(node) {
      rate = int(node?.rate);
      for (const radio of radios) {
        setText(radio.number, rate ? `${count(rateOf(radio.share))}/s` : "");
        radio.input.disabled = Boolean(node) && !rate;
      }
      setText(hint, node && !rate
        ? "This node sets its own pace: it does not announce a rate."
        : "Probes per second. High is the limit of the node, which its site sets.");
      if (asked && rate) {
        // The nearest pace of an earlier request.
        choose([...radios].sort((a, b) => Math.abs(rateOf(a.share) - asked) - Math.abs(rateOf(b.share) - asked))[0].name);
        asked = 0;
      }
    },
  };
}
