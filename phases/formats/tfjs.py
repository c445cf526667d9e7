"""The network as a graph model of TensorFlow.js, for browsers and Node."""

import json
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict

from ...network import Network
from .base import Format, fill, named_graph
from .node import DEMO_FOLDER, package_versions, run_in_node

FILE = "model.json"

# Size of the files that the weights are split into, so browsers can fetch them in parallel and cache them.
SHARD_BYTES = 4 * 2**20

# The packages of TensorFlow.js that the example imports.
EXAMPLE_PACKAGES = ("@tensorflow/tfjs-backend-wasm", "@tensorflow/tfjs-converter", "@tensorflow/tfjs-core")


# The fused operation of each convolution.
FUSED = {"Conv2D": "_FusedConv2D", "DepthwiseConv2dNative": "FusedDepthwiseConv2dNative"}


def write_tfjs(network: Network, folder: Path, bits: int, calibration=()) -> None:
    """Write the graph model for `tf.loadGraphModel`: `model.json`, and the weights in shards.

    Source of the format: the declarations in `@tensorflow/tfjs-core/dist/io/types.d.ts`.
    """
    function = named_graph(network).get_concrete_function()
    graph = fuse(function.graph.as_graph_def())
    weights, contents = [], []
    for node in graph.node:
        if node.op == "Const":
            description, values = _encode_weight(node, bits)
            weights.append(description)
            contents.append(values.tobytes())
            node.attr["value"].tensor.ClearField("tensor_content")
    joined = b"".join(contents)
    shards = [joined[start : start + SHARD_BYTES] for start in range(0, len(joined), SHARD_BYTES)]
    names = [f"group1-shard{i + 1}of{len(shards)}.bin" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        (folder / name).write_bytes(shard)
    model = {
        "format": "graph-model",
        "generatedBy": f"TensorFlow {tf.__version__}",
        "convertedBy": "MSI-Net",
        "signature": {
            "inputs": {"input": _tensor_info(function.inputs[0])},
            "outputs": {"output": _tensor_info(function.outputs[0])},
        },
        "modelTopology": MessageToDict(graph),
        "weightsManifest": [{"paths": names, "weights": weights}],
    }
    (folder / FILE).write_text(json.dumps(model), encoding="utf-8")


def fuse(graph):
    """Fuse each convolution with its bias and ReLU into one node, which TensorFlow.js computes in one step.

    Args:
        graph: a `GraphDef` in which only a bias follows each convolution, and at most a ReLU follows the bias.

    Returns:
        An equivalent `GraphDef`.
    """
    followers = {name: node for node in graph.node for name in node.input}
    fused, replaced = tf.compat.v1.GraphDef(versions=graph.versions), set()
    for convolution in graph.node:
        if convolution.op not in FUSED:
            continue
        bias = followers[convolution.name]
        steps = [bias, followers[bias.name]] if followers[bias.name].op in ("Relu", "Relu6") else [bias]
        node = fused.node.add(name=steps[-1].name, op=FUSED[convolution.op], input=[*convolution.input, bias.input[1]])
        for key, value in convolution.attr.items():
            node.attr[key].CopyFrom(value)
        node.attr["fused_ops"].list.s.extend(step.op.encode() for step in steps)
        node.attr["num_args"].i = 1
        replaced |= {convolution.name, *(step.name for step in steps)}
    fused.node.extend(node for node in graph.node if node.name not in replaced)
    return fused


def _encode_weight(node, bits: int) -> tuple[dict, np.ndarray]:
    """A constant's row in the manifest, and its stored values: kernels are uint16 if `bits` is 16.

    With 65,536 even steps between a kernel's least and greatest weight, the error is a fifth of float16's. Depthwise
    kernels, whose channels have very different ranges, stay in float32; they are small.
    """
    values = tf.make_ndarray(node.attr["value"].tensor)
    row = {"name": node.name, "shape": list(values.shape), "dtype": values.dtype.name}
    if bits == 32 or values.ndim < 4 or "/depthwise/" in node.name:
        return row, values
    least = float(values.min())
    scale = (float(values.max()) - least) / 65535 or 1.0
    row["quantization"] = {"dtype": "uint16", "original_dtype": "float32", "min": least, "scale": scale}
    return row, np.round((values.astype(np.float64) - least) / scale).astype("<u2")


def _tensor_info(tensor: tf.Tensor) -> dict:
    sides = [{"size": str(side or -1)} for side in tensor.shape]
    return {"name": tensor.name, "dtype": "DT_FLOAT", "tensorShape": {"dim": sides}}


def predict_tfjs(folder: Path, images: np.ndarray) -> np.ndarray:
    return run_in_node(folder, [images])[0][0]


EXAMPLE = """// For Node 18 or later, as predict.mjs.
import { readFile, writeFile } from "node:fs/promises";
import "@tensorflow/tfjs-backend-wasm";
import { loadGraphModel } from "@tensorflow/tfjs-converter";
import * as tf from "@tensorflow/tfjs-core";
import { cropAndRestore, fittedSize, resizeAndPad } from "./geometry.js";

// In Node, `fetch` does not read files, so the network is passed in memory.
async function readNetwork() {
  const { modelTopology, weightsManifest } = JSON.parse(await readFile("model.json", "utf8"));
  const shards = await Promise.all(weightsManifest.flatMap((group) => group.paths).map((path) => readFile(path)));
  const weightSpecs = weightsManifest.flatMap((group) => group.weights);
  return { modelTopology, weightSpecs, weightData: new Uint8Array(Buffer.concat(shards)).buffer };
}

// A binary PPM file as RGBA pixels. Use `sharp` for other files; in a browser, a canvas has these pixels.
async function readPhotograph(path) {
  const file = await readFile(path);
  const [header, width, height] = /^P6\\s+(\\d+)\\s+(\\d+)\\s+255\\s/.exec(file.toString("latin1", 0, 64));
  const image = { width: Number(width), height: Number(height), data: new Uint8ClampedArray(4 * width * height) };
  for (let i = 0; i < width * height; i++) {
    image.data.set(file.subarray(header.length + 3 * i, header.length + 3 * i + 3), 4 * i);
  }
  return image;
}

await tf.setBackend("wasm");
const network = await loadGraphModel({ load: readNetwork });
const photograph = await readPhotograph("photograph.ppm");
const size = {js_size}; // height and width
const images = tf.tensor4d(resizeAndPad(photograph, size), [1, ...size, 3]);
const map = await network.execute(images).data(); // 0 to 1
const gray = cropAndRestore(map, size, photograph.height, photograph.width); // of the photograph's size, 0 to 255
await writeFile("saliency.f32", gray.map((value) => value / 255)); // raw float32, 0 to 1, row by row
await writeFile("saliency.pgm", `P5 ${photograph.width} ${photograph.height} 255\n`);
await writeFile("saliency.pgm", Uint8Array.from(gray, Math.round), { flag: "a" });
"""

BROWSER_EXAMPLE = """// For a page next to model.json. A bundler or an import map finds "@tensorflow/tfjs".
import * as tf from "@tensorflow/tfjs";
import { cropAndRestore, fittedSize, resizeAndPad } from "./geometry.js";

const network = await tf.loadGraphModel("model.json");

/** From a canvas' `context.getImageData(...)` to its map: Float32Array, row by row, 0 to 1. */
export async function predict(photograph) {
  const size = {js_size}; // height and width
  const images = tf.tensor4d(resizeAndPad(photograph, size), [1, ...size, 3]);
  const maps = network.execute(images);
  const gray = cropAndRestore(await maps.data(), size, photograph.height, photograph.width); // 0 to 255
  tf.dispose([images, maps]);
  return gray.map((value) => value / 255);
}
"""

NOTES = """In a browser, with the same `geometry.js`. Draw transparent pictures on white; browsers turn photographs
upright.

```js
{browser}```

TensorFlow.js 1.2.11 or later is needed (tested: 1.2.11, 1.3.1, 1.5.1, 1.7.4, 2.0, 3.0 and 4.22). The published demo
page runs with this export after two changes: in `index.html`, use such a version instead of 1.1.2, which does not know
the operation `_FusedConv2D`; in `index.js`, set every `modelURL` to this `model.json`, which accepts all sizes. That
page passes RGB images that are mirrored (`tf.reverse` along axis 2, the width of a batch, not its channels) and
stretched bilinearly. For MSI-Net's own maps, call `predict` from above instead."""


def accompany(folder: Path) -> None:
    """Write the geometry in JavaScript, and a `package.json` with the example's dependencies."""
    shutil.copyfile(DEMO_FOLDER / "geometry.js", folder / "geometry.js")
    versions = {package: version for package, version in package_versions().items() if package in EXAMPLE_PACKAGES}
    package = {"name": "msinet-export", "private": True, "type": "module", "dependencies": versions}
    (folder / "package.json").write_text(json.dumps(package, indent=2) + "\n", encoding="utf-8")


FORMAT = Format(
    runtime="TensorFlow.js",
    file=FILE,
    write=write_tfjs,
    predict=predict_tfjs,
    example=EXAMPLE,
    needs="Node.js 18 or later, and `npm install` in this folder",
    notes=fill(NOTES, browser=BROWSER_EXAMPLE),
    accompany=accompany,
    language="js",
)
