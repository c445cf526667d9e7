// The maps of what is looked at: which network computes them, in which order, and what is shown and saved.
//
// `state.source` is what is looked at. Each result carries the source it belongs to, and is shown, saved and named with
// that one only, whatever was chosen meanwhile.

import { Network, candidatesFor, findFastest } from "./network.js";
import * as view from "./view.js";

const { element, say, complain, explain, notify } = view;

// Quality at first: a still picture may take its time, a camera may not, and plain JavaScript takes a hundred times it.
const FIRST_QUALITY = { picture: 4, live: 2 };
const FIRST_QUALITY_IN_JAVASCRIPT = { picture: 0, live: 0 };

export const state = {
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

/** Which of the two qualities counts for what is looked at. */
export const pace = () => (["camera", "film"].includes(state.source?.kind) ? "live" : "picture");

/** Which of `config.sizes` a picture gets, and which a film or the camera. */
export function setQuality(quality) {
  state.quality = quality;
  document.querySelector(`#sizes input[value="${quality[pace()]}"]`).checked = true;
}

// --- The network -----------------------------------------------------------------------------------------------------

let loading = new AbortController();

// Load the network and the backend that are chosen; until they are there, and if they never are, the old one works on.
export async function loadNetwork() {
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
export let busy = false;

export function request(source) {
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

export function predictPicture() {
  const coming = request(state.picture);
  state.coming = coming;
  say("Looking");
  const last = (then) => (outcome) => state.coming === coming && then(outcome);
  coming.then(last(() => say("")), last(explain));
}

export async function restyle() {
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
export function refresh() {
  if (state.source?.kind === "picture") {
    predictPicture();
  } else {
    state.stale = true;
  }
}

// Save what is on the page; if that was chosen just now, as soon as its map is there.
export async function save(what) {
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
