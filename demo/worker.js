// Computes the maps in a worker, because the network would block the page while it runs.
//
// Each message has a `type` and an `id`. Answers come in order, with the same `id`; an error is {id, error, kind}:
//   load     {config, network, backends}     -> {backend, detail, missing}, after any number of {progress: 0 to 1}
//   predict  {source, size, style, live}     -> {map: ImageBitmap, style, result, size, milliseconds, tensors}
//   paint    {result, style}                 -> {map: ImageBitmap, style}
//   save     {what: "map" | "overlay", result, picture: Blob, style, blend} -> {blob}
//   measure  {size}                          -> {milliseconds} of the network alone
// A result is {values: Uint8ClampedArray (H, W), height, width}. The worker keeps none; the page knows their sources.

import { startBackend } from "./backends.js";
import { cropAndRestore, cropPadding, fittedSize, resizeAndPad } from "./geometry.js";

let config;
let network;
let fitShape; // whether the network's input takes each picture's shape, as `test` does with it

const handlers = { load, predict, paint, save, measure };

// One message at a time, so a network never predicts before it is loaded.
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

async function load({ id, config: given, network: chosen, backends }) {
  config = given;
  const started = await startBackend(config.libraries, backends);
  fitShape = chosen.fit_shape;
  const onProgress = (progress) => self.postMessage({ id, progress });
  network = await tf.loadGraphModel(chosen.url, { onProgress }).catch((error) => {
    throw failure("weights", error.message);
  });
  return started;
}

async function predict({ source, size: chosen, style, live }) {
  const bitmap = source instanceof Blob ? await decode(source) : source;
  const { height, width } = bitmap;
  const size = fitShape ? fittedSize(height, width, chosen[0] * chosen[1]) : chosen;
  const start = performance.now();
  const image = pixelsOf(bitmap);
  const map = await run(resizeAndPad(image, size), size);
  const seen = live
    ? cropPadding(map, size, height, width)
    : { values: cropAndRestore(map, size, height, width), height, width };
  const milliseconds = performance.now() - start;
  bitmap.close();
  const result = { ...seen, values: Uint8ClampedArray.from(seen.values) };
  return { ...(await paint({ result, style })), result, size, milliseconds, tensors: tf.memory().numTensors };
}

// From (size[0], size[1], 3) to (size[0], size[1]), 0 to 1.
async function run(pixels, size) {
  const images = tf.tensor4d(pixels, [1, ...size, 3]);
  const maps = network.execute(images);
  const values = await maps.data();
  tf.dispose([images, maps]);
  return values;
}

// Some backends compile in the first run, and the second may be disturbed.
async function measure({ size }) {
  const pixels = new Float32Array(size[0] * size[1] * 3);
  const times = [];
  for (let i = 0; i < 3; i++) {
    const start = performance.now();
    await run(pixels, size);
    times.push(performance.now() - start);
  }
  return { milliseconds: Math.min(...times) };
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
  context.fillStyle = "white"; // behind transparent pixels, as in `test`
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** A map as a picture: "gray" as `test` writes it, "heat" in the colors of its overlay, "glow" clear where it is 0. */
async function paint({ result: { values, height, width }, style }) {
  const image = new ImageData(width, height);
  const palette = palettes()[style];
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = palette[values[i]];
  }
  return { map: await createImageBitmap(image), style };
}

let cachedPalettes;

// For each style, 256 RGBA pixels as the processor stores them.
function palettes() {
  cachedPalettes ??= {
    glow: packed((value) => [...config.colors[value], value]),
    heat: packed((value) => [...config.colors[value], 255]),
    gray: packed((value) => [value, value, value, 255]),
  };
  return cachedPalettes;
}

function packed(colorOf) {
  const bytes = new Uint8ClampedArray(256 * 4);
  for (let value = 0; value < 256; value++) {
    bytes.set(colorOf(value), value * 4);
  }
  return new Uint32Array(bytes.buffer);
}

async function save({ what, result, picture, style, blend }) {
  const canvas = new OffscreenCanvas(result.width, result.height);
  const context = canvas.getContext("2d");
  if (what === "overlay") {
    context.fillStyle = "white";
    context.fillRect(0, 0, result.width, result.height);
    context.drawImage(await decode(picture), 0, 0);
    context.globalAlpha = blend;
  }
  context.drawImage((await paint({ result, style })).map, 0, 0);
  return { blob: await canvas.convertToBlob({ type: "image/png" }) };
}

function failure(kind, message) {
  return Object.assign(new Error(message), { kind });
}
