// Actions on several devices at once: pair, unpair, scan again. Devices of several nodes are divided by their node.

import { attempt } from "./app.js";
import { busy, confirmDialog } from "./dialog.js";
import { announce } from "./dom.js";
import { int, plural } from "./format.js";
import { pairDialog } from "./pairing.js";
import { freshRequestId } from "./request.js";
import { call } from "./rpc.js";

/** Addresses of one list of a scan. */
const ADDRESSES = 4096;

/** The node that reaches a device: the one that it is bound to, or the one that found it. "0" for the server. */
export function nodeOf(device) {
  const bound = String(device.boundToFleetNodeId ?? "0");
  return int(bound) ? bound : String(device.fleetNodeId ?? "0");
}

/** Whether a node has paired the device, or the server. */
export function isBound(device) {
  return Boolean(device.boundToServer) || int(device.boundToFleetNodeId) > 0;
}

/** Whether the last pairing failed or needs a password. */
export function isRetried(device) {
  return ["FAILED", "AUTHENTICATION_NEEDED", "DEFAULT_PASSWORD"].includes(String(device.pairingStatus ?? "").replace("PAIRING_STATUS_", ""));
}

/** Divides devices by their node, without those of the server. Returns `[node, devices]` pairs. */
function byNode(devices) {
  const groups = new Map();
  for (const device of devices) {
    const node = nodeOf(device);
    if (int(node)) groups.set(node, [...(groups.get(node) ?? []), device]);
  }
  return [...groups];
}

/** Opens the dialog that pairs devices, each on its node. */
export function pairDevices(devices, names) {
  const groups = byNode(devices).map(([node, members]) => ({ node, identifiers: members.map(({ identifier }) => identifier) }));
  return pairDialog({ groups, names });
}

/** Asks, and unpairs devices. Resolves to whether they were unpaired. */
export async function unpairDevices(devices, { error, button }) {
  const agreed = await confirmDialog({
    title: `Unpair ${plural(devices.length, "device")}?`,
    body: "Their bindings are removed, and the credentials that the nodes stored for them are deleted. The devices stay in the inventory and can be paired again.",
    action: "Unpair", cancel: "Keep paired", danger: true,
  });
  if (!agreed) return false;
  return attempt(error, () => busy(button, async () => {
    let done = 0;
    for (const { deviceId } of devices) {
      await call("fleetnodeadmin.v1.FleetNodeAdminService/UnpairDevice", { deviceId });
      done += 1;
      if (done % 25 === 0) announce(`${plural(done, "device")} unpaired.`);
    }
    announce(`${plural(done, "device")} unpaired.`);
  }));
}

/** Starts a scan of the addresses of devices on each of their nodes. Opens the scan if there is one, or the list. */
export async function rescanDevices(devices, { error, button }) {
  const groups = byNode(devices.filter(({ ip }) => ip));
  await attempt(error, () => busy(button, async () => {
    const started = [];
    for (const [node, members] of groups) {
      const addresses = [...new Set(members.map(({ ip }) => ip))];
      for (let at = 0; at < addresses.length; at += ADDRESSES) {
        const { scan } = await call("fleet.v1.ScanService/StartScan", {
          requestId: freshRequestId(), fleetNodeId: node, request: { ipList: { ipAddresses: addresses.slice(at, at + ADDRESSES) } },
        });
        started.push(scan.scanId);
      }
    }
    if (!started.length) throw new Error("None of these devices has an address that a node can scan.");
    location.hash = started.length === 1 ? `#/scans/${started[0]}` : "#/scans";
  }));
}
