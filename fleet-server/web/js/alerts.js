// Alerts: the messages with their deliveries, the rules and the channels. Administrators also get the actions.

import { attempt, may, poll, title } from "./app.js";
import { busy, confirmDialog, copyButton, errorBox } from "./dialog.js";
import { announce, fill, foreign, freshId, h, show, timeAgo } from "./dom.js";
import { int, isolate, plural, sentence } from "./format.js";
import { call } from "./rpc.js";

const POLL_MS = 3000;
const LIST = 50;

/** @type {[string, string][]} */
const EVENTS = [
  ["device.new", "New device"],
  ["device.missing", "Device missing"],
  ["device.moved", "Device moved"],
  ["device.firmware", "Firmware changed"],
  ["node.silent", "Node silent"],
  ["scan.failed", "Scan failed"],
];

const SERVICE = "fleet.v1.AlertService";

/** Shows the alerts. */
export function alertsView(root) {
  title("Alerts");
  const manage = may("org:admin");
  let closed = false;
  let channels = [];
  let drawn = "";
  const heading = h("h1", { tabindex: "-1" }, "Alerts");
  const parts = { deliveries: list("alert-deliveries"), rules: list("alert-rules"), channels: list("alert-channels") };
  const ruleForm = newRuleForm();
  const channelForm = newChannelForm();
  root.append(
    h("div", { class: "page-head" }, heading),
    h("p", { class: "hint lead" }, "Rules send messages to channels when devices, nodes or scans need attention."),
    h("div", { class: "account-parts" },
      part("Messages", parts.deliveries, null, "panel-whole"),
      part("Rules", parts.rules, manage ? ruleForm.element : null),
      part("Channels", parts.channels, manage ? channelForm.element : null)));
  const stop = poll(POLL_MS, reload, { failed: parts.deliveries.error.show });
  return () => {
    closed = true;
    stop();
  };

  async function reload() {
    const [{ deliveries = [] }, { rules = [] }, answer] = await Promise.all([
      call(`${SERVICE}/ListAlertDeliveries`, { limit: LIST }), call(`${SERVICE}/ListAlertRules`), call(`${SERVICE}/ListAlertChannels`),
    ]);
    if (closed) return;
    // Rows are built again only when something changed, because the focus can be in them.
    const shown = JSON.stringify([deliveries, rules, answer]);
    if (shown === drawn) return;
    drawn = shown;
    channels = answer.channels ?? [];
    fill(parts.deliveries.element, deliveries.length ? deliveries.map(deliveryRow) : h("li", { class: "hint" }, "No messages yet."));
    fill(parts.rules.element, rules.length ? rules.map(ruleRow) : h("li", { class: "hint" }, "No rules."));
    fill(parts.channels.element, channels.length ? channels.map(channelRow) : h("li", { class: "hint" }, "No channels."));
    ruleForm.update();
    channelForm.update(Boolean(answer.emailAvailable));
  }

  /** Runs an action of a list and loads everything again. Returns whether it succeeded. */
  async function act(of, button, procedure, message, announced, done = (/** @type {any} */ _answer) => {}) {
    return attempt(of.error, async () => {
      const answer = await busy(button, () => call(`${SERVICE}/${procedure}`, message));
      if (closed) return;
      done(answer);
      announce(announced);
      await reload();
    });
  }

  function deliveryRow(delivery) {
    const { deliveryId } = delivery;
    const items = delivery.items ?? [];
    const left = int(delivery.count) - items.length;
    const retry = small("Retry", `Retry: ${isolate(delivery.title)} to ${isolate(delivery.channelName)}`);
    retry.addEventListener("click", () => act(parts.deliveries, retry, "RetryAlertDelivery", { deliveryId }, "The message is sent again."));
    show(retry, manage && delivery.state === "failed");
    return h("li", { class: "entry", "data-delivery": deliveryId },
      h("div", {},
        h("strong", {}, foreign(delivery.title)), " ", stateBadge(delivery),
        h("p", { class: "hint" }, timeAgo(delivery.createdAt), " · to ", foreign(delivery.channelName), delivery.rule ? [" · rule ", foreign(delivery.rule)] : null, ...reason(delivery)),
        items.length ? h("details", {},
          h("summary", {}, plural(delivery.count, "item")),
          h("ul", {}, items.map((item) => h("li", {}, foreign(item))), left > 0 ? h("li", {}, `and ${left} more`) : null)) : null),
      retry);
  }

  function ruleRow(rule) {
    const spec = rule.spec ?? {};
    const { ruleId } = rule;
    const names = (spec.channelIds ?? []).map((id) => channels.find((channel) => channel.channelId === id)?.name).filter(Boolean);
    const toggle = small(spec.disabled ? "Enable" : "Disable", `${spec.disabled ? "Enable" : "Disable"} the rule ${isolate(spec.name)}`);
    toggle.addEventListener("click", () => act(parts.rules, toggle, "UpdateAlertRule", { ruleId, spec: { ...spec, disabled: !spec.disabled } }, spec.disabled ? "Rule enabled." : "Rule disabled."));
    const remove = small("Delete", `Delete the rule ${isolate(spec.name)}`, "button-quiet-danger");
    remove.addEventListener("click", async () => {
      const agreed = await confirmDialog({ title: ["Delete the rule “", foreign(spec.name), "”?"], body: "Its waiting messages are sent.", action: "Delete rule", cancel: "Keep rule", danger: true });
      if (agreed && !closed && await act(parts.rules, remove, "DeleteAlertRule", { ruleId }, "Rule deleted.")) heading.focus();
    });
    return h("li", { class: "entry", "data-rule": ruleId },
      h("div", {},
        h("strong", {}, foreign(spec.name)), spec.disabled ? [" ", h("span", { class: "badge" }, "Off")] : null,
        h("p", { class: "hint" }, ruleText(spec), " · to ", names.length ? names.map((name, at) => [at ? ", " : "", foreign(name)]) : "no channel")),
      manage ? h("div", { class: "actions" }, toggle, remove) : null);
  }

  function channelRow(channel) {
    const { channelId } = channel;
    const test = small("Send test message", `Send test message to ${isolate(channel.name)}`);
    test.addEventListener("click", () => act(parts.channels, test, "TestAlertChannel", { channelId }, "Test message queued. Its result is in the list of messages."));
    const remove = small("Delete", `Delete the channel ${isolate(channel.name)}`, "button-quiet-danger");
    remove.addEventListener("click", async () => {
      const agreed = await confirmDialog({ title: ["Delete the channel “", foreign(channel.name), "”?"], body: "Its waiting messages are not sent.", action: "Delete channel", cancel: "Keep channel", danger: true });
      if (agreed && !closed && await act(parts.channels, remove, "DeleteAlertChannel", { channelId }, "Channel deleted.")) heading.focus();
    });
    return h("li", { class: "entry", "data-channel": channelId },
      h("div", {}, h("strong", {}, foreign(channel.name)),
        h("p", { class: "hint" }, channel.kind === "email" ? "E-mail" : "Webhook", " · ", foreign(channel.target))),
      manage ? h("div", { class: "actions" }, test, remove) : null);
  }

  function newRuleForm() {
    const name = input("rule-name", { maxlength: 64, placeholder: "new devices" });
    const event = h("select", { id: "rule-event", class: "input" }, EVENTS.map(([value, text]) => h("option", { value }, text)));
    const threshold = input("rule-threshold", { type: "number", min: 1, inputmode: "numeric" });
    const thresholdLabel = h("label", { for: "rule-threshold" }, "Scans in a row");
    const thresholdField = h("div", { class: "field", hidden: true }, thresholdLabel, threshold);
    const quiet = input("rule-quiet", { maxlength: 1024, placeholder: "22:00-06:00; sat,sun 00:00-24:00" });
    const zone = input("rule-zone", { maxlength: 64 });
    zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
    const boxes = h("div", { class: "stack" });
    const choices = h("fieldset", { class: "field" }, h("legend", {}, "Channels"), boxes);
    const create = h("button", { type: "submit", class: "button", id: "create-rule" }, "Create rule");
    event.addEventListener("change", () => {
      show(thresholdField, ["device.missing", "node.silent"].includes(event.value));
      thresholdLabel.textContent = event.value === "node.silent" ? "Minutes" : "Scans in a row";
      threshold.value = event.value === "node.silent" ? "10" : "2";
    });
    const element = h("form", { class: "account-inline", novalidate: true },
      field("Name of the new rule", name), h("div", { class: "field" }, h("label", { for: "rule-event" }, "Event"), event), thresholdField,
      field("Quiet hours (optional)", quiet), field("Time zone", zone), choices, create);
    element.addEventListener("submit", async (submitted) => {
      submitted.preventDefault();
      parts.rules.error.clear();
      if (!name.value.trim()) {
        parts.rules.error.show("Enter a name for the rule.");
        name.focus();
        return;
      }
      const spec = {
        name: name.value.trim(), event: event.value, threshold: thresholdField.hidden ? 0 : Math.max(0, int(threshold.value)),
        channelIds: [...boxes.querySelectorAll("input")].filter((box) => box.checked).map((box) => box.value),
        quietHours: quiet.value.trim(), timeZone: zone.value.trim(),
      };
      await act(parts.rules, create, "CreateAlertRule", { spec }, "Rule created.", () => { name.value = ""; });
    });
    return {
      element,
      /** Offers the channels. A choice is kept while its channel exists. */
      update() {
        const chosen = new Set([...boxes.querySelectorAll("input")].filter((box) => box.checked).map((box) => box.value));
        fill(boxes, channels.length ? channels.map((channel) => {
          const id = freshId("rule-channel");
          const box = h("input", { type: "checkbox", id, value: channel.channelId });
          box.checked = chosen.has(channel.channelId);
          return h("label", { class: "check", for: id }, box, h("span", {}, foreign(channel.name)));
        }) : h("p", { class: "hint" }, "Create a channel first."));
      },
    };
  }

  function newChannelForm() {
    const name = input("channel-name", { maxlength: 64, placeholder: "operations" });
    const kind = h("select", { id: "channel-kind", class: "input" }, h("option", { value: "webhookUrl" }, "Webhook"), h("option", { value: "email" }, "E-mail"));
    const target = input("channel-target", { maxlength: 2048, placeholder: "https://hooks.example.org/fleet" });
    const targetLabel = h("label", { for: "channel-target" }, "URL");
    const noMail = h("p", { class: "hint", hidden: true }, "This server sends no e-mail. Its administrator sets a mail server in its configuration.");
    const create = h("button", { type: "submit", class: "button", id: "create-channel" }, "Create channel");
    kind.addEventListener("change", () => {
      targetLabel.textContent = kind.value === "email" ? "E-mail address" : "URL";
      target.placeholder = kind.value === "email" ? "name@example.org" : "https://hooks.example.org/fleet";
    });
    const form = h("form", { class: "account-inline", novalidate: true },
      field("Name of the new channel", name), h("div", { class: "field" }, h("label", { for: "channel-kind" }, "Kind"), kind),
      h("div", { class: "field" }, targetLabel, target), create);
    const element = h("div", { class: "stack" }, form, noMail);
    form.addEventListener("submit", async (submitted) => {
      submitted.preventDefault();
      parts.channels.error.clear();
      if (!name.value.trim() || !target.value.trim()) {
        parts.channels.error.show("Enter the name and the receiver of the channel.");
        (name.value.trim() ? target : name).focus();
        return;
      }
      const message = { name: name.value.trim(), [kind.value]: target.value.trim() };
      await act(parts.channels, create, "CreateAlertChannel", message, "Channel created.", (created) => {
        name.value = "";
        target.value = "";
        showSecret(parts.channels.secret, created);
      });
    });
    return { element, update(emailAvailable) { show(noMail, !emailAvailable); } };
  }
}

/** Shows the secret of a new webhook; an e-mail channel has none. */
function showSecret(element, { channel, signingSecret = "" }) {
  fill(element, signingSecret ? [
    h("p", {}, h("strong", {}, "Copy the signing secret of ", foreign(channel.name), " now. It is shown only once."), " The receiver checks signatures with it."),
    h("div", { class: "secret" }, h("code", { id: "signing-secret", "aria-label": "Signing secret", tabindex: "0" }, signingSecret), copyButton(signingSecret)),
  ] : null);
}

/** Describes the event and the quiet hours of a rule. */
function ruleText({ event, threshold, quietHours, timeZone }) {
  const name = EVENTS.find(([value]) => value === event)?.[1] ?? "Unknown event";
  const limit = event === "node.silent" ? ` for ${plural(threshold, "minute")}` : event === "device.missing" ? ` in ${plural(threshold, "scan")}` : "";
  return `${name}${limit}${quietHours ? `, not ${quietHours} (${timeZone})` : ""}`;
}

function stateBadge({ state, attempts }) {
  if (state === "delivered") return h("span", { class: "badge badge-good" }, "Delivered");
  if (state === "failed") return h("span", { class: "badge badge-bad" }, "Failed");
  return h("span", { class: "badge badge-wait" }, int(attempts) ? "Retrying" : "Waiting");
}

/** The last answer, and when the message is sent next. */
function reason({ state, attempts, answer, dueAt }) {
  const parts = [];
  if (answer && state !== "delivered") parts.push(" · ", foreign(sentence(answer)));
  if (state === "waiting" && dueAt) parts.push(" · ", plural(attempts ?? 0, "attempt"), ", next ", timeAgo(dueAt));
  return parts;
}

function list(id) {
  return { element: h("ul", { class: "entries", id }), error: errorBox(), secret: h("div", {}) };
}

function part(heading, shown, form = null, look = "") {
  return h("section", { class: `panel ${look}`.trim() }, h("h2", { class: "account-head" }, heading),
    h("div", { class: "stack" }, shown.element, form, shown.secret, shown.error.element));
}

function small(text, label, look = "") {
  return h("button", { type: "button", class: `button button-small ${look}`, "aria-label": label }, text);
}

function input(id, properties) {
  return h("input", { id, class: "input", type: "text", autocomplete: "off", spellcheck: "false", ...properties });
}

function field(label, element) {
  return h("div", { class: "field" }, h("label", { for: element.id }, label), element);
}
