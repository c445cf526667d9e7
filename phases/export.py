"""The `export` phase: the network in the formats of other runtimes, each proven in its own on a photograph."""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict

import checkpoint
import msinet
from data import list_images
from images import IMAGE_PADDING, decode_image, resize_and_pad
from model import DilatedConv2D, LegacyUpsampling, build_model, msi_net, tensor_convolutions
from msinet import Network
from utils import UserError, quiet_stderr, whole_folder, write_record

DEMO_FOLDER = Path(__file__).parents[1] / "demo"

# Greatest difference from the Keras network that an export may show, by the bits of its weights. Maps go from 0 to 1.
BOUNDS = {32: 1e-4, 16: 2e-3, 8: 0.15}

# TensorFlow.js reads its weights in files of this size, so that browsers may fetch them side by side and keep them.
SHARD_BYTES = 4 * 2**20

# What each export is checked on besides the dataset's own size, two images together: another size is another path
# through some runtimes.
SMALL_SIZE = (48, 64)

# Photographs that calibrate int8; more change little and take long.
MOST_CALIBRATION_IMAGES = 100

# Written last into every export. A folder without it is none, and is never replaced.
CHECK_FILE = "check.json"


def named_graph(network: Network) -> tf.types.experimental.PolymorphicFunction:
    """The network as a compiled function with the input "input" and the output "output", of any batch and size."""
    conv = tensor_convolutions(network.arrays)
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="input")]
    context = network.architecture.context
    assert context  # A `Network` is never an encoder alone.
    return tf.function(
        lambda images: {"output": msi_net(images, conv, context=context)},
        signature,
        autograph=False,
    )


def keras_model(network: Network) -> keras.Model:
    """The network as Keras layers: what every export is compared with."""
    context = network.architecture.context
    assert context  # A `Network` is never an encoder alone.
    model = build_model(context=context, width=network.architecture.width)
    checkpoint.assign(model, network.arrays)
    return model


@dataclass(frozen=True)
class Format:
    """How a format is written, and how its own runtime predicts with what was written.

    Attributes:
        runtime: its name.
        file: name of the export's file, or of its main one.
        packages: what must be importable, from `requirements-export.txt`.
        write: from the network, the folder to write into, the bits of a weight and calibration images.
        predict: from that folder and images (B, H, W, 3) to maps (B, H, W, 1), float32.
    """

    runtime: str
    file: str
    write: Callable[[Network, Path, int, Sequence[np.ndarray]], None]
    predict: Callable[[Path, np.ndarray], np.ndarray]
    packages: tuple[str, ...] = ()


# --- Keras ------------------------------------------------------------------------------------------------------------


def write_keras(network: Network, folder: Path, bits: int, calibration=()) -> None:
    portable_model(keras_model(network)).save(folder / "msinet.keras")


def write_weights(network: Network, folder: Path, bits: int, calibration=()) -> None:
    keras_model(network).save_weights(folder / "msinet.weights.h5")


def portable_model(model: keras.Model) -> keras.Model:
    """The same network out of Keras' own layers, which load where this program's classes are unknown."""

    def portable(layer):
        if isinstance(layer, DilatedConv2D):
            return keras.layers.Conv2D.from_config(layer.get_config())
        if isinstance(layer, LegacyUpsampling):
            return _portable_upsampling(layer.name)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=portable)
    copy.set_weights(model.get_weights())
    return copy


def _portable_upsampling(name: str) -> keras.Layer:
    """Repeat each pixel, then average it with the next: that is `LegacyUpsampling`, borders included.

    The mean over what lies inside the image leaves the last row and column as they are.
    """
    return keras.Sequential(
        [keras.layers.UpSampling2D(2, interpolation="nearest"), keras.layers.AveragePooling2D(2, 1, "same")], name=name
    )


def predict_keras(folder: Path, images: np.ndarray) -> np.ndarray:
    return keras.models.load_model(folder / "msinet.keras").predict_on_batch(images)


def predict_weights(folder: Path, images: np.ndarray) -> np.ndarray:
    arrays = checkpoint.read_arrays(folder / "msinet.weights.h5")
    architecture = checkpoint.describe(arrays)
    assert architecture.context  # What was just written is no encoder alone.
    model = build_model(context=architecture.context, width=architecture.width)
    model.load_weights(folder / "msinet.weights.h5")
    return model.predict_on_batch(images)


# --- TensorFlow -------------------------------------------------------------------------------------------------------


def write_savedmodel(network: Network, folder: Path, bits: int, calibration=()) -> None:
    module = tf.Module()
    module.predict = named_graph(network)
    tf.saved_model.save(module, str(folder / "saved_model"), signatures=module.predict.get_concrete_function())


def predict_savedmodel(folder: Path, images: np.ndarray) -> np.ndarray:
    signature = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    return signature(input=tf.constant(images))["output"].numpy()


# --- ONNX -------------------------------------------------------------------------------------------------------------


def write_onnx(network: Network, folder: Path, bits: int, calibration=()) -> None:
    import onnx
    import tf2onnx

    graph = named_graph(network)
    model, _ = tf2onnx.convert.from_function(graph, input_signature=graph.input_signature, opset=17)
    for node in model.graph.node:
        if node.op_type == "Conv":
            _pad_explicitly(node)
    _rename_output(model.graph, "output")
    onnx.checker.check_model(model)
    onnx.save(model, folder / "msinet.onnx")


def _pad_explicitly(conv) -> None:
    """Name the padding of a stride-1 convolution: ONNX Runtime cannot derive it where the convolution is dilated."""
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    dilation, size = attributes.get("dilations", [1])[0], attributes["kernel_shape"][0]
    attributes.pop("auto_pad", None)
    attributes["pads"] = [dilation * (size - 1) // 2] * 4
    del conv.attribute[:]
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


def _rename_output(graph, name: str) -> None:
    old = graph.output[0].name
    for node in graph.node:
        node.output[:] = [name if output == old else output for output in node.output]
    graph.output[0].name = name


def predict_onnx(folder: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "msinet.onnx", providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": images})[0]


# --- LiteRT, formerly TensorFlow Lite ---------------------------------------------------------------------------------


def write_tflite(network: Network, folder: Path, bits: int, calibration: Sequence[np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        write_savedmodel(network, Path(temporary), 32, ())
        converter = tf.lite.TFLiteConverter.from_saved_model(str(Path(temporary) / "saved_model"))
        if bits < 32:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if bits == 16:
            converter.target_spec.supported_types = [tf.float16]
        if bits == 8:
            converter.representative_dataset = lambda: ([images] for images in calibration)
        with quiet_stderr():
            contents = converter.convert()
    (folder / "msinet.tflite").write_bytes(contents)


def predict_tflite(folder: Path, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        runner = Interpreter(str(folder / "msinet.tflite")).get_signature_runner()
        return runner(input=images)["output"]


# --- TensorFlow.js ----------------------------------------------------------------------------------------------------


def write_tfjs(network: Network, folder: Path, bits: int, calibration=()) -> None:
    """Write the graph model that `tf.loadGraphModel` takes: `model.json`, and the weights in shards.

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
    (folder / "model.json").write_text(json.dumps(model), encoding="utf-8")


def fuse(graph):
    """Join each convolution with its bias and ReLU into one node, which TensorFlow.js computes in one step.

    Args:
        graph: a `GraphDef` in which a bias is all that follows a convolution, and a ReLU, if any, all that follows it.

    Returns:
        Another `GraphDef`, which computes the same.
    """
    followers = {name: node for node in graph.node for name in node.input}
    fused, replaced = tf.compat.v1.GraphDef(versions=graph.versions), set()
    for convolution in graph.node:
        if convolution.op != "Conv2D":
            continue
        bias = followers[convolution.name]
        steps = [bias, followers[bias.name]] if followers[bias.name].op == "Relu" else [bias]
        node = fused.node.add(name=steps[-1].name, op="_FusedConv2D", input=[*convolution.input, bias.input[1]])
        for key, value in convolution.attr.items():
            node.attr[key].CopyFrom(value)
        node.attr["fused_ops"].list.s.extend(step.op.encode() for step in steps)
        node.attr["num_args"].i = 1
        replaced |= {convolution.name, *(step.name for step in steps)}
    fused.node.extend(node for node in graph.node if node.name not in replaced)
    return fused


def _encode_weight(node, bits: int) -> tuple[dict, np.ndarray]:
    """A constant's row in the manifest, and its values as they are stored: kernels as uint16 where `bits` is 16.

    Between the least and the greatest weight of a kernel, 65536 even steps err a fifth as much as float16 does.
    """
    values = tf.make_ndarray(node.attr["value"].tensor)
    row = {"name": node.name, "shape": list(values.shape), "dtype": values.dtype.name}
    if bits == 32 or values.ndim < 4:
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


def run_in_node(
    folder: Path, batches: Sequence[np.ndarray], backend: str = "wasm", repetitions: int = 1
) -> tuple[list[np.ndarray], list[float]]:
    """Predict with TensorFlow.js in Node; returns the maps of each batch, and the median milliseconds it took."""
    with tempfile.TemporaryDirectory() as temporary:
        tasks: list[dict] = []
        for i, images in enumerate(batches):
            source, target = Path(temporary) / f"images{i}", Path(temporary) / f"maps{i}"
            source.write_bytes(images.astype("<f4").tobytes())
            tasks.append({"input": str(source), "output": str(target), "shape": images.shape})
        command = ["node", str(DEMO_FOLDER / "predict.mjs"), str(folder / "model.json"), backend, str(repetitions)]
        finished = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True, encoding="utf-8")
        if finished.returncode:
            raise UserError(f"TensorFlow.js failed in Node: {_last_error(finished.stderr)}")
        maps = [np.fromfile(task["output"], "<f4").reshape(*task["shape"][:3], 1) for task in tasks]
    return maps, json.loads(finished.stdout)


def _last_error(text: str) -> str:
    """The line of Node's output that names the error, among those that show the source."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "Error" in line.split(" ")[0]), lines[-1] if lines else "no output")[:200]


def install_node_packages() -> None:
    """Install what `demo/package-lock.json` pins into `demo/node_modules`, unless it is there.

    Raises:
        UserError: Node or npm is missing, or npm failed.
    """
    installed = DEMO_FOLDER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= (DEMO_FOLDER / "package-lock.json").stat().st_mtime:
        return
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise UserError(f"TensorFlow.js needs {program}, which is not installed: install Node.js 18 or later.")
    print("Installing TensorFlow.js into demo/node_modules.", flush=True)
    command = [str(shutil.which("npm")), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    finished = subprocess.run(command, cwd=DEMO_FOLDER, capture_output=True, text=True, encoding="utf-8")
    if finished.returncode:
        raise UserError(
            f"'npm ci' failed in {DEMO_FOLDER}: {(finished.stderr.strip().splitlines() or ['?'])[-1][:200]}"
        )


# --- The table of formats ---------------------------------------------------------------------------------------------

# The choices of `--format`, and the bits that each offers, are `config.EXPORTS`.
FORMATS = {
    "keras": Format("Keras", "msinet.keras", write_keras, predict_keras),
    "weights": Format("Keras", "msinet.weights.h5", write_weights, predict_weights),
    "savedmodel": Format("TensorFlow", "saved_model", write_savedmodel, predict_savedmodel),
    "onnx": Format("ONNX Runtime", "msinet.onnx", write_onnx, predict_onnx, ("onnx", "tf2onnx", "onnxruntime")),
    "tflite": Format("LiteRT", "msinet.tflite", write_tflite, predict_tflite, ("ai_edge_litert",)),
    "tfjs": Format("TensorFlow.js", "model.json", write_tfjs, predict_tfjs),
}


# --- The phase --------------------------------------------------------------------------------------------------------


def run(
    name: str,
    *,
    data: str,
    size: tuple[int, int] | None,
    weights: str | None,
    results: Path,
    bits: int,
    output: Path | None,
    photograph: Path,
    calibration: Path | None = None,
) -> None:
    """Write an export, prove it, and leave it only if it is right.

    Args:
        name: of the format; a key of `FORMATS`.
        data: whose weights and input size are used.
        size: height and width of the network's input.
        weights, results: see `checkpoint.choose_weights`.
        bits: of a weight; see `config.EXPORTS`.
        output: the folder to write; by default it is below `results/exports/`.
        photograph: what it is proven on.
        calibration: a photograph or a folder of them for int8; by default the one it is proven on.

    Raises:
        UserError: a package is missing, the folder holds something else, or the export differs too much.
    """
    form = FORMATS[name]
    require_runtime(name)
    network = msinet.load(weights, data=data, results=results, input_size=size, device="cpu")
    size, variant = network.input_size, network.architecture.variant
    print(f"Weights: {network.weights.path} ({network.weights.reason}).")
    output = output or results / "exports" / f"{data}_{variant.replace(' ', '')}_{name}_{bits}"
    check_replaceable(output, CHECK_FILE)
    with whole_folder(output) as folder:
        form.write(network, folder, bits, _read_calibration(calibration or photograph, size) if bits == 8 else ())
        difference, shapes = check(name, network, folder, _read_image(photograph, size), BOUNDS[bits])
        (folder / "MODEL.md").write_text(describe_export(name, network, data, bits, difference), encoding="utf-8")
        record = {
            "format": name,
            "runtime": form.runtime,
            "bits": bits,
            "data": data,
            **network.record(),
            "photograph": photograph.name,
            "checked_on": shapes,
            "max_difference": difference,
            "bound": BOUNDS[bits],
            "runtime_versions": runtime_versions(name),
        }
        write_record(folder / CHECK_FILE, record)
    print(
        f"Greatest difference from the Keras network, run in {form.runtime}: {difference:.1e} (at most {BOUNDS[bits]})."
    )
    print(f"The export is {output / form.file}; {output / 'MODEL.md'} says how to use it.")


def check(name: str, network: Network, folder: Path, image: np.ndarray, bound: float) -> tuple[float, list]:
    """Run an export in its own runtime, at the image's size and as a small batch, and compare it with Keras.

    Returns:
        The greatest difference of a map's pixel, and the shapes of the images.

    Raises:
        UserError: the difference is beyond the bound.
    """
    small = tf.image.resize(image, SMALL_SIZE, "area").numpy()
    batches = [image, np.concatenate([small, small[:, :, ::-1]])]
    difference = 0.0
    with tf.device("CPU"):  # GPUs round products to fewer bits than the bound allows.
        model = keras_model(network)
        for images in batches:
            maps = FORMATS[name].predict(folder, images)
            difference = max(difference, float(np.abs(maps - model(images).numpy()).max()))
    if not difference <= bound:
        raise UserError(
            f"The export's maps differ from the Keras network's by {difference:.1e}, expected at most {bound}; nothing "
            f"was kept. {'Add photographs with --calibration, or use' if bound == BOUNDS[8] else 'Use'} --bits 32, or "
            f"report this with the versions of the packages in requirements-export.txt."
        )
    return difference, [list(images.shape) for images in batches]


def runtime_versions(name: str) -> dict[str, str]:
    """The versions of what a format's check depends on, besides Python's, TensorFlow's and NumPy's."""
    if name == "tfjs":
        return json.loads((DEMO_FOLDER / "package.json").read_text(encoding="utf-8"))["dependencies"]
    return {package: importlib.metadata.version(package) for package in FORMATS[name].packages}


def require_runtime(name: str) -> None:
    """Complain before any work is done where what the format needs is not installed.

    Raises:
        UserError: it names the first package that is missing.
    """
    for package in FORMATS[name].packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format {name} needs the package {package}, which is not installed: run "
                f"'pip install -r requirements-export.txt'."
            )
    if name == "tfjs":
        install_node_packages()


def check_replaceable(folder: Path, marker: str) -> None:
    """Complain if a folder holds anything that this program did not write.

    Args:
        folder: to be replaced.
        marker: the file by which our own folders are known.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
        raise UserError(f"{folder} holds files that this command did not write: name an empty or a new folder.")


def _read_image(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A photograph as the network's input, float32 (1, H, W, 3), 0 to 255."""
    try:
        image = decode_image(tf.io.read_file(str(path)), 3)
    except tf.errors.OpError as error:
        raise UserError(f"{path} is no image that can be read.") from error
    return resize_and_pad(image, size, IMAGE_PADDING).numpy()[None]


def _read_calibration(path: Path, size: tuple[int, int]) -> list[np.ndarray]:
    if not path.exists():
        raise UserError(f"No such file or folder: {path}. Name a folder of photographs with --calibration.")
    paths = [path] if path.is_file() else list_images(path)[:MOST_CALIBRATION_IMAGES]
    if not paths:
        raise UserError(f"No image below {path}: name a folder of photographs with --calibration.")
    return [_read_image(path, size) for path in paths]


# --- MODEL.md ---------------------------------------------------------------------------------------------------------

TEXT = """# MSI-Net: {title}

Predicts where people look in a photograph. `{file}` was exported with `-d {data}`, and `check.json` names its weights.
Run in {runtime} on a photograph, its maps differ from the Keras network's by at most {difference:.1e} (maps go from 0
to 1).

- **Input** `input`: RGB, float32, 0 to 255, shape (batch, height, width, 3). Height and width are divisible by 8;
  {height}×{width} is the size for {data}. Nothing is subtracted: the network does that.
- **Output** `output`: float32, 0 to 1, shape (batch, height, width, 1). Every map reaches 0 and 1.
- **Fit**: resize the photograph at its own aspect ratio until it fits into {height}×{width}, then pad it evenly with
  gray 126. **Back**: enlarge the map at its own aspect ratio until it covers the photograph, then crop the centre.

The following needs {needs}, and was run when this export was tested:

```{language}
{example}```

Paper: Kroner, Senden, Driessens, Goebel, *Contextual encoder–decoder network for visual saliency prediction*, Neural
Networks 129 (2020), doi 10.1016/j.neunet.2020.05.004.
"""

PYTHON_EXAMPLE = """import numpy as np
{imports}
from PIL import Image, ImageOps

photograph = Image.open("photograph.jpg").convert("RGB")
padded = ImageOps.pad(photograph, ({width}, {height}), color=(126, 126, 126))
images = np.float32(padded)[None]  # (1, {height}, {width}, 3), 0 to 255
{predict}
saliency = Image.fromarray(np.uint8(np.round(255 * maps[0, ..., 0])))
ImageOps.fit(saliency, photograph.size).save("saliency.png")
"""

# What differs between the Python examples: imports, prediction, and packages besides NumPy and Pillow.
PYTHON_EXAMPLES = {
    "keras": (
        "import keras",
        'maps = keras.models.load_model("msinet.keras").predict(images)',
        "tensorflow",
    ),
    "weights": (
        "from model import build_model  # of the MSI-Net repository",
        'network = build_model({arguments})\nnetwork.load_weights("msinet.weights.h5")\nmaps = network.predict(images)',
        "tensorflow, and this file's folder to be the current one with the MSI-Net repository on PYTHONPATH",
    ),
    "savedmodel": (
        "import tensorflow as tf",
        'network = tf.saved_model.load("saved_model").signatures["serving_default"]\n'
        'maps = network(input=tf.constant(images))["output"].numpy()',
        "tensorflow",
    ),
    "onnx": (
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("msinet.onnx")\nmaps = session.run(["output"], {{"input": images}})[0]',
        "onnxruntime",
    ),
    "tflite": (
        "from ai_edge_litert.interpreter import Interpreter",
        'network = Interpreter("msinet.tflite").get_signature_runner()\nmaps = network(input=images)["output"]',
        "ai-edge-litert",
    ),
}

JAVASCRIPT_EXAMPLE = """import * as tf from "@tensorflow/tfjs";

const network = await tf.loadGraphModel("./model.json");

// From an image, video or canvas element to a map (h, w), 0 to 1, of the part that the photograph covers.
export const predict = (photograph) => tf.tidy(() => {{
  const pixels = tf.browser.fromPixels(photograph);
  const ratio = Math.min({height} / pixels.shape[0], {width} / pixels.shape[1]);
  const [h, w] = pixels.shape.slice(0, 2).map((side) => Math.round(side * ratio));
  const [top, left] = [({height} - h) >> 1, ({width} - w) >> 1];
  const border = [[top, {height} - h - top], [left, {width} - w - left], [0, 0]];
  const images = tf.expandDims(tf.pad(tf.image.resizeBilinear(pixels, [h, w]), border, 126));
  return tf.slice(tf.squeeze(network.execute(images), [0, 3]), [top, left], [h, w]);
}});
"""


def describe_export(name: str, network: Network, data: str, bits: int, difference: float) -> str:
    """The text of `MODEL.md`, with an example to run."""
    size = network.input_size
    form = FORMATS[name]
    numbers = {"height": size[0], "width": size[1]}
    if name == "tfjs":
        example, needs, language = JAVASCRIPT_EXAMPLE.format(**numbers), "the npm package @tensorflow/tfjs 4.22", "js"
    else:
        imports, predict, packages = PYTHON_EXAMPLES[name]
        arguments = f'context="{network.architecture.context}", width={network.architecture.width:g}'
        predict = predict.format(arguments=arguments)
        example = PYTHON_EXAMPLE.format(imports=imports, predict=predict, **numbers)
        needs, language = f"numpy, pillow and {packages}", "python"
    return TEXT.format(
        title=f"{form.runtime}, {bits} bits a weight",
        file=form.file,
        data=data,
        runtime=form.runtime,
        difference=difference,
        needs=needs,
        language=language,
        example=example,
        **numbers,
    )
