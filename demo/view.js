// What is on the page: its elements, its words, and the picture with its map.

import { BACKEND_NAMES } from "./backends.js";

/** The page's elements by their id. */
export const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));

const mapContext = element.map.getContext("bitmaprenderer");

// How much of the map each style shows at first: `test` blends by half; a glow leaves most of the picture as it is.
const blends = { glow: 90, heat: 50, gray: 50 };

const SENTENCES = {
  NotAllowedError: "The camera was not allowed. Allow it beside the address of this page, or choose a picture.",
  framed: "The camera was not allowed, by you or by the page around this one: its frame needs allow=\"camera\".",
  NotFoundError: "No camera was found. Connect one, or choose a picture.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a picture.",
  insecure: "Browsers show the camera only to pages that come by https or from this computer. Choose a picture.",
  picture: "This file is no picture that this browser can read. Choose a JPEG, PNG or WebP.",
  film: "This file is no video that this browser can play. Choose an MP4 or WebM.",
  weights: "The network's weights are missing or damaged on the server. Write the page anew with “python main.py demo”.",
  worker: "The page's worker cannot be fetched (offline?), or is not for this browser: try a newer one.",
  config: "The page's settings are missing. It is served by “python main.py demo”, not opened as a file.",
  replaced: "Another picture was chosen before this one's map was there: nothing was saved.",
  noWebAssembly: "This browser has no WebAssembly, so that the network runs in plain JavaScript, and slowly.",
};

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

/** "glow", "heat" or "gray". */
export const chosenStyle = () => chosen("style");

/** How a map is painted: a glow needs the picture below it. */
export const paintedStyle = () => (chosenStyle() === "glow" && chosen("view") === "beside" ? "heat" : chosenStyle());

/** How much of the map is laid over the picture, 0 to 1. */
export const chosenBlend = () => element.blend.value / 100;

/** Keep the slider's value for the style that is chosen. */
export function blend() {
  blends[chosenStyle()] = Number(element.blend.value);
  showBlend();
}

/** Lay the map over the picture or beside it, in the style that is chosen. */
export function arrange() {
  element.panes.dataset.view = chosen("view");
  element.blend.disabled = chosen("view") === "beside";
  showBlend();
}

function showBlend() {
  element.blend.value = blends[chosenStyle()];
  element.blend.ariaValueText = `${element.blend.value} % map, ${100 - element.blend.value} % picture`;
  element.panes.style.setProperty("--blend", chosenBlend());
}

/** Make room for a picture, a film or the camera; the map of what was there before is gone. */
export function makeRoom({ kind, mirrored }, width, height) {
  const live = kind !== "picture";
  element.photo.hidden = live;
  element.video.hidden = !live;
  element["live-controls"].hidden = !live;
  element["rate-row"].hidden = !live;
  element.downloads.hidden = live;
  element.cameras.hidden = kind !== "camera";
  element.panes.toggleAttribute("data-mirrored", Boolean(mirrored));
  element.map.style.visibility = "hidden";
  element.panes.hidden = false;
  fitPanes(width, height);
}

/** Show an image that is decoded already, so that no other is seen in its place. */
export function placePhoto(image, name) {
  image.id = "photo";
  image.alt = `The picture ${name}`;
  element.photo.replaceWith(image);
  element.photo = image;
}

/** Give both panes the shape of what they show. */
export function fitPanes(width, height) {
  element.panes.style.setProperty("--ratio", width / height);
  element.panes.toggleAttribute("data-portrait", height > width);
}

/** Put a painted map on the page. */
export function draw(map, style) {
  Object.assign(element.map, { width: map.width, height: map.height });
  mapContext.transferFromImageBitmap(map);
  element.map.style.visibility = "";
  element.map.dataset.style = style;
}

/** Put a new map on the page, with what is known of it. */
export function show({ map, style, size, milliseconds, tensors }) {
  draw(map, style);
  const frames = 1 + Number(element.map.dataset.frames ?? 0);
  Object.assign(element.map.dataset, { frames, tensors, milliseconds, size: size.join("x") });
  element.shape.textContent = `${size.join(" × ")} pixels`;
  element.milliseconds.textContent = duration(milliseconds);
}

/** Name the network that computes, and what it runs on. */
export function showNetwork({ row, backend, detail }) {
  element.network.textContent = row.name;
  element.backend.textContent = `${BACKEND_NAMES[backend]}${detail ? ` (${detail})` : ""}`;
  element.backend.dataset.backend = backend;
}

/** Say how fast each backend was; `times` in milliseconds by backend. */
export function showTimes(times, size) {
  const phrases = Object.entries(times).map(
    ([backend, time]) => `${BACKEND_NAMES[backend]} ${time < Infinity ? duration(time) : "did not get ready"}`,
  );
  element.measured.textContent = phrases.length ? `Measured at ${size.join(" × ")}: ${phrases.join(", ")}.` : "";
}

function duration(milliseconds) {
  const digits = milliseconds < 10 ? 1 : 0;
  return milliseconds < 1000 ? `${milliseconds.toFixed(digits)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

function put(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

/** Say what is being waited for, or "". */
export const say = (text) => put(element.waiting, text);

/** Say what went wrong, or "". */
export const complain = (kind, otherwise = "") => put(element.problem, SENTENCES[kind] ?? otherwise);

/** Say what is worth knowing, or "". */
export const notify = (text) => put(element.notice, SENTENCES[text] ?? text);

/** Say what an error means. */
export function explain(error) {
  say("");
  complain(error.kind, `Something went wrong: ${error.message}`);
}
