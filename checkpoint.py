"""Which weights a run uses, and why; our own files of weights, and what they know about themselves.

Everywhere in the program, weights are a dictionary of float32 arrays by published name: "conv1/conv1_1/kernel" (height,
width, in, out), "conv1/conv1_1/bias" (out,), and so on to "decoder/conv4/bias". A network that normalises over the
batch has "conv1/conv1_1/gamma", "beta", "moving_mean" and "moving_variance" (out,) as well. `weight_files` reads them.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from config import VARIANTS, VERSION
from model import NORM_EPSILON, published_name
from utils import DownloadError, UserError, check_space, whole_file

# What belongs to files is used through here too, so that weights are one thing to the rest of the program.
from weight_files import NORM_VARIABLES, check_stored, existing, files_of, read_note, reading, write_note
from weight_files import Architecture as Architecture
from weight_files import describe as describe
from weight_files import expected_shapes as expected_shapes
from weight_files import read_arrays as read_arrays

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
LITE_PATH = WEIGHTS_FOLDER / "msinet_lite.npz"

# More than what the file of a checkpoint has beside the variables' values and what it says about itself, in bytes.
HDF5_OVERHEAD = 1_000_000


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
        data: one of `datasets.names()`.
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
        return Choice(existing(Path(weights)), "named by --weights")
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
        return Choice(existing(Path(init)), "named by --init")
    best = best_checkpoint(results, "salicon")
    if best.exists():
        return Choice(best, "the best SALICON checkpoint")
    if variant == "lite":
        return Choice(LITE_PATH, "the lite network that comes with the program")
    try:
        return published_weights("salicon")
    except DownloadError as error:
        raise DownloadError(
            f"Fine-tuning starts from a network trained on SALICON, and there is none: {best} does not exist, and the "
            f"published one cannot be had. Train one with 'python main.py train -d salicon', or choose another start "
            f"with --init {{vgg16,scratch,lite,PATH}}.",
            error.details,
            error.brief,
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
    except DownloadError as error:
        message = f"{error.message} Or start from random weights with --init scratch."
        raise DownloadError(message, error.details, error.brief) from error
    if path.name == "vgg16_hybrid.ckpt":
        return Choice(path, "the published VGG16 weights")
    return Choice(path, "Keras' ImageNet VGG16")


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


# --- What weights know about themselves -------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedOn:
    """What a run saw of one dataset.

    Attributes:
        input_size: height and width that its images were fitted into.
        train, valid: names of the images that trained, and of those that chose the best epoch; see `data.Sample`.
        sha256: of both lists; see `data.names_hash`.
    """

    input_size: tuple[int, int]
    train: tuple[str, ...]
    valid: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Knowledge:
    """What our own files of weights say about themselves.

    Attributes:
        input_size: height and width that photographs are fitted into; of several datasets, those of the largest.
        context, variant: of the network.
        datasets: by name, what trained it; empty where that is not known.
        valid_fraction: share of one's own photographs that was to validate; None for other datasets.
        fit_shape: whether the input's shape was each photograph's own, with as many pixels; see `data.fitted_size`.
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
        """Height and width of the input that the weights were trained with: for this dataset, or else for another."""
        return self.datasets[dataset].input_size if dataset in self.datasets else self.input_size

    def trained_on(self, dataset: str, names: Sequence[str]) -> list[str]:
        """Those of some images of a dataset that trained the weights, known by their names."""
        trained = set(self.datasets[dataset].train) if dataset in self.datasets else set()
        return [name for name in names if name in trained]

    def valid_names(self, dataset: str) -> tuple[str, ...]:
        """The images of a dataset that validated while the weights were trained; none where that is not known."""
        return self.datasets[dataset].valid if dataset in self.datasets else ()

    def __str__(self) -> str:
        height, width = self.input_size
        sets = [f"{name} ({len(d.train)} images, {len(d.valid)} validating)" for name, d in self.datasets.items()]
        shape = " or as many pixels of the photograph's shape" if self.fit_shape else ""
        return f"input {height}×{width}{shape}, trained on {' and '.join(sets) or 'images that are not known'}"

    def record(self) -> dict:
        """What a run's record says of it, without the names of all images."""
        datasets = {
            name: {"train": len(d.train), "valid": len(d.valid), "sha256": d.sha256}
            for name, d in self.datasets.items()
        }
        return {"input_size": list(self.input_size), "datasets": datasets, "version": self.version}

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping) -> "Knowledge":
        """From what JSON makes of `to_json`, with any other keys beside it.

        Raises:
            ValueError, KeyError, TypeError: it was not made so.
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
        raise TypeError("the names of the images are no texts")
    return tuple(names)


def read_knowledge(path: Path) -> Knowledge | None:
    """What a file of weights knows about itself; None for files of an earlier version, or of others.

    Raises:
        UserError: the file is damaged.
    """
    content = read_note(path)
    if content is None or "datasets" not in content:
        return None
    with reading(path, "says of itself what cannot be", "Fetch or export it again."):
        return Knowledge.from_json(content)


def write_knowledge(path: Path, knowledge: Knowledge) -> None:
    """Add knowledge to an `.h5`, `.keras` or `.npz` file of weights, or to the folder of an export."""
    write_note(path, knowledge.to_json())


def knowledge_of(network) -> Knowledge:
    """What an export of a network knows: the network's own knowledge, with the input size that it predicts at.

    Args:
        network: see `msinet.Network`.
    """
    if network.knowledge:
        return replace(network.knowledge, input_size=network.input_size, fit_shape=network.fit_shape)
    return Knowledge(network.input_size, network.architecture.context, network.architecture.variant)


# --- Our own files ----------------------------------------------------------------------------------------------------


def save_checkpoint(model: keras.Model, path: Path, attributes: dict) -> None:
    """Write a network's weights, its optimizer's state, and attributes that JSON can hold, as one `.weights.h5`.

    Args:
        attributes: what `read_attributes` gives back; with what `Knowledge.to_json` gives among it, `read_knowledge`
            finds that.

    Raises:
        UserError: the disk has too little space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = getattr(model, "optimizer", None)  # A model that was not compiled has not even the attribute.
    variables = [*model.variables, *(optimizer.variables if optimizer else [])]
    # The HDF5 library does not survive a disk that fills up while it writes: it ends the program.
    size = sum(math.prod(variable.shape) * 4 for variable in variables) + len(json.dumps(attributes))
    check_space(path.parent, size + HDF5_OVERHEAD)
    model.save_weights(path)
    write_note(path, attributes)


def load_checkpoint(model: keras.Model, path: Path) -> None:
    """Put weights and optimizer state from `save_checkpoint` into a compiled model of the same architecture.

    Raises:
        UserError: the file is damaged, or of another architecture.
    """
    with reading(path, "cannot continue this run", "Begin anew with --restart."):
        with h5py.File(path, "r") as content:
            check_stored(content)  # The optimizer's state, too, which Keras reads without looking.
        model.load_weights(path)


def read_attributes(path: Path) -> dict:
    """The attributes that `save_checkpoint` was given.

    Raises:
        UserError: the file is damaged, or was written by another program.
    """
    advice = "Remove it, or begin anew with --restart."
    content = read_note(path, advice)
    if content is None:
        raise UserError(f"{path} is no checkpoint of a training run. {advice}")
    return content


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], knowledge: Knowledge | None = None) -> None:
    """Write arrays as a compressed `.npz` of float16, half the size of float32. `read_arrays` restores float32."""
    halves: dict[str, Any] = {name: values.astype(np.float16) for name, values in arrays.items()}
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **halves)
        if knowledge:
            write_knowledge(temporary, knowledge)


def file_sha256(path: Path) -> str:
    """SHA-256 in hexadecimal of a file of weights; of a folder or a checkpoint, of all its files in their order."""
    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as contents:
            while chunk := contents.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
