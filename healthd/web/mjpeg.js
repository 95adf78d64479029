// Reads a stream of pictures (multipart) by itself, not through an <img>: so the page knows each frame's number, sees the end of
// the stream, and is told in words why there is none.
import { address, refusal } from "./api.js";

const HEAD_END = [13, 10, 13, 10];
const LONGEST_HEAD = 4096;
const LONGEST_JPEG = 64 * 1024 * 1024;

// Calls `onPart({ frameId, jpeg })` for each part; `frameId` is null for a picture that says that there is none. Returns when
// the stream has ended. Throws ApiError where it is refused, TypeError where it makes no sense, else what fetch throws.
export async function readStream(path, { query, signal, onPart }) {
  const answer = await fetch(address(path, query), { cache: "no-store", signal });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.getReader();
  let pieces = []; // what came of parts that are not whole yet
  let have = 0;
  let wanted = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      pieces.push(value);
      have += value.length;
      if (have < wanted) continue; // joined once for each part, not for each piece of it
      let left = joined(pieces, have);
      let part = firstPart(left);
      for (; part.jpeg; part = firstPart(left)) {
        left = left.subarray(part.end);
        onPart(part);
      }
      wanted = part.end;
      pieces = [left];
      have = left.length;
    }
  } finally {
    reader.cancel().catch(() => {}); // what makes no sense is not read to an end that may never come
  }
}

function joined(pieces, length) {
  const all = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

// The first part: without `jpeg` where it is not there as a whole; `end` is then how many bytes there have to be at least.
function firstPart(bytes) {
  const head = headEnd(bytes);
  if (head < 0) {
    if (bytes.length >= LONGEST_HEAD + HEAD_END.length) throw new TypeError("this is no stream of healthd");
    return { end: 0 };
  }
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, head));
  const length = /^content-length: *(\d+)/im.exec(text);
  if (!length) throw new TypeError("a part does not say how long it is");
  if (Number(length[1]) > LONGEST_JPEG) throw new TypeError("a part is longer than any picture");
  const end = head + Number(length[1]);
  if (bytes.length < end) return { end };
  const frame = /^x-frame-id: *(\d+)/im.exec(text);
  return { end, frameId: frame && Number(frame[1]), jpeg: bytes.slice(head, end) };
}

function headEnd(bytes) {
  for (let at = bytes.indexOf(13); at >= 0 && at < LONGEST_HEAD; at = bytes.indexOf(13, at + 1)) {
    if (HEAD_END.every((byte, index) => bytes[at + index] === byte)) return at + HEAD_END.length;
  }
  return -1;
}
