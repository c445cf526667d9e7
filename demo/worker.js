// Computes the maps, away from the page, which the network would otherwise block for as long as it runs.
//
// Messages in, each with a `type`, answered in order by one of the same `id`; errors come back as {id, error}:
//   load     {config, network, backend}      -> {backend, detail, missing}, after any number of {progress: 0 to 1}
//   predict  {source, size, style, live}     -> {map: ImageBitmap, style, size, milliseconds, tensors}
//   style    {style}                         -> {map: ImageBitmap, style} of the last prediction
//   save     {what: "map" | "overlay", style, blend} -> {blob} of the last picture

import { startBackend } from "./backends.js";
import { cropAndRestore, cropPadding, resizeAndPad } from "./geometry.js";

let config;
let network;
let last = null; // {values: Uint8ClampedArray (H, W), height, width, picture: ImageBitmap or null}

const handlers = { load, predict, style: restyle, save };

// One at a time: a network that is half loaded must not predict.
let queue = Promise.resolve();

self.onmessage = ({ data }) => {
  queue = queue.then(async () => {
    try {
      const answer = await handlers[data.type](data);
      const transfer = answer.map ? [answer.map] : [];
      self.postMessage({ id: data.id, ...answer }, transfer);
    } catch (error) {
      self.postMessage({ id: data.id, error: error.message, kind: error.kind });
    }
  });
};

async function load({ id, config: given, network: chosen, backend }) {
  config = given;
  network?.dispose();
  network = null;
  const started = await startBackend(config.libraries, backend);
  const onProgress = (progress) => self.postMessage({ id, progress });
  network = await tf.loadGraphModel(chosen.url, { onProgress }).catch((error) => {
    throw failure("weights", error.message);
  });
  return started;
}

async function predict({ source, size, style, live }) {
  if (!network) {
    throw failure("weights", "no network is loaded");
  }
  const bitmap = source instanceof Blob ? await decode(source) : source;
  const { height, width } = bitmap;
  const start = performance.now();
  const image = pixelsOf(bitmap);
  const map = await run(resizeAndPad(image, size, config.padding), size);
  const seen = live
    ? cropPadding(map, size, height, width)
    : { values: cropAndRestore(map, size, height, width), height, width };
  const milliseconds = performance.now() - start;
  last?.picture?.close();
  last = { ...seen, values: Uint8ClampedArray.from(seen.values), picture: live ? null : bitmap };
  if (live) {
    bitmap.close();
  }
  return { map: await draw(style), style, size, milliseconds, tensors: tf.memory().numTensors };
}

// From (size[0], size[1], 3) to (size[0], size[1]), 0 to 1.
async function run(pixels, size) {
  const images = tf.tensor4d(pixels, [1, ...size, 3]);
  const maps = network.execute(images);
  const values = await maps.data();
  tf.dispose([images, maps]);
  return values;
}

async function decode(blob) {
  try {
    return await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch (error) {
    throw failure("picture", error.message);
  }
}

function pixelsOf(bitmap) {
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

async function restyle({ style }) {
  return last ? { map: await draw(style), style } : {};
}

/** The last map as a picture: "heat" in the colours of `test --overlay`, "gray" as `test` writes it. */
function draw(style) {
  const image = new ImageData(last.width, last.height);
  const palette = palettes()[style];
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = palette[last.values[i]];
  }
  return createImageBitmap(image);
}

let cachedPalettes;

// For each style, 256 RGBA pixels as the processor stores them.
function palettes() {
  cachedPalettes ??= {
    heat: packed((value) => config.colors[value]),
    gray: packed((value) => [value, value, value]),
  };
  return cachedPalettes;
}

function packed(colorOf) {
  const bytes = new Uint8ClampedArray(256 * 4);
  for (let value = 0; value < 256; value++) {
    bytes.set([...colorOf(value), 255], value * 4);
  }
  return new Uint32Array(bytes.buffer);
}

async function save({ what, style, blend }) {
  const canvas = new OffscreenCanvas(last.width, last.height);
  const context = canvas.getContext("2d");
  if (what === "overlay") {
    context.drawImage(last.picture, 0, 0);
    context.globalAlpha = blend;
  }
  context.drawImage(await draw(style), 0, 0);
  return { blob: await canvas.convertToBlob({ type: "image/png" }) };
}

function failure(kind, message) {
  return Object.assign(new Error(message), { kind });
}
