// Streams of parts, cut into pieces anywhere and made wrong anywhere, for the page's own reader of Motion JPEG.
// `run(base, seed, rounds)` answers with what went wrong, and with how many of the wrong streams were refused.

function randomNumbers(seed) {
  // mulberry32: the same numbers for the same seed, in every browser
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const ascii = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

function together(pieces) {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function parts(random) {
  return Array.from({ length: 1 + random(6) }, () => ({
    frameId: random(5) ? random(1e9) : null,
    jpeg: Uint8Array.from({ length: random(4) ? random(3000) : 0 }, () => (random(6) ? random(256) : [13, 10][random(2)])),
  }));
}

function sent({ frameId, jpeg }) {
  const number = frameId === null ? "" : `X-Frame-Id: ${frameId}\r\n`;
  const head = `--frame\r\nContent-Type: image/jpeg\r\n${number}Content-Length: ${jpeg.length}\r\n\r\n`;
  return together([ascii(head), jpeg, ascii("\r\n")]);
}

function pieces(bytes, random) {
  const most = [1, 7, 100, 5000, 100000][random(5)];
  const cut = [];
  for (let at = 0; at < bytes.length; at += cut.at(-1).length) cut.push(bytes.slice(at, at + 1 + random(most)));
  return cut;
}

const ENDLESS = ascii("--frame\r\nContent-Length: 99999999999\r\n\r\n");

function wrong(bytes, random) {
  const at = random(bytes.length);
  const ways = [
    () => together([bytes.slice(0, at), bytes.slice(at + 1 + random(200))]), // something is missing
    () => together([bytes.slice(0, at), Uint8Array.from({ length: 1 + random(6000) }, () => random(256)), bytes.slice(at)]),
    () => bytes.map((byte, index) => (index % (2 + (at % 90)) ? byte : random(256))),
    () => together([ascii("--frame\r\nContent-Length: -1\r\n\r\n"), bytes]),
    () => Uint8Array.from({ length: 9000 }, () => random(256)),
  ];
  return ways[random(ways.length)]();
}

async function read(readStream, cut) {
  let cancelled = false;
  let next = 0;
  const pull = (stream) => {
    if (next < cut.length) stream.enqueue(cut[next++]);
    else stream.close();
  };
  const body = new ReadableStream({ pull, cancel: () => (cancelled = true) }, { highWaterMark: 0 });
  window.fetch = async () => new Response(body);
  const got = [];
  let error = null;
  try {
    await readStream("x", { onPart: ({ frameId, jpeg }) => got.push({ frameId, jpeg }) });
  } catch (thrown) {
    error = thrown;
  }
  return { got, error, cancelled };
}

const same = (one, other) =>
  one.length === other.length &&
  one.every(({ frameId, jpeg }, index) => {
    const beside = other[index];
    return frameId === beside.frameId && jpeg.length === beside.jpeg.length && jpeg.every((byte, at) => byte === beside.jpeg[at]);
  });

export async function run(readStream, seed, rounds) {
  const failures = [];
  let refused = 0;
  for (let round = 0; round < rounds; round++) {
    const random = randomNumbers(seed * 1_000_003 + round);
    const all = parts(random);
    const bytes = together(all.map(sent));
    const right = await read(readStream, pieces(bytes, random));
    if (right.error || !same(right.got, all)) failures.push(`round ${round}: ${right.error ?? "other parts than were sent"}`);
    const broken = wrong(bytes, random);
    const [once, twice] = [await read(readStream, [broken]), await read(readStream, pieces(broken, random))];
    const { error, cancelled } = twice;
    if (error && !(error instanceof TypeError)) failures.push(`round ${round}: ${error}`);
    if (error && !cancelled) failures.push(`round ${round}: it was read on after ${error.message}`);
    if (once.error?.message !== error?.message || !same(once.got, twice.got)) failures.push(`round ${round}: pieces decide what is read`);
    const endless = await read(readStream, pieces(together([bytes, ENDLESS, bytes]), random));
    if (!endless.error || !same(endless.got, all)) failures.push(`round ${round}: a part without end was waited for`);
    refused += Number(error !== null);
  }
  return { failures, refused };
}
