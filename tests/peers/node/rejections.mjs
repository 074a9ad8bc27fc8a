// Good calls after rejected ones over pooled HTTP/1.1 connections, as a Node.js program makes them. It prints the number
// of good calls that failed, with the reasons. Usage: node rejections.mjs URL COUNT, with the API key in FLEET_API_KEY.
import http from "node:http";

const [url, count] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const key = `Bearer ${process.env.FLEET_API_KEY}`;
const WHO_AM_I = "/fleet.v1.AccountService/WhoAmI";
/** Bodies that the server reads although it rejected the call, and bodies that it does not. */
const BODIES = [20_000, 60_000, 300_000].map((length) => JSON.stringify({ padding: "x".repeat(length) }));
const json = { "content-type": "application/json" };

/** Requests that are rejected before their body is read. */
const REJECTED = [
  ["/fleet.v1.AccountService/WhoAmI", { ...json, authorization: "Bearer fok_wrong" }],
  ["/fleet.v1.AccountService/NoSuchMethod", { ...json, authorization: key }],
  ["/nothing/here", { ...json }],
  [WHO_AM_I, { "content-type": "text/html", authorization: key }],
  [WHO_AM_I, { ...json, "content-encoding": "br", authorization: key }],
];

function post(path, headers, sent) {
  return new Promise((resolve, reject) => {
    const request = http.request(url + path, { method: "POST", agent, headers }, (response) => {
      response.on("error", reject).on("end", () => resolve(response.statusCode)).resume();
    });
    request.on("error", reject).end(sent);
  });
}

const failures = {};
let rejected = 0;
for (let call = 0; call < Number(count); call += 1) {
  const [path, headers] = REJECTED[call % REJECTED.length];
  const note = (what) => (failures[what] = (failures[what] ?? 0) + 1);
  await post(path, headers, BODIES[call % BODIES.length]).then((status) => (status >= 400 ? (rejected += 1) : note(`${path} got ${status}`)), (error) => note(`rejected call: ${error.code}`));
  await post(WHO_AM_I, { ...json, authorization: key }, "{}").then((status) => status === 200 || note(`good call: ${status}`), (error) => note(`good call: ${error.code}`));
}
console.log(JSON.stringify({ rejected, failures }));
process.exit(0);
