// The page: pictures come in, the server says what may be in them, and the sliders choose what is shown.

import { Problem, ask, predict, takeToken } from "./api.js";
import { boxAt, summarize, visible } from "./boxes.js";
import { Camera } from "./camera.js";
import { paint } from "./drawing.js";
import { ClassList, askForToken, element, listFound, make, showModel } from "./panels.js";
import { setUpTheme } from "./theme.js";

const FLOOR = 0.05; // the lowest score that a slider can ask for
const LOOSEST = 0.9; // the largest overlap that a slider can ask for
const MOST_PICTURES = 100;
const LARGEST_SCALE = 4;

const canvas = element("canvas"), view = element("view");
const sliders = { score: element("score"), overlap: element("overlap") };
const camera = new Camera();
const pictures = [];
let model, classes, colours, current = null, shown = [], lit = null, working = 0;

start();

async function start() {
  setUpTheme(element("theme"));
  takeToken();
  try {
    model = await ask("model");
  } catch (problem) {
    if (problem.status === 401) {
      await askForToken();
      return start();
    }
    return complain(problem);
  }
  complain(null);
  colours = model.classes.map(({ colour }) => colour);
  showModel(model);
  classes = new ClassList(model.classes, render);
  sliders.overlap.max = model.nms_fixed ? model.nms_iou : Math.max(LOOSEST, model.nms_iou);
  sliders.overlap.value = model.nms_iou;
  listen();
  render();
}

function listen() {
  for (const slider of Object.values(sliders)) slider.addEventListener("input", render);
  for (const id of ["open", "empty"]) element(id).addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", ({ target }) => {
    take([...target.files]);
    target.value = "";
  });
  element("camera").addEventListener("click", () => (camera.isOn ? stopCamera() : startCamera()));
  element("save-picture").addEventListener("click", savePicture);
  element("save-json").addEventListener("click", saveJson);
  new ResizeObserver(fit).observe(view);
  listenForDrops();
  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
    const scale = current.image.width / canvas.clientWidth;
    light(boxAt(shown, offsetX * scale, offsetY * scale));
  });
  canvas.addEventListener("pointerleave", () => light(null));
  addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));
  addEventListener("keydown", ({ key, target }) => {
    if (target.matches("input, dialog *") || document.querySelector("dialog[open]")) return;
    if (key === "Escape" && camera.isOn) stopCamera();
    if (key === "ArrowLeft" || key === "ArrowRight") step(key === "ArrowRight" ? 1 : -1);
  });
}

function listenForDrops() {
  let depth = 0; // of elements that a drag has entered and not left
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    element("drop").hidden = !depth;
  };
  addEventListener("dragenter", () => mark(1));
  addEventListener("dragleave", () => mark(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    mark(-depth);
    take([...event.dataTransfer.files]);
  });
}

/** Look at image files, one after the other, and show each. */
async function take(files) {
  if (!files.length) return;
  stopCamera();
  complain(null);
  for (const file of files) {
    try {
      const image = await createImageBitmap(file).catch(() => {
        throw new Problem(0, `${file.name}: is no image that this browser can show; take a JPEG, PNG or WebP`);
      });
      add({ name: file.name || "pasted", image, ...(await look(file)) });
    } catch (problem) {
      complain(problem, file.name);
    }
  }
}

/** Everything that may be in an image file, and how long that took. */
async function look(blob) {
  element("busy").hidden = !++working;
  const overlap = model.nms_fixed ? null : Number(sliders.overlap.max);
  const begun = performance.now();
  try {
    const said = await predict(blob, { score: FLOOR, overlap });
    return { ...said, round_ms: performance.now() - begun };
  } finally {
    element("busy").hidden = !--working;
  }
}

function add(picture) {
  pictures.push(picture);
  if (pictures.length > MOST_PICTURES) forget(pictures.shift());
  const small = make("canvas", { width: 166, height: 128 });
  const scale = Math.max(small.width / picture.image.width, small.height / picture.image.height);
  const size = [picture.image.width * scale, picture.image.height * scale];
  const [x, y] = [(small.width - size[0]) / 2, (small.height - size[1]) / 2];
  small.getContext("2d").drawImage(picture.image, x, y, ...size);
  picture.button = make("button", { type: "button", title: picture.name }, small);
  picture.button.setAttribute("aria-label", picture.name);
  picture.button.addEventListener("click", () => show(picture));
  element("strip").append(picture.button);
  element("strip").hidden = pictures.length < 2;
  show(picture);
}

function forget(picture) {
  picture.button.remove();
  picture.image.close();
}

function step(by) {
  const next = pictures[pictures.indexOf(current) + by];
  if (next) show(next);
}

function show(picture) {
  stopCamera();
  current = picture;
  for (const each of pictures) each.button.setAttribute("aria-current", each === current);
  element("strip").scrollTo({ left: picture.button.offsetLeft - element("strip").clientWidth / 2 });
  classes.order(picture.detections);
  fit();
}

async function startCamera() {
  complain(null);
  element("camera").setAttribute("aria-pressed", "true");
  element("camera").textContent = "Stop camera";
  let frames = 0;
  try {
    await camera.start(async (image, jpeg) => {
      const said = await look(jpeg);
      if (!camera.isOn) return image.close();
      const before = current;
      for (const each of pictures) each.button.setAttribute("aria-current", "false");
      current = { name: `camera-${++frames}`, image, ...said };
      if (before && !pictures.includes(before)) before.image.close();
      fit();
    });
  } catch (problem) {
    const denied = problem.name === "NotAllowedError" || problem.name === "NotFoundError";
    complain(denied ? new Error("There is no camera, or this page may not use it.") : problem);
  }
  stopCamera();
}

function stopCamera() {
  camera.stop();
  element("camera").setAttribute("aria-pressed", "false");
  element("camera").textContent = "Camera";
}

/** Make the canvas as large as there is room for, in the screen's own pixels. */
function fit() {
  if (!current) return;
  element("empty").hidden = true;
  canvas.hidden = false;
  const { width, height } = current.image;
  const scale = Math.min(view.clientWidth / width, Math.max(240, 0.68 * innerHeight) / height, LARGEST_SCALE);
  const sides = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  const dots = devicePixelRatio || 1;
  [canvas.width, canvas.height] = sides.map((side) => Math.round(side * dots));
  [canvas.style.width, canvas.style.height] = sides.map((side) => `${side}px`);
  render();
}

/** Choose and draw: no question to the server. */
function render() {
  for (const [name, slider] of Object.entries(sliders)) {
    element(`${name}-value`).textContent = Number(slider.value).toFixed(2);
  }
  if (!current) return;
  shown = visible(current.detections, choice());
  if (!shown.includes(lit)) lit = null;
  classes.count(shown);
  listFound(shown, colours, light);
  draw();
  const text = summarize(shown);
  element("summary").textContent = text;
  canvas.setAttribute("aria-label", `${current.name}: ${text}`);
  for (const id of ["save-picture", "save-json"]) element(id).disabled = false;
  const { width, height, ms } = current;
  element("facts").textContent =
    `${current.name} · ${width} × ${height} · network ${told(ms.network)} · server ${told(ms.total)} · ` +
    `round trip ${told(current.round_ms)}`;
}

function choice() {
  return { score: Number(sliders.score.value), overlap: Number(sliders.overlap.value), hidden: classes.hidden };
}

function draw() {
  paint(canvas, current.image, shown, { unit: canvas.width / canvas.clientWidth, colours, lit });
}

function light(box) {
  if (box === lit) return;
  lit = box;
  const rows = element("found").querySelectorAll("button");
  rows.forEach((row, at) => row.classList.toggle("lit", shown[at] === lit));
  draw();
}

/** In the picture's own pixels. */
async function savePicture() {
  const whole = make("canvas", { width: current.image.width, height: current.image.height });
  const unit = Math.max(1, (whole.width + whole.height) / 1600);
  paint(whole, current.image, shown, { unit, colours });
  const blob = await new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  save(blob, `${stem(current.name)}.boxes.png`);
}

/** As `damoyolo predict --json` prints them: a list with every picture. */
function saveJson() {
  const all = pictures.includes(current) ? pictures : [current];
  const records = all.map(({ name, width, height, detections }) => {
    return { image: name, width, height, detections: visible(detections, choice()) };
  });
  const name = all.length > 1 ? "detections.json" : `${stem(current.name)}.json`;
  save(new Blob([JSON.stringify(records, null, 1)], { type: "application/json" }), name);
}

function save(blob, name) {
  const href = URL.createObjectURL(blob);
  make("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

function complain(problem, name = "") {
  const text = problem ? problem.message : "";
  element("error").hidden = !text;
  element("error").textContent = name && !text.startsWith(name) ? `${name}: ${text}` : text;
}

const stem = (name) => name.replace(/\.[^.]*$/, "");
const told = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
