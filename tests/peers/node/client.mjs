// connect-es in Node.js against a running server, over every protocol and both HTTP versions. It prints one line of JSON
// for each combination. Usage: node client.mjs URL DESCRIPTORS, with the API key in FLEET_API_KEY.
import { readFileSync } from "node:fs";

import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";

const [url, descriptors] = process.argv.slice(2);
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const service = (name) => registry.getService(`fleet.v1.${name}`);
const signedIn = (next) => (request) => {
  request.header.set("authorization", `Bearer ${process.env.FLEET_API_KEY}`);
  return next(request);
};

/** Every combination that a protocol allows: gRPC needs HTTP/2. */
function* transports() {
  for (const httpVersion of ["1.1", "2"]) {
    for (const useBinaryFormat of [true, false]) {
      const options = { baseUrl: url, httpVersion, useBinaryFormat, interceptors: [signedIn] };
      const name = (protocol) => `${protocol} ${useBinaryFormat ? "binary" : "JSON"} HTTP/${httpVersion}`;
      yield [name("Connect"), createConnectTransport(options)];
      yield [name("gRPC-Web"), createGrpcWebTransport(options)];
      if (httpVersion === "2") yield [name("gRPC"), createGrpcTransport(options)];
    }
  }
}

/** A unary call, an error with its details, and a stream that ends with an error. */
async function exercise(transport) {
  const account = createClient(service("AccountService"), transport);
  const scans = createClient(service("ScanService"), transport);
  const { email } = await account.whoAmI({});
  const unary = await failure(() => scans.getScan({ scanId: "00000000-0000-7000-8000-000000000000" }));
  const stream = await failure(async () => {
    for await (const event of scans.watchScan({ scanId: "00000000-0000-7000-8000-000000000000" })) void event;
  });
  return { email, unary, stream };
}

async function failure(call) {
  try {
    await call();
    return "succeeded";
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    return { code: Code[error.code], details: error.details.map((detail) => detail.type) };
  }
}

for (const [name, transport] of transports()) {
  console.log(JSON.stringify({ name, ...(await exercise(transport)) }));
}
process.exit(0);
