// Runs an exported network in Node, to test and to measure the export:
//
//     node predict.mjs MODEL.json BACKEND REPETITIONS < tasks.json
//
// A task is {input, output, shape}: raw little-endian float32 files of images (B, H, W, 3), 0 to 255, and of the maps
// (B, H, W, 1), 0 to 1, and the images' shape. Prints, as JSON, the median milliseconds of each task's repetitions.

import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-backend-wasm";
import * as converter from "@tensorflow/tfjs-converter";
import * as tf from "@tensorflow/tfjs-core";

const [modelPath, backend, repetitions] = process.argv.slice(2);

// `fetch` cannot read local files, so the model is loaded from memory.
async function readModel() {
  const model = JSON.parse(await readFile(modelPath, "utf8"));
  const shards = model.weightsManifest.flatMap((group) => group.paths);
  const contents = await Promise.all(shards.map((shard) => readFile(join(dirname(modelPath), shard))));
  const bytes = Buffer.concat(contents);
  return {
    modelTopology: model.modelTopology,
    signature: model.signature,
    weightSpecs: model.weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  };
}

async function perform(network, { input, output, shape }) {
  const file = await readFile(input);
  const pixels = new Float32Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
  const images = tf.tensor4d(pixels, shape);
  const durations = [];
  for (let i = 0; i < Number(repetitions); i++) {
    const start = performance.now();
    const maps = network.execute(images);
    const values = await maps.data();
    durations.push(performance.now() - start);
    await writeFile(output, Buffer.from(values.buffer, values.byteOffset, values.byteLength));
    maps.dispose();
  }
  images.dispose();
  return durations.sort((a, b) => a - b)[Math.floor(durations.length / 2)];
}

if (!(await tf.setBackend(backend))) {
  throw new Error(`TensorFlow.js has no backend ${backend} here.`);
}
const network = await converter.loadGraphModel({ load: readModel });
const medians = [];
for (const task of JSON.parse(readFileSync(0, "utf8"))) {
  medians.push(await perform(network, task));
}
console.log(JSON.stringify(medians));
