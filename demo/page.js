// The page: what is looked at (a picture, a film, the camera), and the controls. The maps come from `network.js`.
//
// `state.source` is what is looked at. Each result carries the source it belongs to, and is shown, saved and named with
// that one only, whatever was chosen meanwhile.

import { Network, candidatesFor, findFastest } from "./network.js";
import * as view from "./view.js";

const { element, say, complain, explain, notify } = view;

const SIZE_NAMES = ["Very low", "Low", "Medium", "High", "Very high"];

// Quality at first: a still picture may take its time, a camera may not, and plain JavaScript takes a hundred times it.
const FIRST_QUALITY = { picture: 4, live: 2 };
const FIRST_QUALITY_IN_JAVASCRIPT = { picture: 0, live: 0 };

const CAMERA_WISHES = { width: { ideal: 640 }, height: { ideal: 480 } };

// Where a camera's settings do not say which way it looks, its name may.
const REAR_CAMERA = /back|rear|environment/i;

// Frames that the rate is averaged over.
const RATE_FRAMES = 12;

const state = {
  config: null,
  network: null,
  ready: Promise.resolve(), // that the first network is loaded
  source: null, // {kind: "picture", blob, name, width, height}, {kind: "camera", stream, mirrored} or {kind: "film", url}
  picture: null, // the last source that was a picture
  result: null, // the map on the page: {source, values, height, width}; null until the source's own is there
  opening: Promise.resolve(), // that the file which was chosen last is on the page, or refused
  coming: Promise.resolve(null), // the result of the picture on the page
  quality: FIRST_QUALITY,
  paused: false,
  stale: false, // whether the map of a paused film is no longer what the controls say
  finished: [], // times of the last frames
};

// --- The network -----------------------------------------------------------------------------------------------------

let loading = new AbortController();

// Load the network and the backend that are chosen; until they are there, and if they never are, the old one works on.
async function loadNetwork() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  complain("");
  say("Loading the network");
  const row = state.config.networks[element.networks.selectedIndex];
  const requested = element.backends.value;
  const network = new Network((progress) => {
    if (!signal.aborted) {
      say(`Loading the network: ${Math.round(100 * progress)} %`);
    }
  });
  try {
    const missing = await network.load(state.config, row, candidatesFor(requested));
    if (signal.aborted) {
      network.end();
      return;
    }
    const slow = network.backend === "cpu" && requested === "auto" && typeof WebAssembly === "undefined";
    notify(slow ? "noWebAssembly" : missing);
  } catch (error) {
    network.end();
    if (signal.aborted) {
      return;
    }
    keepNetwork();
    throw error;
  }
  use(network);
  view.showTimes({});
  if (network.backend === "cpu") {
    setQuality(FIRST_QUALITY_IN_JAVASCRIPT);
  }
  say(busy && state.source?.kind === "picture" ? "Looking" : "");
  if (requested === "auto") {
    compare(network, signal).catch((error) => console.info(`The backends were not compared: ${error.message}`));
  }
}

// The menus name again what works on.
function keepNetwork() {
  if (state.network) {
    element.networks.selectedIndex = state.config.networks.indexOf(state.network.row);
    element.backends.value = state.network.backend;
  }
}

// After the first map, so that nobody waits for it.
async function compare(network, signal) {
  await state.coming.catch(() => {});
  const size = state.config.sizes[FIRST_QUALITY.live];
  const { fastest, times } = await findFastest(network, state.config, size, signal);
  if (signal.aborted) {
    return;
  }
  view.showTimes(times, size);
  if (fastest !== network) {
    use(fastest);
  }
}

function use(network) {
  state.network?.retire();
  state.network = network;
  view.showNetwork(network);
}

// --- One map after another -------------------------------------------------------------------------------------------

let next = null; // the request that waits: of those that come meanwhile, the newest; the others get null
let busy = false;

function request(source) {
  next?.resolve(null);
  const answer = new Promise((resolve, reject) => {
    next = { source, resolve, reject };
  });
  if (!busy) {
    answerRequests();
  }
  return answer;
}

async function answerRequests() {
  busy = true;
  while (next) {
    const { source, resolve, reject } = next;
    next = null;
    await predict(source).then(resolve, reject);
  }
  busy = false;
}

async function predict(source) {
  while (!state.network) {
    await state.ready;
  }
  const live = source.kind !== "picture";
  const input = live ? await createImageBitmap(element.video) : source.blob;
  const size = state.config.sizes[state.quality[live ? "live" : "picture"]];
  const content = { source: input, size, style: view.paintedStyle(), live };
  const answer = await state.network.ask("predict", content, live ? [input] : []);
  const result = { ...answer.result, source };
  if (source === state.source) {
    state.result = result;
    view.show(answer);
    if (answer.style !== view.paintedStyle()) {
      restyle();
    }
  }
  return result;
}

function predictPicture() {
  const coming = request(state.picture);
  state.coming = coming;
  say("Looking");
  const last = (then) => (outcome) => state.coming === coming && then(outcome);
  coming.then(last(() => say("")), last(explain));
}

async function restyle() {
  view.arrange();
  const { result } = state;
  const style = view.paintedStyle();
  if (result) {
    const { map } = await state.network.ask("paint", { result: bare(result), style });
    if (result === state.result && style === view.paintedStyle()) {
      view.draw(map, style);
    }
  }
}

// What was set counts for what is looked at now, too.
function refresh() {
  if (state.source?.kind === "picture") {
    predictPicture();
  } else {
    state.stale = true;
  }
}

// Save what is on the page; if that was chosen just now, as soon as its map is there.
async function save(what) {
  complain("");
  await state.opening;
  const result = await state.coming;
  if (!result) {
    notify("replaced");
    return;
  }
  const { blob: picture, name } = result.source;
  const style = what === "map" && view.chosenStyle() === "glow" ? "heat" : view.chosenStyle();
  const content = { what, result: bare(result), picture, style, blend: view.chosenBlend() };
  const { blob } = await state.network.ask("save", content);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${name}_${what}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const bare = ({ values, height, width }) => ({ values, height, width });

// --- What is looked at -----------------------------------------------------------------------------------------------

let turn = 0; // Of what is chosen the last counts, however long each takes to open.

function takeFiles(files) {
  if (files.length) {
    const open = files[0].type.startsWith("video/") ? showFilm : showPicture;
    state.opening = open(files[0], files[0].name).catch(explain);
  }
  element.file.value = ""; // So that the same file can be chosen again.
}

async function showPicture(blob, name) {
  const mine = ++turn;
  complain("");
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
  state.picture = { kind: "picture", blob, name: name.replace(/\.[^.]*$/, "") || "picture", width, height };
  view.placePhoto(image, name);
  enter(state.picture, width, height);
  predictPicture();
}

async function showFilm(file) {
  const mine = ++turn;
  complain("");
  stopLive();
  const url = URL.createObjectURL(file);
  element.video.src = url;
  await startLive({ kind: "film", url }, mine).catch(() => failLive(mine, "film"));
}

async function startCamera(device) {
  const mine = ++turn;
  complain("");
  if (!navigator.mediaDevices?.getUserMedia) {
    complain("insecure");
    return;
  }
  stopLive(); // Many phones lend only one camera at a time.
  try {
    const wishes = { ...CAMERA_WISHES, ...(device && { deviceId: { exact: device } }) };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wishes });
    if (mine !== turn) {
      stopTracks(stream);
      return;
    }
    element.video.srcObject = stream;
    const source = { kind: "camera", stream, mirrored: !looksAway(stream.getVideoTracks()[0]) };
    await startLive(source, mine);
    stream.getVideoTracks()[0].onended = () => failLive(mine, "NotFoundError");
    await listCameras(stream);
  } catch (error) {
    const framed = error.name === "NotAllowedError" && window !== window.top;
    failLive(mine, framed ? "framed" : error.name, `The camera cannot be used: ${error.message}.`);
  }
}

// A picture of oneself is mirrored, as by a mirror; what a rear camera sees is not.
function looksAway(track) {
  const { facingMode } = track.getSettings();
  return facingMode ? facingMode === "environment" : REAR_CAMERA.test(track.label);
}

async function startLive(source, mine) {
  state.source = source; // So that whatever comes next stops it.
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
  }
}

function stopLive() {
  if (state.source?.kind === "picture") {
    return;
  }
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

// Back to the last picture, if there was one.
function leaveLive() {
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

// A new frame goes out only when the last map is back: however slow the network is, nothing piles up.
function follow(source) {
  if (source !== state.source) {
    return;
  }
  const { readyState, videoWidth, videoHeight } = element.video;
  if (!busy && (!state.paused || state.stale) && readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) {
    state.stale = false;
    view.fitPanes(videoWidth, videoHeight); // A phone may have been turned.
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
    element.rate.textContent = `${rate.toFixed(rate < 10 ? 1 : 0)} a second`;
  }
}

function pause(paused) {
  Object.assign(state, { paused, stale: false, finished: [] });
  element.pause.classList.toggle("on", paused);
  element.pause.textContent = paused ? "Go on" : "Pause";
  if (paused) {
    element.video.pause();
  } else if (state.source) {
    element.video.play().catch(() => {}); // It was taken away meanwhile.
  }
}

function enter(source, width, height) {
  Object.assign(state, { source, result: null });
  view.makeRoom(source, width, height);
  setQuality(state.quality);
}

function setQuality(quality) {
  state.quality = quality;
  const kind = (state.source?.kind ?? "picture") === "picture" ? "picture" : "live";
  document.querySelector(`#sizes input[value="${quality[kind]}"]`).checked = true;
}

// --- Controls --------------------------------------------------------------------------------------------------------

function connectControls() {
  element.camera.onclick = () => (state.source?.kind === "camera" ? leaveLive() : startCamera());
  element.choose.onclick = () => element.file.click();
  element.file.onchange = () => takeFiles(element.file.files);
  element.cameras.onchange = () => startCamera(element.cameras.value);
  element.pause.onclick = () => pause(!state.paused);
  element["save-map"].onclick = () => save("map").catch(explain);
  element["save-overlay"].onclick = () => save("overlay").catch(explain);
  element.blend.oninput = view.blend;
  element.networks.onchange = change;
  element.backends.onchange = change;
  document.querySelector("form").onsubmit = (event) => event.preventDefault();
  for (const input of document.querySelectorAll("input[name=style], input[name=view]")) {
    input.onchange = () => restyle().catch(explain);
  }
  connectDropAndPaste();
}

// Another network or backend: look again with it.
function change() {
  const loaded = loadNetwork();
  if (!state.network) {
    state.ready = loaded;
  }
  loaded.then(refresh, explain);
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

function listSizes() {
  const choices = state.config.sizes.map((sides, i) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "size", value: i });
    const text = Object.assign(document.createElement("span"), { textContent: SIZE_NAMES[i] });
    label.title = sides.join(" × ");
    label.append(input, text);
    input.onchange = () => {
      const kind = (state.source?.kind ?? "picture") === "picture" ? "picture" : "live";
      setQuality({ ...state.quality, [kind]: i });
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

// A static page opens offline from the second visit on. Where browsers forbid that, it works as it did without.
async function keepOffline() {
  try {
    await navigator.serviceWorker?.register("offline.js");
  } catch (error) {
    console.info(`The page is not kept for offline use: ${error.message}`);
  }
}

async function begin() {
  connectControls();
  view.arrange();
  try {
    state.config = await (await fetch("config.json")).json();
  } catch {
    say("");
    complain("config");
    return;
  }
  listSizes();
  setQuality(FIRST_QUALITY);
  listNetworks();
  element.backends.value = new URLSearchParams(location.search).get("backend") ?? "auto";
  state.ready = loadNetwork();
  state.ready.catch(explain);
  const example = await fetch("example.jpg");
  if (example.ok && !turn) {
    state.opening = showPicture(await example.blob(), "example.jpg");
  }
  if (state.config.offline) {
    await state.ready.then(keepOffline, () => {});
  }
}

begin();
