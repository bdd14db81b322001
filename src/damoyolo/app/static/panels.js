// The lists beside the picture, and the model card.

import { setToken } from "./api.js";

const MOST_LISTED = 200;
const MANY_CLASSES = 10;

export const element = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function swatch(colour) {
  const made = make("span", { className: "swatch" });
  made.style.background = colour;
  return made;
}

/** The classes with a box each to tick; those in the picture come first. */
export class ClassList {
  constructor(classes, onChange) {
    this.hidden = new Set();
    this.classes = classes;
    this.onChange = onChange;
    this.rows = classes.map(({ name, colour }, label) => this.#row(name, colour, label));
    const search = element("search");
    search.hidden = classes.length <= MANY_CLASSES;
    search.addEventListener("input", () => this.#filter(search.value.trim().toLowerCase()));
    element("all").addEventListener("click", () => this.#set(() => true));
    element("none").addEventListener("click", () => this.#set(() => false));
    this.order([]);
  }

  /** Classes that might be in the picture come first. */
  order(detections) {
    const seen = new Set(detections.map(({ label }) => label));
    const sorted = [...this.rows].sort((a, b) => seen.has(b.label) - seen.has(a.label) || a.label - b.label);
    element("classes").replaceChildren(...sorted.map(({ item }) => item));
  }

  count(boxes) {
    const counts = new Array(this.classes.length).fill(0);
    for (const { label } of boxes) counts[label]++;
    for (const { label, count } of this.rows) count.textContent = counts[label] || "";
  }

  #row(name, colour, label) {
    const tick = make("input", { type: "checkbox", checked: true });
    const count = make("span", { className: "count" });
    tick.addEventListener("change", () => {
      if (tick.checked) this.hidden.delete(label);
      else this.hidden.add(label);
      this.onChange();
    });
    const text = make("span", { className: "name", textContent: name, title: name });
    const item = make("li", {}, make("label", {}, tick, swatch(colour), text, count));
    return { item, tick, count, label, name };
  }

  #set(wanted) {
    for (const { item, tick, label } of this.rows) {
      if (item.hidden) continue;
      tick.checked = wanted(label);
      if (tick.checked) this.hidden.delete(label);
      else this.hidden.add(label);
    }
    this.onChange();
  }

  #filter(text) {
    for (const { item, name } of this.rows) item.hidden = !name.toLowerCase().includes(text);
  }
}

/** What was found, best first; the one under the pointer or focus is lit in the picture. */
export function listFound(boxes, colours, light) {
  const shown = boxes.slice(0, MOST_LISTED).map((each) => {
    const text = make("span", { className: "name", textContent: each.name });
    const score = make("span", { className: "count", textContent: each.score.toFixed(2) });
    const button = make("button", { type: "button" }, swatch(colours[each.label]), text, score);
    for (const event of ["mouseenter", "focus"]) button.addEventListener(event, () => light(each));
    for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => light(null));
    return make("li", {}, button);
  });
  if (boxes.length > shown.length) {
    shown.push(make("li", { className: "soft", textContent: `and ${boxes.length - shown.length} more` }));
  }
  if (!shown.length) shown.push(make("li", { className: "soft", textContent: "–" }));
  element("found").replaceChildren(...shown);
}

/** The model in a word at the top, and in full behind it. */
export function showModel(model) {
  const chip = element("model-chip");
  chip.textContent = `${model.name} · ${count(model.classes.length, "class", "classes")}`;
  chip.addEventListener("click", () => element("card").showModal());
  element("card-title").textContent = model.name;
  const [height, width] = model.image_size;
  const overlap = model.nms_fixed ? `${model.nms_iou}, in the file` : String(model.nms_iou);
  const facts = {
    Weights: model.weights,
    Engine: `${model.engine}, ${model.precision}`,
    Input: `${width} × ${height} pixels, ${model.resize}`,
    Parameters: model.parameters && `${(model.parameters / 1e6).toFixed(2)} million`,
    AP: model.ap ? `${model.ap.value.toFixed(3)} on ${model.ap.of}` : "not recorded; `damoyolo evaluate` measures it",
    Classes: `${model.classes.length}: ${model.classes.map(({ name }) => name).join(", ")}`,
    Overlap: overlap,
    Licence: model.licence,
    Origin: Object.entries(model.lineage).map(([key, value]) => `${key} ${told(value)}`).join(", "),
    damoyolo: model.damoyolo,
  };
  const rows = Object.entries(facts).filter(([, value]) => value);
  element("card-facts").replaceChildren(
    ...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]),
  );
  element("card-spec").textContent = model.spec ? JSON.stringify(model.spec, null, 1) : "not recorded in the file";
}

/** Ask the reader for the token, and keep it. */
export function askForToken() {
  const dialog = element("ask");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(setToken(element("token").value)), { once: true });
  });
}

const told = (value) => (typeof value === "object" ? JSON.stringify(value) : value);
const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;
