// The page's controls and its start.

import { connectArea } from "./area.js";
import { firstQuality, loadNetwork, pace, refresh, restyle, setQuality, state } from "./maps.js";
import { connectOutputs } from "./outputs.js";
import { leaveLive, offerExample, pause, showExample, startCamera, takeFiles } from "./sources.js";
import * as view from "./view.js";

const { element, say, complain, explain, notify } = view;

const SIZE_NAMES = ["Very low", "Low", "Medium", "High", "Very high"];

function connectControls() {
  element.camera.onclick = () => (state.source?.kind === "camera" ? leaveLive() : startCamera());
  element.choose.onclick = () => element.file.click();
  element.file.onchange = () => takeFiles(element.file.files);
  element.cameras.onchange = () => startCamera(element.cameras.value);
  element.pause.onclick = () => pause(!state.paused);
  element.dismiss.onclick = () => {
    complain("");
    notify("");
  };
  element["start-over"].onclick = reset;
  element.blend.oninput = view.blend;
  element.networks.onchange = change;
  element.backends.onchange = change;
  document.querySelector("form").onsubmit = (event) => event.preventDefault();
  for (const input of document.querySelectorAll("input[name=style], input[name=view]")) {
    input.onchange = () => {
      view.showLegend(state.config.colors);
      restyle().catch(explain);
    };
  }
  connectArea();
  connectOutputs();
  connectDropAndPaste();
}

// Everything as it was when the page opened, except the strip of pictures.
function reset() {
  const [chosen, backend] = [element.networks.selectedIndex, element.backends.value];
  view.resetView();
  view.showLegend(state.config.colors);
  setQuality(firstQuality());
  element.dismiss.onclick();
  if (chosen > 0 || backend !== "auto") {
    change();
  }
  showExample();
}

// Predict again with another network or backend.
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
    const text = Object.assign(document.createElement("span"), { textContent: view.wide(sides, "×") });
    label.title = `${SIZE_NAMES[i]} quality`;
    label.append(input, text);
    input.onchange = () => {
      setQuality({ ...state.quality, [pace()]: i });
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

// A static page opens offline from the second visit on. Browsers that forbid caching still show it online.
async function cacheOffline() {
  try {
    await navigator.serviceWorker?.register("offline.js");
  } catch (error) {
    console.info(`The page is not cached for offline use: ${error.message}`);
  }
}

async function start() {
  connectControls();
  view.arrange();
  try {
    state.config = await (await fetch("config.json")).json();
  } catch {
    say("");
    complain("config");
    return;
  }
  view.showLegend(state.config.colors);
  listSizes();
  setQuality(state.quality);
  listNetworks();
  element.backends.value = new URLSearchParams(location.search).get("backend") ?? "auto";
  state.ready = loadNetwork();
  state.ready.catch(explain);
  const example = await fetch("example.jpg");
  if (example.ok) {
    state.opening = offerExample(await example.blob());
  }
  if (state.config.offline) {
    await state.ready.then(cacheOffline, () => {});
  }
}

start();
