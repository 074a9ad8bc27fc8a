// Deleting devices from the inventory, with a reason.

import { attempt, may } from "./app.js";
import { busy, textDialog } from "./dialog.js";
import { announce, foreign, h } from "./dom.js";
import { isolate, plural } from "./format.js";
import { call } from "./rpc.js";

/** Asks for a reason and deletes devices. Resolves to whether they were deleted. */
export async function deleteDevices(devices, error, button = null) {
  const one = devices.length === 1 ? devices[0] : null;
  const reason = await textDialog({
    title: one ? ["Delete “", foreign(one.identifier), "”?"] : `Delete ${plural(devices.length, "device")}?`,
    label: "Reason",
    hint: "The audit trail keeps it. Pairing and former names end too. A scan that finds a deleted device again adds a new one.",
    action: "Delete", cancel: one ? "Keep device" : "Keep devices", danger: true,
  });
  if (reason === null) return false;
  const message = { deviceIds: devices.map((device) => device.deviceId), reason };
  const send = () => call("fleet.v1.DeviceService/DeleteDevices", message);
  return attempt(error, async () => {
    await (button ? busy(button, send) : send());
    announce(one ? "Device deleted." : "Devices deleted.");
  });
}

/** A button that deletes one device; null for operators who may not. */
export function deleteButton(device, { error, changed }) {
  if (!may("fleetnode:manage")) return null;
  const button = h("button", { type: "button", class: "button button-small button-quiet", "aria-label": `Delete ${isolate(device.identifier)}` }, "Delete");
  button.addEventListener("click", async () => {
    if (await deleteDevices([device], error, button)) await changed();
  });
  return button;
}
