// The page: sources (webcam, picture), views, and what is said of them. The maps come from `worker.js`.

import { BACKEND_NAMES } from "./backends.js";

const SIZE_NAMES = ["Very low", "Low", "Medium", "High", "Very high"];

// Quality at first: a still picture may take its time, a camera may not, and plain JavaScript takes a hundred times it.
const FIRST_QUALITY = { picture: 4, camera: 2 };
const FIRST_QUALITY_IN_JAVASCRIPT = { picture: 0, camera: 0 };

const CAMERA_WISHES = { width: { ideal: 640 }, height: { ideal: 480 } };

// Frames that the rate is averaged over.
const RATE_FRAMES = 12;

const SENTENCES = {
  NotAllowedError: "The camera was not allowed. Allow it beside the address of this page, or choose a picture.",
  NotFoundError: "No camera was found. Connect one, or choose a picture.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a picture.",
  insecure: "Browsers show the camera only to pages that come by https or from this computer. Choose a picture.",
  picture: "This file is no picture that this browser can read. Choose a JPEG, PNG or WebP.",
  weights: "The network's weights are missing or damaged on the server. Write the page anew with “python main.py demo”.",
  config: "The page's settings are missing. It is served by “python main.py demo”, not opened as a file.",
  noWebAssembly: "This browser has no WebAssembly, so that the network runs in plain JavaScript, and slowly.",
};

const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]));
const mapContext = element.map.getContext("bitmaprenderer");

const state = {
  config: null,
  mode: null, // "picture" or "camera"
  quality: FIRST_QUALITY,
  picture: null, // Blob
  name: "",
  stream: null,
  paused: false,
  busy: false, // whether the worker predicts
  again: false, // whether the picture is to be predicted again when it has
  finished: [], // times of the last frames
  ready: Promise.resolve(), // that the network is loaded
};

// --- The worker ------------------------------------------------------------------------------------------------------

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let requests = 0;

worker.onmessage = ({ data }) => {
  if (data.progress !== undefined) {
    say(`Loading the network: ${Math.round(100 * data.progress)} %`);
    return;
  }
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) {
    reject(Object.assign(new Error(data.error), { kind: data.kind }));
  } else {
    resolve(data);
  }
};

worker.onerror = (event) => complain(event.message || "This browser cannot run the page's worker. Try a newer one.");

function ask(type, content = {}, transfer = []) {
  const id = requests++;
  worker.postMessage({ id, type, ...content }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

async function loadNetwork() {
  say("Loading the network");
  element.backend.textContent = "–";
  const network = state.config.networks[element.networks.selectedIndex];
  const requested = element.backends.value;
  const { backend, detail, missing } = await ask("load", { config: state.config, network, backend: requested });
  element.backend.textContent = `${BACKEND_NAMES[backend]}${detail ? ` (${detail})` : ""}`;
  element.backend.dataset.backend = backend;
  if (backend === "cpu") {
    setQuality(FIRST_QUALITY_IN_JAVASCRIPT);
  }
  const slow = backend === "cpu" && requested === "auto" && typeof WebAssembly === "undefined";
  notify(missing || (slow ? SENTENCES.noWebAssembly : ""));
  say("");
}

// Load the network that is chosen, then show again what was shown before.
function reload() {
  complain("");
  state.ready = loadNetwork();
  state.ready.catch(explain);
  refresh();
}

// --- Pictures --------------------------------------------------------------------------------------------------------

async function showPicture(blob, name) {
  complain("");
  const url = URL.createObjectURL(blob);
  const photo = new Image();
  photo.src = url;
  try {
    await photo.decode();
  } catch {
    URL.revokeObjectURL(url);
    complain(SENTENCES.picture);
    return;
  }
  stopCamera();
  URL.revokeObjectURL(element.photo.src);
  Object.assign(state, { picture: blob, name: name.replace(/\.[^.]*$/, "") || "picture" });
  element.photo.src = url;
  element.photo.alt = `The picture ${name}`;
  enter("picture", photo.naturalWidth, photo.naturalHeight);
  await predictPicture();
}

async function predictPicture() {
  if (state.busy) {
    state.again = true;
    return;
  }
  state.busy = true;
  try {
    await state.ready;
    say("Looking");
    const answer = await ask("predict", { source: state.picture, size: chosenSize(), style: chosenStyle(), live: false });
    if (state.mode === "picture") {
      show(answer);
    }
    say("");
  } catch (error) {
    explain(error);
  }
  await free();
}

// The worker is free; a picture that was asked for meanwhile comes next.
async function free() {
  state.busy = false;
  if (state.again && state.mode === "picture") {
    state.again = false;
    await predictPicture();
  }
}

async function save(what) {
  const { blob } = await ask("save", { what, style: chosenStyle(), blend: element.blend.value / 100 });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.name}_${what}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- The camera ------------------------------------------------------------------------------------------------------

async function startCamera(device) {
  complain("");
  if (!navigator.mediaDevices?.getUserMedia) {
    complain(SENTENCES.insecure);
    return;
  }
  try {
    const wishes = { ...CAMERA_WISHES, ...(device && { deviceId: { exact: device } }) };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wishes });
    stopCamera();
    state.stream = stream;
    element.video.srcObject = stream;
    await element.video.play();
  } catch (error) {
    complain(SENTENCES[error.name] ?? `The camera cannot be used: ${error.message}.`);
    return;
  }
  state.stream.getVideoTracks()[0].onended = () => {
    stopCamera();
    complain(SENTENCES.NotFoundError);
  };
  await listCameras();
  enter("camera", element.video.videoWidth, element.video.videoHeight);
  requestAnimationFrame(follow);
}

function stopCamera() {
  state.stream?.getTracks().forEach((track) => track.stop());
  Object.assign(state, { stream: null, paused: false, finished: [] });
  element.video.srcObject = null;
  element["camera-controls"].hidden = true;
  element["rate-row"].hidden = true;
  press(element.camera, false);
  press(element.pause, false);
}

async function listCameras() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const cameras = devices.filter((device) => device.kind === "videoinput");
  const used = state.stream.getVideoTracks()[0].getSettings().deviceId;
  element.cameras.replaceChildren(
    ...cameras.map(({ label, deviceId: id }, i) => new Option(label || `Camera ${i + 1}`, id, false, id === used)),
  );
}

// A new frame goes out only when the last map is back: however slow the network is, nothing piles up.
function follow() {
  if (!state.stream) {
    return;
  }
  if (!state.busy && !state.paused && element.video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
    predictFrame();
  }
  requestAnimationFrame(follow);
}

async function predictFrame() {
  state.busy = true;
  try {
    await state.ready;
    const { videoWidth, videoHeight } = element.video;
    const frame = await createImageBitmap(element.video);
    fitPanes(videoWidth, videoHeight); // A phone may have been turned.
    const answer = await ask("predict", { source: frame, size: chosenSize(), style: chosenStyle(), live: true }, [frame]);
    if (state.mode === "camera") {
      show(answer);
      measureRate();
    }
  } catch (error) {
    if (state.stream) {
      stopCamera();
      explain(error);
    }
  }
  await free();
}

function measureRate() {
  state.finished = [...state.finished, performance.now()].slice(-RATE_FRAMES);
  const [first, last] = [state.finished[0], state.finished.at(-1)];
  if (last > first) {
    const rate = (1000 * (state.finished.length - 1)) / (last - first);
    element.rate.textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} a second`;
  }
}

// --- What is shown ---------------------------------------------------------------------------------------------------

function enter(mode, width, height) {
  state.mode = mode;
  const live = mode === "camera";
  element.photo.hidden = live;
  element.video.hidden = !live;
  element["camera-controls"].hidden = !live;
  element["rate-row"].hidden = !live;
  element.downloads.hidden = live;
  element.panes.toggleAttribute("data-mirrored", live);
  element.map.style.visibility = "hidden"; // The map of the last picture is not that of this one.
  element.panes.hidden = false;
  press(element.camera, live);
  fitPanes(width, height);
  setQuality(state.quality);
}

function setQuality(quality) {
  state.quality = quality;
  document.querySelector(`#sizes input[value="${quality[state.mode ?? "picture"]}"]`).checked = true;
}

function fitPanes(width, height) {
  element.panes.style.setProperty("--ratio", width / height);
  element.panes.toggleAttribute("data-portrait", height > width);
}

function show({ map, style, size, milliseconds, tensors }) {
  draw(map, style);
  element.map.dataset.frames = 1 + Number(element.map.dataset.frames ?? 0);
  element.map.dataset.tensors = tensors;
  element.map.dataset.milliseconds = milliseconds;
  element.map.dataset.size = size.join("x");
  element.shape.textContent = `${size.join(" × ")} pixels`;
  const seconds = `${(milliseconds / 1000).toFixed(1)} s`;
  element.milliseconds.textContent = milliseconds < 1000 ? `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms` : seconds;
}

function draw(map, style) {
  Object.assign(element.map, { width: map.width, height: map.height });
  mapContext.transferFromImageBitmap(map);
  element.map.style.visibility = "";
  element.map.dataset.style = style;
}

async function restyle() {
  const { map, style } = await ask("style", { style: chosenStyle() });
  if (map) {
    draw(map, style);
  }
}

function refresh() {
  if (state.mode === "picture") {
    predictPicture();
  }
}

const chosenSize = () => state.config.sizes[state.quality[state.mode]];
const chosenStyle = () => document.querySelector("input[name=style]:checked").value;

function say(text) {
  element.waiting.textContent = text;
  element.waiting.hidden = !text;
}

function complain(text) {
  element.problem.textContent = text;
  element.problem.hidden = !text;
}

function notify(text) {
  element.notice.textContent = text;
  element.notice.hidden = !text;
}

function explain(error) {
  say("");
  complain(SENTENCES[error.kind] ?? `Something went wrong: ${error.message}`);
}

const press = (button, pressed) => button.setAttribute("aria-pressed", pressed);

// --- Controls --------------------------------------------------------------------------------------------------------

function connectControls() {
  element.camera.onclick = () => (state.stream ? leaveCamera() : startCamera());
  element.choose.onclick = () => element.file.click();
  element.file.onchange = () => takeFiles(element.file.files);
  element.cameras.onchange = () => startCamera(element.cameras.value);
  element.pause.onclick = () => pause(!state.paused);
  element["save-map"].onclick = () => save("map").catch(explain);
  element["save-overlay"].onclick = () => save("overlay").catch(explain);
  element.blend.oninput = () => element.panes.style.setProperty("--blend", element.blend.value / 100);
  element.networks.onchange = reload;
  element.backends.onchange = reload;
  document.querySelector("form").onsubmit = (event) => event.preventDefault();
  for (const input of document.querySelectorAll("input[name=style]")) {
    input.onchange = restyle;
  }
  for (const input of document.querySelectorAll("input[name=view]")) {
    input.onchange = () => {
      element.panes.dataset.view = input.value;
      element.blend.disabled = input.value === "beside";
    };
  }
  connectDropAndPaste();
}

function connectDropAndPaste() {
  document.ondragover = (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.ondragleave = (event) => {
    if (!event.relatedTarget) {
      document.body.classList.remove("dropping");
    }
  };
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    takeFiles(event.dataTransfer.files);
  };
  document.onpaste = (event) => takeFiles(event.clipboardData.files);
}

function takeFiles(files) {
  if (files.length) {
    showPicture(files[0], files[0].name).catch(explain);
  }
  element.file.value = ""; // So that the same file can be chosen again.
}

function leaveCamera() {
  stopCamera();
  if (state.picture) {
    enter("picture", element.photo.naturalWidth, element.photo.naturalHeight);
    predictPicture();
  } else {
    state.mode = null;
    element.panes.hidden = true;
  }
}

function pause(paused) {
  state.paused = paused;
  state.finished = [];
  press(element.pause, paused);
  element.pause.textContent = paused ? "Go on" : "Pause";
  if (paused) {
    element.video.pause();
  } else {
    element.video.play();
  }
}

function listSizes() {
  const choices = state.config.sizes.map((sides, i) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "size", value: i });
    const text = Object.assign(document.createElement("span"), { textContent: SIZE_NAMES[i] });
    label.title = sides.join(" × ");
    label.append(input, text);
    input.onchange = () => {
      setQuality({ ...state.quality, [state.mode ?? "picture"]: i });
      refresh();
    };
    return label;
  });
  element.sizes.replaceChildren(...choices);
}

function listNetworks() {
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  element.networks.replaceChildren(
    ...state.config.networks.map(({ name, bytes }) => new Option(`${name}, ${megabytes(bytes)}`)),
  );
}

async function begin() {
  connectControls();
  try {
    state.config = await (await fetch("config.json")).json();
  } catch {
    say("");
    complain(SENTENCES.config);
    return;
  }
  listSizes();
  setQuality(FIRST_QUALITY);
  listNetworks();
  element.backends.value = new URLSearchParams(location.search).get("backend") ?? "auto";
  reload();
  const example = await fetch("example.jpg");
  if (example.ok && !state.mode) {
    await showPicture(await example.blob(), "example.jpg");
  }
}

begin();
