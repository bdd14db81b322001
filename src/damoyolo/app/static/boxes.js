// Which boxes are shown: arithmetic only, the same as the server's.

/** Of detections, best first, those with the score, of shown classes, that no better one of their class overlaps. */
export function visible(detections, { score, overlap, hidden }) {
  const kept = [];
  for (const each of detections) {
    if (each.score < score) break;
    if (hidden.has(each.label)) continue;
    if (!kept.some((other) => other.label === each.label && iou(other.box, each.box) > overlap)) kept.push(each);
  }
  return kept;
}

/** Intersection over union of two xyxy boxes. */
export function iou([ax1, ay1, ax2, ay2], [bx1, by1, bx2, by2]) {
  const width = Math.min(ax2, bx2) - Math.max(ax1, bx1);
  const height = Math.min(ay2, by2) - Math.max(ay1, by1);
  if (width <= 0 || height <= 0) return 0;
  const common = width * height;
  return common / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common);
}

/** The smallest box around a point. */
export function boxAt(boxes, x, y) {
  const around = boxes.filter(({ box: [x1, y1, x2, y2] }) => x >= x1 && x <= x2 && y >= y1 && y <= y2);
  const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  return around.sort((a, b) => area(a) - area(b))[0] ?? null;
}

/** Such as `3 person, 1 dog`, the most frequent first. */
export function summarize(boxes) {
  const counts = new Map();
  for (const { name } of boxes) counts.set(name, (counts.get(name) ?? 0) + 1);
  const sorted = [...counts].sort((a, b) => b[1] - a[1]);
  const text = sorted.slice(0, 5).map(([name, count]) => `${count} ${name}`).join(", ");
  return sorted.length > 5 ? `${text} …` : text || "Nothing found";
}
