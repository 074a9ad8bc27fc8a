// Initial values of the next scan form. They are passed in memory, because the hash contains only the view.

/** @type {{ node: string, request: any, name?: string, timing?: any }} */
let next = { node: "", request: undefined };

/** Preselects a node in the next form. */
export function chooseNode(nodeId) {
  next = { node: nodeId, request: undefined };
}

/** Fills the next form with an earlier scan. */
export function repeatScan(scan) {
  next = { node: choiceOf(scan), request: scan.request, name: scan.name };
}

/** Fills the next form with a schedule. Its name is not copied, because names are unique. */
export function cloneSchedule(schedule) {
  next = { node: choiceOf(schedule), request: schedule.request, timing: schedule.timing ?? {} };
}

/** The choice of the form for the nodes of a scan or schedule: a node, a site or all nodes. */
export function choiceOf({ auto, siteId, fleetNodeId }) {
  if (auto) return "auto";
  return siteId && siteId !== "0" ? `site:${siteId}` : String(fleetNodeId ?? "");
}

/** The nodes of a choice as a request names them. */
export function nodesField(choice) {
  if (choice === "auto") return { auto: true };
  return choice.startsWith("site:") ? { siteId: choice.slice(5) } : { fleetNodeId: choice };
}

/** Fills the next form with a target, such as a network, for the nodes of a choice. */
export function scanTarget(choice, target) {
  next = { node: choice, request: { nmap: { target } } };
}

/** Returns the initial values and resets them. */
export function takePrefill() {
  const taken = next;
  next = { node: "", request: undefined };
  return taken;
}
