// Runs an exported network in Node, to prove the export and to measure it:
//
//     node predict.mjs MODEL.json BACKEND INPUT OUTPUT BATCH HEIGHT WIDTH [REPETITIONS]
//
// INPUT and OUTPUT are raw little-endian float32 files: images (B, H, W, 3), 0 to 255, and maps (B, H, W, 1), 0 to 1.
// Prints the median duration of the repetitions in milliseconds.

import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-backend-wasm";
import * as converter from "@tensorflow/tfjs-converter";
import * as tf from "@tensorflow/tfjs-core";

const [modelPath, backend, inputPath, outputPath, ...numbers] = process.argv.slice(2);
const [batch, height, width, repetitions = 1] = numbers.map(Number);

// `fetch` knows no files, so that the model must be handed over in memory.
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

async function timed(network, images) {
  const start = performance.now();
  const maps = network.execute(images);
  const values = await maps.data();
  maps.dispose();
  return [values, performance.now() - start];
}

if (!(await tf.setBackend(backend))) {
  throw new Error(`TensorFlow.js has no backend ${backend} here.`);
}
const network = await converter.loadGraphModel({ load: readModel });
const input = await readFile(inputPath);
const pixels = new Float32Array(input.buffer.slice(input.byteOffset, input.byteOffset + input.byteLength));
const images = tf.tensor4d(pixels, [batch, height, width, 3]);
const durations = [];
let values;
for (let i = 0; i < repetitions; i++) {
  let duration;
  [values, duration] = await timed(network, images);
  durations.push(duration);
}
await writeFile(outputPath, Buffer.from(values.buffer, values.byteOffset, values.byteLength));
console.log(durations.sort((a, b) => a - b)[Math.floor(durations.length / 2)].toFixed(2));
