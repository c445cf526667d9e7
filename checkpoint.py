"""Weights in and out: every published format is read, our own is written; which weights a run uses, and why.

Everywhere in the program, weights are a dictionary of float32 arrays by published name: "conv1/conv1_1/kernel" (height,
width, in, out), "conv1/conv1_1/bias" (out,), and so on to "decoder/conv4/bias". A network that normalises over the
batch has "conv1/conv1_1/gamma", "beta", "moving_mean" and "moving_variance" (out,) as well. Reading executes nothing
that a file contains.
"""

import functools
import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from config import VARIANTS
from model import NORM_EPSILON, msi_net, published_name, scaled_filters
from utils import DownloadError, UserError, check_space, whole_file

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
LITE_PATH = WEIGHTS_FOLDER / "msinet_lite.npz"

# Where `save_checkpoint` puts what else is worth knowing, as JSON, in the file of weights.
ATTRIBUTES_KEY = "msinet"

# More than what the file of a checkpoint has beside the variables' values, in bytes.
HDF5_OVERHEAD = 1_000_000

# Variables of Keras layers in the order in which Keras stores them.
CONVOLUTION_VARIABLES = ("kernel", "bias")
NORM_VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")

# A published name, possibly behind a prefix; VGG16's checkpoint calls kernels "weights".
PUBLISHED_NAME = re.compile(
    r"(?:^|/)((?:conv[1-5]|aspp|decoder)/conv\w+)/(kernel|bias|weights|biases|gamma|beta|moving_mean|moving_variance)$"
)
PUBLISHED_VARIABLES = {"weights": "kernel", "biases": "bias"}


@dataclass(frozen=True)
class Architecture:
    """The network that a set of arrays belongs to.

    Attributes:
        width: factor on the filter counts.
        context: "aspp" or "plain"; None for an encoder alone, as VGG16's weights are.
        batch_norm: whether the arrays hold a batch normalisation that is not folded in.
    """

    width: float
    context: str | None
    batch_norm: bool

    @property
    def variant(self) -> str:
        """The name of its width in `config.VARIANTS`."""
        names = {row["width"]: name for name, row in VARIANTS.items()}
        return names.get(self.width, f"width {self.width:g}")


@dataclass(frozen=True)
class Choice:
    """The file of weights that a run uses, and why it is this one."""

    path: Path
    reason: str


# --- Which weights ----------------------------------------------------------------------------------------------------


def choose_weights(data: str, weights: str | None = None, results: Path = Path("results")) -> Choice:
    """The weights that predict for a dataset.

    In order: the file the user names; the best checkpoint of a training run; the published weights in `weights/`, which
    are downloaded when missing; the lite network that comes with the program.

    Args:
        data: a key of `config.DIMS`.
        weights: a path, "published" or "lite" to force either, or None.
        results: the folder with the checkpoints of training runs.

    Raises:
        UserError: what was asked for is not there.
    """
    if weights == "lite":
        return Choice(LITE_PATH, "the lite network, as asked for")
    if weights == "published":
        return published_weights(data)
    if weights is not None:
        return Choice(_existing(Path(weights)), "named by --weights")
    best = best_checkpoint(results, data)
    if best.exists():
        return Choice(best, "the best checkpoint of training")
    try:
        return published_weights(data)
    except DownloadError as error:
        if not LITE_PATH.exists():
            raise
        return Choice(
            LITE_PATH,
            f"the lite network that comes with the program, as the published one cannot be had: {error.brief}",
        )


def initial_weights(
    name: str, init: str | None, *, results: Path, context: str = "aspp", variant: str = "full"
) -> tuple[dict[str, np.ndarray], str]:
    """What training starts from.

    Args:
        name: of the dataset, or of several joined by "+".
        init: "scratch", "vgg16", "lite", a path, or None for the paper's choice: VGG16 for SALICON, and for every other
            dataset the best SALICON checkpoint or the published SALICON weights. The lite variant, which was never
            published, takes the lite network that comes with the program in their place.
        results: the folder with the checkpoints of training runs.
        context, variant: of the network to train.

    Returns:
        Arrays by published name, empty for random weights, and a phrase that says what they are.

    Raises:
        UserError: they cannot be had, or belong to another network than the one to train.
    """
    if init == "scratch":
        return {}, "random weights (He initialisation)"
    choice = _initial_choice(name, init, results, variant)
    arrays = read_arrays(choice.path)
    found = describe(arrays)
    if found.width != VARIANTS[variant]["width"]:
        raise UserError(
            f"{choice.path} holds the {found.variant} network, but the {variant} one is to be trained: add "
            f"--variant {found.variant}, or choose another --init."
        )
    if found.context not in (None, context):
        raise UserError(
            f"{choice.path} holds a network with --context {found.context}, but {context} is to be trained: add "
            f"--context {found.context}, or choose another --init."
        )
    return arrays, f"{choice.path} ({choice.reason})"


def _initial_choice(name: str, init: str | None, results: Path, variant: str) -> Choice:
    if init == "lite":
        return Choice(LITE_PATH, "the lite network that comes with the program")
    if init == "vgg16" or (init is None and name == "salicon"):
        return vgg16_weights()
    if init is not None:
        return Choice(_existing(Path(init)), "named by --init")
    best = best_checkpoint(results, "salicon")
    if best.exists():
        return Choice(best, "the best SALICON checkpoint")
    if variant == "lite":
        return Choice(LITE_PATH, "the lite network that comes with the program")
    try:
        return published_weights("salicon")
    except UserError as error:
        raise UserError(
            f"Fine-tuning starts from a network trained on SALICON, and there is none: {best} does not exist, and "
            f"{error} Train one with 'python main.py train -d salicon', put the published one there, or choose "
            f"another start with --init {{vgg16,scratch,lite,PATH}}."
        ) from error


def best_checkpoint(results: Path, name: str) -> Path:
    """Where a training run keeps the checkpoint with the lowest validation loss."""
    return results / "ckpts" / "best" / f"{name}.weights.h5"


def published_weights(data: str) -> Choice:
    """The published network of a dataset, or SALICON's for one's own photographs, fetched into `weights/` when missing.

    Raises:
        DownloadError: it is not there, and cannot be had.
    """
    import download

    dataset = "salicon" if data == "custom" else data
    path = download.weights(f"model_{dataset}_cpu", WEIGHTS_FOLDER)
    return Choice(path, f"the published network for {dataset}")


def vgg16_weights() -> Choice:
    """The encoder that the paper starts from, or else Keras' ImageNet VGG16; downloaded to `weights/` when missing.

    Raises:
        UserError: neither is there, and neither can be had.
    """
    import download

    try:
        path = download.weights("vgg16_hybrid", WEIGHTS_FOLDER)
    except UserError as error:
        raise UserError(f"{error} Or start from random weights with --init scratch.") from error
    if path.name == "vgg16_hybrid.ckpt":
        return Choice(path, "the published VGG16 weights")
    return Choice(path, "Keras' ImageNet VGG16")


def _existing(path: Path) -> Path:
    if path.exists() or _is_checkpoint(path):
        return path
    raise UserError(
        f"No weights at {path}: expected a .pb, .weights.h5, .keras, .h5 or .npz file, a SavedModel "
        f"folder, or the prefix of a TensorFlow checkpoint."
    )


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the weights in a file of any known format.

    Args:
        path: a frozen graph or bare `saved_model.pb`, a SavedModel folder, a TensorFlow checkpoint (its prefix, or its
            `.index`), Keras' `.weights.h5` or `.keras`, Keras' ImageNet VGG16 (`..._notop.h5`), or `.npz`.

    Returns:
        Arrays by published name, complete: of the whole network, or of the encoder alone.

    Raises:
        UserError: the file is missing, damaged, or of another network; it lists the arrays at fault.
    """
    path = _existing(Path(path))
    try:
        arrays = _read(path)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, tf.errors.OpError, DecodeError) as error:
        raise UserError(
            f"{path} is damaged, or no file of weights: {str(error).splitlines()[0][:200]}. Fetch or export it again."
        ) from error
    _check(arrays, path)
    return arrays


def file_sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of a file of weights; of a folder or a checkpoint, of all its files in their order."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    elif _is_checkpoint(path):
        prefix = path.with_suffix("") if path.suffix == ".index" else path
        files = sorted(path.parent.glob(f"{prefix.name}.*"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as contents:
            while chunk := contents.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def describe(arrays: Mapping[str, np.ndarray]) -> Architecture:
    """The architecture that arrays by published name belong to."""
    first = arrays.get("conv1/conv1_1/bias", np.zeros(64))
    context = None
    if any(name.startswith(("aspp/", "decoder/")) for name in arrays):
        context = "plain" if "aspp/conv1/kernel" in arrays else "aspp"
    return Architecture(first.shape[0] / 64, context, any(name.endswith("/gamma") for name in arrays))


@functools.cache
def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a network, by published name and in the network's order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(x, name, filters, size=3, dilation=1, relu=True):
        """A convolution that computes nothing and notes the shapes of its variables."""
        filters = scaled_filters(filters, architecture.width)
        shapes[f"{name}/kernel"] = (size, size, x.shape[-1], filters)
        shapes[f"{name}/bias"] = (filters,)
        if architecture.batch_norm and relu:
            shapes.update({f"{name}/{variable}": (filters,) for variable in NORM_VARIABLES})
        return keras.KerasTensor((*x.shape[:-1], filters))

    msi_net(keras.KerasTensor((1, 64, 64, 3)), conv, context=architecture.context or "aspp")
    if architecture.context is None:
        return {name: shape for name, shape in shapes.items() if not name.startswith(("aspp/", "decoder/"))}
    return shapes


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Compare the arrays of a file with those of the architecture that they seem to be of."""
    expected = expected_shapes(describe(arrays))
    complaints = [f"{name} is missing" for name in expected if name not in arrays]
    complaints += [f"{name} is surplus" for name in arrays if name not in expected]
    complaints += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    complaints += [
        f"{name} holds values that are not numbers" for name in arrays if not np.isfinite(arrays[name]).all()
    ]
    if len(complaints) > 12:
        complaints[12:] = [f"and {len(complaints) - 12} more"]
    if complaints:
        raise UserError(f"{path} does not hold MSI-Net's weights: {'; '.join(complaints)}.")


def _read(path: Path) -> dict[str, np.ndarray]:
    if _is_checkpoint(path):
        return _read_checkpoint(path)
    if path.is_dir():
        # An export holds the SavedModel in a folder of its own.
        inner = path / "saved_model"
        return _read_protobuf((inner if inner.is_dir() else path) / "saved_model.pb")
    if path.suffix == ".pb":
        return _read_protobuf(path)
    if path.suffix == ".npz":
        if not zipfile.is_zipfile(path):
            raise ValueError("not an .npz archive")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float32) for name in file.files}
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            return _read_hdf5(io.BytesIO(archive.read("model.weights.h5")))
    if path.suffix == ".h5":
        return _read_hdf5(path)
    raise ValueError(f"received the suffix '{path.suffix}', expected .pb, .h5, .keras, .npz or .index")


def _read_protobuf(path: Path) -> dict[str, np.ndarray]:
    """Constants of a frozen graph or a SavedModel, straight from the message: no graph is built, nothing runs."""
    contents = path.read_bytes()
    saved = SavedModel()
    saved.ParseFromString(contents)
    if saved.saved_model_schema_version and saved.meta_graphs:
        graphs = [meta.graph_def for meta in saved.meta_graphs]
    else:
        graphs = [tf.compat.v1.GraphDef.FromString(contents)]
    nodes = [node for graph in graphs for node in graph.node]
    # TensorFlow 2 puts what a SavedModel computes into library functions.
    nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
    constants = ((node.name, node.attr["value"].tensor) for node in nodes if node.op == "Const")
    return _by_published_name(
        (name, tf.make_ndarray(tensor)) for name, tensor in constants if PUBLISHED_NAME.search(name)
    )


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path.with_suffix("") if path.suffix == ".index" else path))
    names = reader.get_variable_to_shape_map()
    return _by_published_name((name, reader.get_tensor(name)) for name in sorted(names) if PUBLISHED_NAME.search(name))


def _read_hdf5(file) -> dict[str, np.ndarray]:
    """Weights as Keras 3 writes them, or Keras' ImageNet VGG16."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(file, "r") as content:
        if "layers" not in content:
            return _read_imagenet(content)
        # Keras calls the groups after the layers' classes, and keeps their names as an attribute.
        for group in (layer["vars"] for layer in content["layers"].values() if len(layer["vars"])):
            layer = group.attrs["name"]
            variables = NORM_VARIABLES if layer.endswith("_norm") else CONVOLUTION_VARIABLES
            for name, values in zip(variables, group.values(), strict=True):
                arrays[f"{published_name(layer.removesuffix('_norm'))}/{name}"] = values[()].astype(np.float32)
    return arrays


def _read_imagenet(content: h5py.File) -> dict[str, np.ndarray]:
    """The layers "block1_conv1" to "block5_conv3". They expect B, G, R, and ours R, G, B."""
    arrays: dict[str, np.ndarray] = {}

    def visit(path: str, item) -> None:
        block = re.search(r"block(\d)_conv(\d)/[^/]*$", path)
        if block and isinstance(item, h5py.Dataset):
            name = "conv{0}/conv{0}_{1}".format(*block.groups())
            arrays[f"{name}/{'kernel' if item.ndim == 4 else 'bias'}"] = item[()].astype(np.float32)

    content.visititems(visit)
    arrays["conv1/conv1_1/kernel"] = np.ascontiguousarray(arrays["conv1/conv1_1/kernel"][:, :, ::-1])
    return arrays


def _by_published_name(items) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for full_name, values in items:
        found = PUBLISHED_NAME.search(full_name)
        if found is None:
            raise ValueError(f"{full_name} is not of this network")
        layer, variable = found.groups()
        name = f"{layer}/{PUBLISHED_VARIABLES.get(variable, variable)}"
        if name in arrays and not np.array_equal(arrays[name], values):
            raise ValueError(f"{name} occurs twice with different values")
        arrays[name] = np.asarray(values, np.float32)
    return arrays


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".index" or path.with_name(path.name + ".index").exists()


# --- Between arrays and networks --------------------------------------------------------------------------------------


def arrays_of(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of a network's weights by published name."""
    return {name: np.array(variable) for name, variable in _variables(model).items()}


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Put arrays into a network. Those of an encoder alone leave the rest of the network as it is.

    Raises:
        UserError: the arrays are those of another network.
    """
    variables = _variables(model)
    parts = ("conv",) if describe(arrays).context is None else ("conv", "aspp", "decoder")
    wanted = {name for name in variables if name.startswith(parts) and name.rpartition("/")[2] not in NORM_VARIABLES}
    complaints = sorted(wanted - arrays.keys()) + sorted(arrays.keys() - variables.keys())
    complaints += [name for name in wanted & arrays.keys() if variables[name].shape != arrays[name].shape]
    if complaints:
        raise UserError(
            f"The weights are those of another network; {len(complaints)} arrays differ, the first is {complaints[0]}. "
            f"Choose weights of the same --variant and --context."
        )
    for name, values in arrays.items():
        variables[name].assign(values)


def fold_batch_norm(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold each batch normalisation into the kernel and bias before it; without any, the arrays come back unchanged.

    Returns:
        Arrays of the plain network, which gives the same maps.
    """
    folded = {name: values for name, values in arrays.items() if name.rpartition("/")[2] not in NORM_VARIABLES}
    for layer in {name.rpartition("/")[0] for name in arrays if name.endswith("/gamma")}:
        gamma, beta, mean, variance = (arrays[f"{layer}/{variable}"].astype(np.float64) for variable in NORM_VARIABLES)
        scale = gamma / np.sqrt(variance + NORM_EPSILON)
        folded[f"{layer}/kernel"] = (arrays[f"{layer}/kernel"] * scale).astype(np.float32)
        folded[f"{layer}/bias"] = ((arrays[f"{layer}/bias"] - mean) * scale + beta).astype(np.float32)
    return folded


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    found = {}
    for layer in model.layers:
        for variable in layer.weights:
            found[f"{published_name(layer.name.removesuffix('_norm'))}/{variable.name}"] = variable
    return found


# --- Our own files ----------------------------------------------------------------------------------------------------


def save_checkpoint(model: keras.Model, path: Path, attributes: dict) -> None:
    """Write a network's weights, its optimizer's state, and attributes that JSON can hold, as one `.weights.h5`.

    Raises:
        UserError: the disk has too little space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = getattr(model, "optimizer", None)  # A model that was not compiled has not even the attribute.
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    # The HDF5 library does not survive a disk that fills up while it writes: it ends the program.
    check_space(path.parent, sum(math.prod(variable.shape) * 4 for variable in variables) + HDF5_OVERHEAD)
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        # A dataset, as HDF5 limits what it calls attributes to 64 kB.
        file[ATTRIBUTES_KEY] = json.dumps(attributes)


def load_checkpoint(model: keras.Model, path: Path) -> None:
    """Put weights and optimizer state from `save_checkpoint` into a compiled model of the same architecture.

    Raises:
        UserError: the file is damaged, or of another architecture.
    """
    try:
        model.load_weights(path)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} cannot continue this run: {str(error).splitlines()[0][:200]}. Begin anew with --restart."
        ) from error


def read_attributes(path: Path) -> dict:
    """The attributes that `save_checkpoint` was given.

    Raises:
        UserError: the file is damaged, or was written by another program.
    """
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file[ATTRIBUTES_KEY][()])
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} is damaged, or no checkpoint of a training run ({str(error).splitlines()[0][:120]}). Remove it, "
            f"or begin anew with --restart."
        ) from error


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a compressed `.npz` of float16, half the size of float32. `read_arrays` restores float32."""
    halves: dict[str, Any] = {name: values.astype(np.float16) for name, values in arrays.items()}
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **halves)
