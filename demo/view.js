// The page's elements and texts, and the picture with its map.

import { BACKEND_NAMES } from "./backends.js";

/** The page's elements by their id. */
export const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

const mapContext = element.map.getContext("bitmaprenderer");

// The initial opacity of the map for each style: `test` blends by half; a glow leaves most of the picture unchanged.
const FIRST_BLENDS = { glow: 90, heat: 50, gray: 50, slider: 50 };
const blends = { ...FIRST_BLENDS };

const SENTENCES = {
  NotAllowedError: "The camera was not allowed. Allow it next to the address of this page, or choose a picture.",
  framed: "The camera was not allowed, by you or by the page around this one: its frame needs allow=\"camera\".",
  NotFoundError: "No camera was found. Connect one, or choose a picture.",
  NotReadableError: "The camera is in use by another program. Close that program, or choose a picture.",
  insecure: "Browsers allow the camera only on pages from https addresses or from this computer. Choose a picture.",
  picture: "This browser cannot read this file as a picture. Choose a JPEG, PNG or WebP.",
  film: "This browser cannot play this file as a video; not every MP4 plays. MP4 with H.264, or WebM, plays in all browsers.",
  recording: "This browser cannot record videos. Try a newer one.",
  weights: "The network's weights are missing or damaged on the server. Write the page again with the program's command “demo”.",
  worker: "The page's worker cannot be fetched (offline?), or this browser does not support it: try a newer browser.",
  config: "The page's settings are missing. Serve it with the program's command “demo”; it does not work when opened as a file.",
  replaced: "Another picture was chosen before the map was ready: nothing was saved.",
  noWebAssembly: "This browser has no WebAssembly, so the network runs slowly, in plain JavaScript.",
};

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

/** "glow", "heat" or "gray". */
export const chosenStyle = () => chosen("style");

/** The style of the map on the page: a glow needs the picture below it. */
export const paintedStyle = () => (chosenStyle() === "glow" && chosen("view") === "beside" ? "heat" : chosenStyle());

/** The chosen opacity of the map over the picture, 0 to 1. */
export const chosenBlend = () => blends[chosenStyle()] / 100;

// What the slider sets: the line between picture and map, or the opacity of the map in the chosen style.
const blended = () => (chosen("view") === "slider" ? "slider" : chosenStyle());

/** Keep the slider's value. */
export function blend() {
  blends[blended()] = Number(element.blend.value);
  showBlend();
}

/** Show the map over the picture or next to it, in the chosen style. */
export function arrange() {
  element.panes.dataset.view = chosen("view");
  element.blend.disabled = chosen("view") === "beside";
  showBlend();
}

/** Set view, style and slider as they were at first. */
export function resetView() {
  document.querySelector("form").reset();
  Object.assign(blends, FIRST_BLENDS);
  arrange();
}

function showBlend() {
  const value = blends[blended()];
  element.blend.value = value;
  element.blend.ariaValueText =
    blended() === "slider" ? `Map right of ${value} %` : `${value} % map, ${100 - value} % picture`;
  element.panes.style.setProperty("--blend", chosenBlend());
  element.panes.style.setProperty("--split", `${100 - blends.slider}%`);
}

/** Color the legend like the map. */
export function showLegend(colors) {
  const steps = paintedStyle() === "gray" ? ["#000", "#fff"] : [0, 32, 64, 96, 128, 160, 192, 224, 255].map(
    (value) => `rgb(${colors[value].join(" ")})`,
  );
  element.ramp.style.background = `linear-gradient(to right, ${steps.join(", ")})`;
}

/** A size of [height, width] as people write it: width first. */
export const wide = ([height, width], times = " × ") => `${width}${times}${height}`;

/** Prepare the page for a picture, a film or the camera, and hide the previous map. */
export function prepare({ kind, mirrored }, width, height) {
  const live = kind !== "picture";
  element.photo.hidden = live;
  element.video.hidden = !live;
  element["live-controls"].hidden = !live;
  element["rate-row"].hidden = !live;
  element.downloads.hidden = live;
  element.cameras.parentElement.hidden = kind !== "camera";
  element.panes.toggleAttribute("data-mirrored", Boolean(mirrored));
  element.map.style.visibility = "hidden";
  element.panes.hidden = false;
  fitPanes(width, height);
}

/** Show a decoded image, so the previous one disappears at once. */
export function placePhoto(image, name) {
  image.id = "photo";
  image.alt = `The picture ${name}`;
  element.photo.replaceWith(image);
  element.photo = image;
}

/** Give both panes the aspect ratio of the source. */
export function fitPanes(width, height) {
  element.panes.style.setProperty("--ratio", width / height);
  element.panes.toggleAttribute("data-portrait", height > width);
}

/** Show a painted map. */
export function draw(map, style) {
  Object.assign(element.map, { width: map.width, height: map.height });
  mapContext.transferFromImageBitmap(map);
  element.map.style.visibility = "";
  element.map.dataset.style = style;
}

/** Show a new map, its size and its time. */
export function show({ map, style, size, milliseconds, tensors }, source) {
  draw(map, style);
  const frames = 1 + Number(element.map.dataset.frames ?? 0);
  Object.assign(element.map.dataset, { frames, tensors, milliseconds, size: size.join("x") });
  element.shape.textContent = wide(size);
  element.saved.textContent = `${wide([source.height, source.width])} pixels`;
  element.milliseconds.textContent = duration(milliseconds);
  element.map.dispatchEvent(new Event("mapped"));
}

/** Show the network's name and its backend. */
export function showNetwork({ row, backend, detail }) {
  element.network.textContent = row.name;
  element.backend.textContent = `${BACKEND_NAMES[backend]}${detail ? ` (${detail})` : ""}`;
  element.backend.dataset.backend = backend;
}

/** Show how fast each backend was; `times` are milliseconds by backend. */
export function showTimes(times, size) {
  const phrases = Object.entries(times).map(
    ([backend, time]) => `${BACKEND_NAMES[backend]} ${time < Infinity ? duration(time) : "did not start in time"}`,
  );
  element.measured.textContent = phrases.length ? `Measured at ${wide(size)}: ${phrases.join(", ")}.` : "";
}

function duration(milliseconds) {
  const digits = milliseconds < 10 ? 1 : 0;
  return milliseconds < 1000 ? `${milliseconds.toFixed(digits)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

function put(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

/** Show what the page waits for, or "". */
export const say = (text) => put(element.waiting, text);

/** Show an error, or "". */
export const complain = (kind, otherwise = "") => put(element.problem, SENTENCES[kind] ?? otherwise);

/** Show a notice, or "". */
export const notify = (text) => put(element.notice, SENTENCES[text] ?? text);

/** Show the explanation of an error. */
export function explain(error) {
  say("");
  complain(error.kind, `Something went wrong: ${error.message}`);
}
