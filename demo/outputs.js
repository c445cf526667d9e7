// What leaves the page: files, the clipboard, the device's share menu, and recorded videos.

import { bare, state } from "./maps.js";
import * as view from "./view.js";

const { element, complain, explain, notify } = view;

// The first format that the browser can record. MP4 opens in more programs.
const VIDEO_TYPES = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm"];

/** Connect the buttons. */
export function connectOutputs() {
  element["save-map"].onclick = () => save("map").catch(explain);
  element["save-overlay"].onclick = () => save("overlay").catch(explain);
  element.copy.onclick = () => copy().catch(explain);
  element.copy.onblur = () => (element.copy.textContent = "Copy");
  element.share.onclick = () => share().catch(explain);
  element.share.hidden = !navigator.canShare;
  element.record.onclick = () => (recorder ? recorder.stop() : record());
}

// The map or the overlay on the page as a PNG, as soon as the map exists; null if another picture was chosen before.
async function picture(what) {
  complain("");
  await state.opening;
  const result = await state.coming;
  if (!result) {
    notify("replaced");
    return null;
  }
  const { blob, name } = result.source;
  const style = what === "map" && view.chosenStyle() === "glow" ? "heat" : view.chosenStyle();
  const content = { what, result: bare(result), picture: blob, style, blend: view.chosenBlend() };
  const answer = await state.network.ask("save", content);
  return { blob: answer.blob, name: `${name}_${what}.png` };
}

async function save(what) {
  const found = await picture(what);
  if (found) {
    download(found.blob, found.name);
  }
}

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Browsers require that writing starts with the click, so the picture is passed as a promise.
async function copy() {
  const blob = picture("overlay").then((found) => found?.blob ?? Promise.reject(new Error("there is no map yet")));
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
  element.copy.textContent = "Copied";
}

async function share() {
  const found = await picture("overlay");
  const files = found && [new File([found.blob], found.name, { type: "image/png" })];
  if (files && navigator.canShare({ files })) {
    await navigator.share({ files }).catch((error) => error.name === "AbortError" || Promise.reject(error));
  }
}

// --- Videos ----------------------------------------------------------------------------------------------------------

let recorder = null;

/** End the recording, if there is one, and save it. */
export const stopRecording = () => recorder?.stop();

// Record the film or camera with its map as the page shows them; a film from its start to its end.
function record() {
  const { source } = state;
  const type = VIDEO_TYPES.find((candidate) => globalThis.MediaRecorder?.isTypeSupported(candidate));
  if (!type) {
    complain("recording");
    return;
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: source.width, height: source.height });
  const context = canvas.getContext("2d");
  const parts = [];
  const mine = new MediaRecorder(canvas.captureStream(), { mimeType: type });
  recorder = mine;
  mine.ondataavailable = ({ data }) => parts.push(data);
  mine.onstop = () => {
    recorder = null;
    Object.assign(element.video, { loop: true, onended: null });
    if (source === state.source) {
      element.video.play().catch(() => {});
    }
    label();
    const suffix = type.startsWith("video/mp4") ? "mp4" : "webm";
    download(new Blob(parts, { type: type.split(";")[0] }), `${source.name}_overlay.${suffix}`);
  };
  const draw = () => {
    if (recorder === mine) {
      context.globalAlpha = 1;
      context.drawImage(element.video, 0, 0, canvas.width, canvas.height);
      context.globalAlpha = view.chosenBlend();
      context.drawImage(element.map, 0, 0, canvas.width, canvas.height);
      requestAnimationFrame(draw);
    }
  };
  if (source.kind === "film") {
    Object.assign(element.video, { currentTime: 0, loop: false, onended: () => mine.stop() });
  }
  mine.start();
  draw();
  label();
}

function label() {
  element.record.textContent = recorder ? "Stop and save" : "Record";
  element.record.classList.toggle("on", Boolean(recorder));
}
