// Draws what a model says of a picture on a canvas: boxes, skeletons, names and confidences.
const SKELETON = [
  [15, 13], [13, 11], [16, 14], [14, 12], [11, 12], [5, 11], [6, 12], [5, 6], [5, 7], [7, 9], [6, 8], [8, 10],
  [1, 2], [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6],
]; // the limbs between the 17 keypoints of COCO
const PALETTE = ["#4caf50", "#ff9800", "#2196f3", "#9c27b0", "#f44336", "#00bcd4", "#ffeb3b", "#ff69b4"];
const SEEN = 0.5; // keypoints below this confidence are not drawn, nor the limbs that end in them

export const colourOf = (classId) => PALETTE[((classId % PALETTE.length) + PALETTE.length) % PALETTE.length];
export const wordsOf = (result) => `${result.class_name} ${result.confidence.toFixed(2)}`;

// `picture` is anything that a canvas can draw; `results` are in its pixels.
export function draw(canvas, picture, results) {
  const { width, height } = picture;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0, width, height);
  const line = Math.max(1.5, Math.min(width, height) / 240);
  for (const result of results) {
    const colour = colourOf(result.class_id);
    drawBox(pen, result, colour, line, width);
    if (result.keypoints) drawKeypoints(pen, result.keypoints, colour, line);
  }
}

function drawBox(pen, result, colour, line, width) {
  const [x1, y1, x2, y2] = result.box_xyxy;
  if (![x1, y1, x2, y2].every(Number.isFinite)) return;
  pen.strokeStyle = pen.fillStyle = colour;
  pen.lineWidth = line;
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  const size = Math.max(11, line * 6);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const words = wordsOf(result);
  const wide = pen.measureText(words).width + size / 2;
  const left = Math.max(0, Math.min(x1, width - wide));
  const ground = Math.max(size * 1.3, y1);
  pen.fillRect(left, ground - size * 1.3, wide, size * 1.3);
  pen.fillStyle = "#000";
  pen.fillText(words, left + size / 4, ground - size * 0.3);
}

function drawKeypoints(pen, keypoints, colour, line) {
  const seen = keypoints.map(([x, y, confidence]) => (confidence >= SEEN && Number.isFinite(x + y) ? [x, y] : null));
  pen.strokeStyle = colour;
  pen.lineWidth = line;
  for (const [start, end] of keypoints.length === 17 ? SKELETON : []) {
    if (!seen[start] || !seen[end]) continue;
    pen.beginPath();
    pen.moveTo(...seen[start]);
    pen.lineTo(...seen[end]);
    pen.stroke();
  }
  pen.fillStyle = "#fff";
  for (const point of seen) {
    if (!point) continue;
    pen.beginPath();
    pen.arc(...point, line * 1.2, 0, 2 * Math.PI);
    pen.fill();
  }
}
