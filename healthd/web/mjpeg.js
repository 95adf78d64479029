// Reads a stream of pictures (multipart) by itself, not through an <img>: so the page knows each frame's number, sees the end of
// the stream, and is told in words why there is none.
import { address, refusal } from "./api.js";

const HEAD_END = [13, 10, 13, 10];
const LONGEST_HEAD = 4096;

// Calls `onPart({ frameId, jpeg })` for each part; `frameId` is null for a picture that says that there is none. Returns when
// the stream has ended. Throws ApiError where it is refused, else what fetch throws.
export async function readStream(path, { query, signal, onPart }) {
  const answer = await fetch(address(path, query), { cache: "no-store", signal });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.getReader();
  let left = new Uint8Array(0);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      left = joined(left, value);
      for (let part = firstPart(left); part; part = firstPart(left)) {
        left = left.subarray(part.end);
        onPart(part);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // what makes no sense is not read to an end that may never come
  }
}

function joined(left, right) {
  if (!left.length) return right;
  const both = new Uint8Array(left.length + right.length);
  both.set(left);
  both.set(right, left.length);
  return both;
}

// The first part that is there as a whole, or null.
function firstPart(bytes) {
  const head = headEnd(bytes);
  if (head < 0) {
    if (bytes.length > LONGEST_HEAD) throw new TypeError("this is no stream of healthd");
    return null;
  }
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, head));
  const length = /^content-length: *(\d+)/im.exec(text);
  if (!length) throw new TypeError("a part does not say how long it is");
  const end = head + Number(length[1]);
  if (bytes.length < end) return null;
  const frame = /^x-frame-id: *(\d+)/im.exec(text);
  return { end, frameId: frame && Number(frame[1]), jpeg: bytes.slice(head, end) };
}

function headEnd(bytes) {
  for (let at = bytes.indexOf(13); at >= 0 && at < LONGEST_HEAD; at = bytes.indexOf(13, at + 1)) {
    if (HEAD_END.every((byte, index) => bytes[at + index] === byte)) return at + HEAD_END.length;
  }
  return -1;
}
