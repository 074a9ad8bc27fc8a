// Initial values of the next scan form. They are passed in memory, because the hash contains only the view.

/** @type {{ node: string, request: any, name?: string, timing?: any }} */
let next = { node: "", request: undefined };

/** Preselects a node in the next form. */
export function chooseNode(nodeId) {
  next = { node: nodeId, request: undefined };
}

/** Fills the next form with an earlier scan. */
export function repeatScan(scan) {
  next = { node: scan.fleetNodeId, request: scan.request, name: scan.name };
}

/** Fills the next form with a schedule. Its name is not copied, because names are unique. */
export function cloneSchedule(schedule) {
  next = { node: schedule.fleetNodeId, request: schedule.request, timing: schedule.timing ?? {} };
}

/** Returns the initial values and resets them. */
export function takePrefill() {
  const taken = next;
  next = { node: "", request: undefined };
  return taken;
}
