// Pictures with boxes, sharp at any size and on any screen.

const FONT = '"Liberation Sans", system-ui, sans-serif';

/**
 * Draw an image and its boxes over a whole canvas.
 *
 * `unit` is how many pixels of the canvas a CSS pixel has, or what looks like one in a saved picture.
 */
export function paint(canvas, image, boxes, { unit, colours, lit = null }) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / image.width;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const line = Math.max(1, Math.round(2 * unit));
  const marks = boxes.map((each) => ({
    ...each,
    colour: colours[each.label],
    corners: snapped(each.box, scale, line, canvas),
    line: each === lit ? 2 * line : line,
    source: each,
  }));
  for (const mark of [...marks].reverse()) drawBox(context, mark, lit);
  drawLabels(context, marks, lit, unit, canvas);
}

/** On whole pixels, so that lines are not blurred, and inside the canvas. */
function snapped(box, scale, line, { width, height }) {
  const [x1, y1, x2, y2] = box.map((each) => Math.round(each * scale) + (line % 2) / 2);
  const inset = line / 2;
  return [Math.max(inset, x1), Math.max(inset, y1), Math.min(width - inset, x2), Math.min(height - inset, y2)];
}

function drawBox(context, { corners: [x1, y1, x2, y2], colour, line, source }, lit) {
  context.globalAlpha = lit && source !== lit ? 0.35 : 1;
  context.lineWidth = line;
  context.strokeStyle = colour;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  if (source === lit) {
    context.globalAlpha = 0.18;
    context.fillStyle = colour;
    context.fillRect(x1, y1, x2 - x1, y2 - y1);
  }
  context.globalAlpha = 1;
}

/** Labels cover neither each other nor the border; the best have the first choice, and in a crowd some go without. */
function drawLabels(context, marks, lit, unit, canvas) {
  const size = Math.round(13 * unit), pad = Math.round(4 * unit), high = size + pad;
  const taken = [];
  context.font = `600 ${size}px ${FONT}`;
  context.textBaseline = "middle";
  const order = [...marks].sort((a, b) => (b.source === lit) - (a.source === lit));
  for (const mark of order) {
    const [x1, y1, x2, y2] = mark.corners, edge = mark.line / 2;
    for (const text of [`${mark.name} ${mark.score.toFixed(2)}`, mark.name]) {
      const wide = Math.ceil(context.measureText(text).width) + 2 * pad;
      const places = [[x1 - edge, y1 - edge - high], [x1 - edge, y1 - edge], [x2 + edge - wide, y1 - edge - high],
        [x1 - edge, y2 + edge], [x1 - edge, y2 + edge - high]];
      const areas = places.map(([x, y]) => [clamp(x, canvas.width - wide), clamp(y, canvas.height - high), wide, high]);
      const place = areas.find((area) => !taken.some((other) => meets(area, other)))
        ?? (mark.source === lit ? areas[0] : null);
      if (!place) continue;
      taken.push(place);
      writeLabel(context, text, mark, place, pad, lit);
      break;
    }
  }
}

function writeLabel(context, text, { colour, source }, [x, y, wide, high], pad, lit) {
  context.globalAlpha = lit && source !== lit ? 0.35 : 1;
  context.fillStyle = colour;
  context.fillRect(Math.round(x), Math.round(y), wide, high);
  context.fillStyle = isBright(colour) ? "#000" : "#fff";
  context.fillText(text, Math.round(x) + pad, Math.round(y) + high / 2 + pad / 8);
  context.globalAlpha = 1;
}

const clamp = (value, most) => Math.max(0, Math.min(value, most));
const meets = ([ax, ay, aw, ah], [bx, by, bw, bh]) => ax < bx + bw && bx < ax + aw && ay < by + bh && by < ay + ah;

function isBright(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 120;
}
