// Calls to the server: the Connect API in JSON, and the session cookie. Does not use the DOM.

/** An error response of the server. If the server cannot be reached, `code` is `unavailable` and `offline` is true. */
export class RpcError extends Error {
  constructor(code, message, { status = 0, offline = false } = {}) {
    super(message);
    this.name = "RpcError";
    this.code = code;
    this.status = status;
    this.offline = offline;
  }
}

/** Returns whether the session is missing, expired or revoked. */
export function isSignedOut(error) {
  return error instanceof RpcError && error.code === "unauthenticated";
}

/** Returns whether the caller aborted the request. */
export function isAborted(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

/** Time limit of a call. */
const CALL_TIMEOUT_MS = 20_000;

// A form of another site cannot set this header. The server requires it for every request that a cookie authenticates.
const CSRF = { "x-fleet-csrf": "1" };

/** Calls a unary procedure such as `fleet.v1.ScanService/StartScan`. */
export async function call(procedure, message = {}, /** @type {{ signal?: AbortSignal }} */ { signal } = {}) {
  const response = await request(`/${procedure}`, {
    method: "POST",
    headers: { "content-type": "application/json", "connect-protocol-version": "1", ...CSRF },
    body: JSON.stringify(message),
    signal,
  });
  return response.json();
}

/** The most pages that `callAll` reads. */
const MOST_PAGES = 100;

/** Calls a list procedure until its last page. Returns the rows of all pages, which are in the field `of`. */
export async function callAll(procedure, of, message = {}) {
  const rows = [];
  let cursor = "0";
  for (let page = 0; page < MOST_PAGES; page++) {
    const answer = await call(procedure, { ...message, cursor });
    rows.push(...(answer[of] ?? []));
    cursor = String(answer.nextCursor ?? "0");
    if (cursor === "0") break;
  }
  return rows;
}

/** Loads the session; null if nobody is signed in. */
export async function currentSession() {
  try {
    const response = await request("/api/session", { method: "GET" });
    return await response.json();
  } catch (error) {
    if (isSignedOut(error)) return null;
    throw error;
  }
}

/** Loads how operators sign in: `{ passwords, provider: { name } | null }`. */
export async function signInMethods() {
  const response = await request("/api/sign-in", { method: "GET" });
  return response.json();
}

/** Exchanges a credential, `{ key }` or `{ email, password }`, for a session cookie. */
export async function signIn(credential) {
  await request("/api/session", {
    method: "POST",
    headers: { "content-type": "application/json", ...CSRF },
    body: JSON.stringify(credential),
  });
}

/** Ends the session and removes its cookie. */
export async function signOut() {
  await request("/api/session", { method: "DELETE", headers: CSRF });
}

/** Requests a URL only to learn its error, because an EventSource does not report why it failed. Null if it succeeds. */
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
      // The server never redirects. A redirect comes from something else, which must not get the
      // request.
      redirect: "error",
      ...options,
      signal: options.signal ? anySignal(options.signal, timeout) : timeout,
    });
  } catch (error) {
    if (options.signal?.aborted) throw new DOMException("aborted by the caller", "AbortError");
    throw new RpcError("unavailable", "The server cannot be reached. Check your connection and that the server is running.", { offline: true });
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
    // The response is not ours but a proxy's, so only its status is known.
  }
  // A proxy answers with these while the server restarts.
  const offline = !message && [502, 503, 504].includes(response.status);
  return new RpcError(code, message || `The server returned HTTP status ${response.status}. Try again in a moment.`, { status: response.status, offline });
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
