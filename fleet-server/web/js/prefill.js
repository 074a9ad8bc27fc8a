// What the next scan form starts with. It travels in memory, since the address carries nothing but the view.

let next = { node: "", request: undefined };

/** The next form starts with this node. */
export function chooseNode(nodeId) {
  next = { node: nodeId, request: undefined };
}

/** The next form starts with a scan that was made before. */
export function repeatScan(scan) {
  next = { node: scan.fleetNodeId, request: scan.request };
}

/** Takes what was chosen, once. */
export function takePrefill() {
  const taken = next;
  next = { node: "", request: undefined };
  return taken;
}
