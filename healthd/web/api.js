// Talks to the API. Errors are the API's own words; every call ends, its body included.
const ROOT = new URL("../api/v1/", import.meta.url); // a proxy may show healthd under a path
const SECONDS = 5;
export const SILENT = "healthd does not answer";

// Tells pages that nobody here is known: "refused" (a call was answered with 401).
export const access = new EventTarget();

export class ApiError extends Error {
  // `status` is 0 where nothing came back, or nothing from healthd; `retryAfter` is in seconds, or null.
  constructor(message, { status = 0, extra = {}, retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    Object.assign(this, { status, extra, retryAfter });
  }
}

// The address of `path` ("cameras/gym/stream") with a query; what is null or undefined is left out.
export function address(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value != null) url.searchParams.set(name, value);
  return url.href;
}

export const cameraPath = (name, rest = "") => `cameras/${encodeURIComponent(name)}${rest}`;

// Answers with what `read` makes of the response (its JSON; null of an empty one). `body` is sent as JSON. 304 is no
// error. Throws ApiError, or what `signal` was aborted with.
export async function ask(path, { method = "GET", query, body, headers = {}, signal, seconds = SECONDS, read = readJson } = {}) {
  const deadline = new AbortController();
  const abort = () => deadline.abort();
  const timer = setTimeout(abort, seconds * 1000);
  signal?.addEventListener("abort", abort);
  try {
    signal?.throwIfAborted();
    const answer = await fetch(address(path, query), {
      method,
      cache: "no-store",
      signal: deadline.signal,
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!answer.ok && answer.status !== 304) throw await refusal(answer);
    return await read(answer);
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof ApiError) throw error;
    throw new ApiError(SILENT); // the network, the deadline, or a body that was cut off
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

// What an answer that is no success says of itself; a proxy's own page says only that healthd is not there.
export async function refusal(answer) {
  const error = await answer.json().catch(() => ({}));
  if (answer.status === 401) access.dispatchEvent(new Event("refused"));
  if (typeof error.detail !== "string") return new ApiError(`${SILENT}: ${answer.status} ${answer.statusText}`.trim());
  const after = Number.parseFloat(answer.headers.get("Retry-After"));
  return new ApiError(error.detail, {
    status: answer.status,
    extra: error.extra ?? {},
    retryAfter: Number.isFinite(after) ? after : null,
  });
}

async function readJson(answer) {
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}
