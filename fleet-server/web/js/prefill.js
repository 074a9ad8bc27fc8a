// Initial values of the next scan form. They are passed in memory, because the hash contains only the view.

let next = { node: "", request: undefined };

/** Preselects a node in the next form. */
export function chooseNode(nodeId) {
  next = { node: nodeId, request: undefined };
}

/** Fills the next form with an earlier scan. */
export function repeatScan(scan) {
  next = { node: scan.fleetNodeId, request: scan.request };
}

/** Fills the next form with a target, such as a network, for a node. */
export function scanTarget(nodeId, target) {
  next = { node: nodeId, request: { nmap: { target } } };
}

/** Returns the initial values and resets them. */
export function takePrefill() {
  const taken = next;
  next = { node: "", request: undefined };
  return taken;
}
