// The maps of the source: the network that computes them, their order, and what is shown and saved.
//
// `state.source` is the source on the page. Each result carries its source, and is shown, saved and named with that one
// only, even if another source was chosen in the meantime.

import { AUTOMATIC } from "./backends.js";
import { fittedSize } from "./geometry.js";
import { Network, findFastest } from "./network.js";
import * as view from "./view.js";

const { element, say, complain, explain, notify } = view;

// The first quality: a picture may take longer than a camera's frame, and plain JavaScript is a hundred times slower.
const FIRST_QUALITY = { picture: 4, live: 2 };
const FIRST_QUALITY_IN_JAVASCRIPT = { picture: 0, live: 0 };

export const firstQuality = () =>
  state.network?.backend === "cpu" ? FIRST_QUALITY_IN_JAVASCRIPT : FIRST_QUALITY;

export const state = {
  config: null,
  network: null,
  ready: Promise.resolve(), // resolves when the first network is loaded
  // {kind: "picture", blob, name, width, height}, or {kind: "camera", stream, mirrored, name, width, height}, or
  // {kind: "film", url, name, width, height}
  source: null,
  picture: null, // the last source that was a picture
  result: null, // the map on the page: {source, values, height, width}; null until the source's own map exists
  opening: Promise.resolve(), // resolves when the file that was chosen last is on the page or rejected
  coming: Promise.resolve(null), // the result of the picture on the page
  quality: FIRST_QUALITY,
  paused: false,
  stale: false, // whether the map of a paused film no longer matches the controls
  finished: [], // times of the last frames
};

/** Which of the two qualities applies to the source. */
export const pace = () => (["camera", "film"].includes(state.source?.kind) ? "live" : "picture");

/** Name the qualities by the size of the network's input, which may take the shape of the picture. */
export function nameQualities() {
  const { config, network, source } = state;
  const fits = network?.row.fit_shape && source;
  const sizes = config.sizes.map((size) => (fits ? fittedSize(source.height, source.width, size[0] * size[1]) : size));
  document.querySelectorAll("#sizes span").forEach((label, i) => (label.textContent = view.wide(sizes[i], "×")));
}

/** Set the indices in `config.sizes` for pictures, and for films and the camera. */
export function setQuality(quality) {
  state.quality = quality;
  document.querySelector(`#sizes input[value="${quality[pace()]}"]`).checked = true;
}

// --- The network -----------------------------------------------------------------------------------------------------

let loading = new AbortController();

// Load the chosen network and backend. Until they are loaded, and if they fail, the previous network keeps working.
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
    const candidates = requested === "auto" ? AUTOMATIC : [requested, ...AUTOMATIC];
    const missing = await network.load(state.config, row, candidates);
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
    setQuality(firstQuality());
  }
  say(busy && state.source?.kind === "picture" ? "Predicting" : "");
  if (requested === "auto") {
    compare(network, signal).catch((error) => console.info(`The backends were not compared: ${error.message}`));
  }
}

// Reset the menus to the network that keeps working.
function keepNetwork() {
  if (state.network) {
    element.networks.selectedIndex = state.config.networks.indexOf(state.network.row);
    element.backends.value = state.network.backend;
  }
}

// After the first map, which should not be delayed.
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
  nameQualities();
}

// --- One map after another -------------------------------------------------------------------------------------------

let next = null; // the waiting request; a newer one replaces it, and resolves it to null
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
    view.show(answer, source);
    if (answer.style !== view.paintedStyle()) {
      restyle();
    }
  }
  return result;
}

export function predictPicture() {
  const coming = request(state.picture);
  state.coming = coming;
  say("Predicting");
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

// Apply changed settings to the current source.
export function refresh() {
  if (state.source?.kind === "picture") {
    predictPicture();
  } else {
    state.stale = true;
  }
}

/** A result without its source, for a message. */
export const bare = ({ values, height, width }) => ({ values, height, width });
