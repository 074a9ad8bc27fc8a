// Talking to the server: Connect calls in JSON, and the session behind the cookie. Knows nothing of the page.

/** A refusal of the server, or the failure to reach it (`code` is then `unavailable`, `offline` is true). */
export class RpcError extends Error {
  constructor(code, message, { status = 0, offline = false } = {}) {
    super(message);
    this.name = "RpcError";
    this.code = code;
    this.status = status;
    this.offline = offline;
  }
}

/** Whether the credential is missing, over or refused. */
export function isSignedOut(error) {
  return error instanceof RpcError && error.code === "unauthenticated";
}

/** Whether the request was given up by its caller. */
export function isAborted(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** How long a call may take before it counts as lost. */
const CALL_TIMEOUT_MS = 20_000;

// No form of another site can set this header; the server wants it on whatever a cookie authenticates.
const CSRF = { "x-fleet-csrf": "1" };

/** Calls one unary procedure, `fleet.v1.ScanService/StartScan` for instance. */
export async function call(procedure, message = {}, { signal } = {}) {
  const response = await request(`/${procedure}`, {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1", ...CSRF },
    body: JSON.stringify(message),
    signal,
  });
  return response.json();
}

/** Who is signed in; null when nobody is. */
export async function currentSession() {
  try {
    const response = await request("/api/session", { method: "GET" });
    return await response.json();
  } catch (error) {
    if (isSignedOut(error)) return null;
    throw error;
  }
}

/** Exchanges a credential, `{ key }` or `{ email, password }`, for the session's cookie. */
export async function signIn(credential) {
  await request("/api/session", {
    method: "POST",
    headers: { "content-type": "application/json", ...CSRF },
    body: JSON.stringify(credential),
  });
}

/** Ends the session. */
export async function signOut() {
  await request("/api/session", { method: "DELETE", headers: CSRF });
}

/** Asks an address for its refusal: an EventSource does not tell why it failed. Null when it was none. */
export async function refusalOf(url) {
  const controller = new AbortController();
  try {
    await request(url, { method: "GET", headers: { accept: "text/event-stream" }, signal: controller.signal });
    return null;
  } catch (error) {
    return error;
  } finally {
    controller.abort();
  }
}

async function request(url, options) {
  const timeout = AbortSignal.timeout(CALL_TIMEOUT_MS);
  let response;
  try {
    response = await fetch(url, {
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      ...options,
      signal: options.signal ? anySignal(options.signal, timeout) : timeout,
    });
  } catch (error) {
    if (options.signal?.aborted) throw new DOMException("given up", "AbortError");
    throw new RpcError("unavailable", "The server cannot be reached. Check your connection, and that the server runs.", { offline: true });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

function anySignal(...signals) {
  const controller = new AbortController();
  for (const signal of signals) {
    if (signal.aborted) controller.abort(signal.reason);
    signal.addEventListener("abort", () => controller.abort(signal.reason), { once: true, signal: controller.signal });
  }
  return controller.signal;
}

async function refusal(response) {
  let code = CODES[response.status] ?? "unknown";
  let message = "";
  try {
    const body = await response.json();
    if (typeof body.code === "string") code = body.code;
    if (typeof body.message === "string") message = body.message;
  } catch {
    // A proxy answered in words of its own: the status has to do.
  }
  const offline = !message && [502, 503, 504].includes(response.status);
  return new RpcError(code, message || `The server answered with HTTP status ${response.status}. Try again in a moment.`, { status: response.status, offline });
}

const CODES = {
  400: "internal",
  401: "unauthenticated",
  403: "permission_denied",
  404: "not_found",
  429: "resource_exhausted",
  502: "unavailable",
  503: "unavailable",
  504: "unavailable",
};
