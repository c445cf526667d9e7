// The source on the page: a picture, a film, or the camera.

import { setArea } from "./area.js";
import { busy, nameQualities, predictPicture, request, setQuality, state } from "./maps.js";
import { stopRecording } from "./outputs.js";
import { addPicture, markPicture, offerExamples } from "./pictures.js";
import * as view from "./view.js";

const { element, complain, explain } = view;

const CAMERA_PREFERENCES = { width: { ideal: 640 }, height: { ideal: 480 } };

// If a camera's settings do not tell its direction, its name may.
const REAR_CAMERA = /back|rear|environment/i;

// The frame rate is an average over so many frames.
const RATE_FRAMES = 12;

const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

let turn = 0; // The number of the last choice: earlier ones that are still opening are dropped.

let failed = 0; // The turn without anything to show: the first, or that of a choice that failed.

export function takeFiles(files) {
  const [first] = files;
  if (first) {
    const pictures = [...files].filter(({ type }) => type.startsWith("image/"));
    pictures.forEach((file) => addPicture(file, file.name, openPicture));
    const open = first.type.startsWith("video/") ? showFilm : showPicture;
    state.opening = open(first, first.name).catch(explain);
  }
  element.file.value = ""; // So that the same file can be chosen again.
}

function openPicture(blob, name) {
  state.opening = showPicture(blob, name).catch(explain);
}

async function showPicture(blob, name, keepComplaint = false) {
  const mine = ++turn;
  if (!keepComplaint) {
    complain("");
  }
  const image = Object.assign(new Image(), { src: URL.createObjectURL(blob) });
  const readable = await image.decode().then(() => true, () => false);
  URL.revokeObjectURL(image.src);
  if (mine !== turn) {
    return;
  }
  if (!readable) {
    complain("picture");
    return;
  }
  stopLive();
  const { naturalWidth: width, naturalHeight: height } = image;
  state.picture = { kind: "picture", blob, name: stem(name), width, height };
  view.placePhoto(image, name);
  enter(state.picture, width, height);
  predictPicture();
  markPicture(blob);
}

// The example is shown until the user has chosen something that can be shown.
let example = null;

export async function offerExample(blob) {
  example = blob;
  offerExamples(blob, openPicture);
  if (turn === failed) {
    await showPicture(example, "example.jpg", failed > 0);
  }
}

async function showFilm(file) {
  const mine = ++turn;
  complain("");
  stopLive();
  const url = URL.createObjectURL(file);
  element.video.src = url;
  await startLive({ kind: "film", url, name: stem(file.name) }, mine).catch(() => failLive(mine, "film"));
}

export async function startCamera(device) {
  const mine = ++turn;
  complain("");
  if (!navigator.mediaDevices?.getUserMedia) {
    failLive(mine, "insecure");
    return;
  }
  stopLive(); // Many phones allow only one camera at a time.
  try {
    const preferences = { ...CAMERA_PREFERENCES, ...(device && { deviceId: { exact: device } }) };
    const stream = await navigator.mediaDevices.getUserMedia({ video: preferences });
    if (mine !== turn) {
      stopTracks(stream);
      return;
    }
    element.video.srcObject = stream;
    const source = { kind: "camera", name: "camera", stream, mirrored: !isRear(stream.getVideoTracks()[0]) };
    await startLive(source, mine);
    stream.getVideoTracks()[0].onended = () => failLive(mine, "NotFoundError");
    await listCameras(stream);
  } catch (error) {
    const framed = error.name === "NotAllowedError" && window !== window.top;
    failLive(mine, framed ? "framed" : error.name, `The camera cannot be used: ${error.message}.`);
  }
}

// A front camera is mirrored like a mirror, a rear camera is not.
function isRear(track) {
  const { facingMode } = track.getSettings();
  return facingMode ? facingMode === "environment" : REAR_CAMERA.test(track.label);
}

async function startLive(source, mine) {
  state.source = source; // The next source stops it.
  await element.video.play();
  if (mine === turn) {
    element.camera.querySelector("span").textContent = source.kind === "camera" ? "Stop the webcam" : "Use the webcam";
    element.camera.classList.toggle("on", source.kind === "camera");
    enter(source, element.video.videoWidth, element.video.videoHeight);
    requestAnimationFrame(() => follow(source));
  }
}

function failLive(mine, kind, otherwise) {
  if (mine === turn) {
    leaveLive();
    complain(kind, otherwise);
    if (!state.picture) {
      failed = turn;
      if (example) {
        showPicture(example, "example.jpg", true);
      }
    }
  }
}

function stopLive() {
  if (state.source?.kind === "picture") {
    return;
  }
  stopRecording();
  stopTracks(state.source?.stream);
  URL.revokeObjectURL(state.source?.url);
  Object.assign(state, { source: null, result: null, finished: [] });
  element.video.srcObject = null;
  element.video.removeAttribute("src");
  element.video.load();
  element.camera.querySelector("span").textContent = "Use the webcam";
  element.camera.classList.remove("on");
  pause(false);
}

const stopTracks = (stream) => stream?.getTracks().forEach((track) => track.stop());

// Return to the last picture, if there was one.
export function leaveLive() {
  turn++;
  if (state.source && state.source === state.picture) {
    return;
  }
  stopLive();
  if (state.picture) {
    enter(state.picture, state.picture.width, state.picture.height);
    predictPicture();
  } else {
    element.panes.hidden = true;
    element["live-controls"].hidden = true;
  }
}

async function listCameras(stream) {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const cameras = devices.filter((device) => device.kind === "videoinput");
  const used = stream.getVideoTracks()[0].getSettings().deviceId;
  element.cameras.replaceChildren(
    ...cameras.map(({ label, deviceId: id }, i) => new Option(label || `Camera ${i + 1}`, id, false, id === used)),
  );
}

// Send a new frame only when the last map has arrived, so frames do not queue up if the network is slow.
function follow(source) {
  if (source !== state.source) {
    return;
  }
  const { readyState, videoWidth, videoHeight } = element.video;
  if (!busy && (!state.paused || state.stale) && readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
    state.stale = false;
    Object.assign(source, { width: videoWidth, height: videoHeight }); // The phone may have been rotated.
    view.fitPanes(videoWidth, videoHeight);
    request(source).then((result) => result && measureRate(), (error) => {
      if (source === state.source) {
        leaveLive();
        explain(error);
      }
    });
  }
  requestAnimationFrame(() => follow(source));
}

function measureRate() {
  state.finished = [...state.finished, performance.now()].slice(-RATE_FRAMES);
  const [first, last] = [state.finished[0], state.finished.at(-1)];
  if (last > first) {
    const rate = (1000 * (state.finished.length - 1)) / (last - first);
    element.rate.textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} per second`;
  }
}

export function pause(paused) {
  Object.assign(state, { paused, stale: false, finished: [] });
  element.pause.classList.toggle("on", paused);
  element.pause.textContent = paused ? "Resume" : "Pause";
  if (paused) {
    element.video.pause();
  } else if (state.source) {
    element.video.play().catch(() => {}); // The source has been removed in the meantime.
  }
}

/** Return to the example. */
export function showExample() {
  leaveLive();
  if (example) {
    openPicture(example, "example.jpg");
  }
}

function enter(source, width, height) {
  Object.assign(source, { width, height });
  Object.assign(state, { source, result: null });
  setArea(null);
  view.prepare(source, width, height);
  setQuality(state.quality);
  nameQualities();
}
