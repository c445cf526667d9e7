"""MSI-Net from Python: a trained network as an object, from photographs to saliency maps.

import msinet
saliency = msinet.load("lite").predict("photograph.jpg")
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from . import checkpoint, checks
from .acquisition import datasets
from .checkpoint import Architecture, Choice, Knowledge
from .config import MAX_PIXELS
from .geometry import fitted_size
from .image_files import UPRIGHT, Unreadable, read_header
from .images import IMAGE_PADDING, as_pixels, read_image, resize_and_pad, restore_map
from .model import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    choose_layout,
    describe_device,
    find_gpus,
    msi_net,
    normalize,
    tensor_convolutions,
)
from .precision import check_precision, half_convolutions
from .utils import UserError, cores, in_batches, onednn_enabled, parallel_map
from .videos import maps

# An array, a Pillow image, or the path of an image file.
Photograph = np.ndarray | Image.Image | Path | str

# Describes weights that were given as arrays.
UNNAMED = Choice(Path("arrays"), "given as arrays")

# Fields that are copied into a run's record.
RECORDED = ("sha256", "fit_shape", "mirrored", "orientation", "precision", "layout")

# Limits memory: photographs and maps that are processed in the background have at most this many pixels in total, at up
# to 15 bytes per pixel. A larger photograph is processed alone.
PIXELS_IN_FLIGHT = 48_000_000


@dataclass(frozen=True)
class Prediction:
    """The saliency map of one photograph, float32 (H, W), 0 to 255, or the reason why there is none, in a few words."""

    photograph: Photograph
    saliency: np.ndarray | None = None
    error: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A trained network, ready to predict; see `load`.

    Attributes:
        arrays: the weights, float32 by published name, batch normalization folded in.
        architecture: width and context module.
        input_size: height and width that photographs are fitted into, divisible by 8.
        layout: of the convolutions, "channels_last" (CPU) or "channels_first" (GPU).
        weights: the file that the arrays came from, and why it was chosen.
        sha256: of that file, or of the files of a folder or checkpoint, in hexadecimal.
        knowledge: how the weights were trained, if that file records it, else None.
        fit_shape: whether the input size is adapted to each photograph's shape, with about as many pixels as
            `input_size`; see `geometry.fitted_size`.
        mirrored: whether to average the maps of the photograph and its mirror image, which takes twice the time.
        max_pixels: larger photographs are rejected.
        orientation: "upright" to turn photographs as their EXIF tag says, or "stored".
        precision: compute dtype of all convolutions except the first and the last: "float32", "bfloat16" or "float16".
        gpus: names of the devices that batches are distributed across; empty for the one that TensorFlow chooses.
    """

    arrays: Mapping[str, np.ndarray]
    architecture: Architecture
    input_size: tuple[int, int]
    layout: str
    weights: Choice
    sha256: str
    knowledge: Knowledge | None = None
    fit_shape: bool = False
    mirrored: bool = False
    max_pixels: int = MAX_PIXELS
    orientation: str = UPRIGHT
    precision: str = "float32"
    gpus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.remember_process()

    def __getstate__(self) -> dict:
        """For `pickle` and `copy`: without the compiled graph, which a copy compiles again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __repr__(self) -> str:
        return f"<MSI-Net {self.architecture.variant}, {self._input()}, {self.precision}, {self.weights.path.name}>"

    def _input(self) -> str:
        height, width = self.input_size
        return f"input {height}×{width}{' in the shape of each photograph' if self.fit_shape else ''}"

    def summary(self) -> str:
        """What a phase prints before it predicts. For how the weights were trained, see `knowledge`."""
        lines = [
            f"Network: {self.weights.path.name} ({self.weights.reason}), {self._input()}.",
            f"Device: {describe_device(self.layout, len(self.gpus))}, {self.precision}.",
            check_precision(self.precision),
        ]
        return "\n".join(line for line in lines if line)

    def __call__(self, images) -> tf.Tensor:
        """The network alone, without resizing.

        Args:
            images: RGB, float32, (B, h, w, 3), 0 to 255; h and w divisible by 8.

        Returns:
            Saliency maps, float32, (B, h, w, 1), 0 to 1.
        """
        checks.check_not_forked()
        return self.graph(images)

    @functools.cached_property
    def graph(self) -> tf.types.experimental.PolymorphicFunction:
        """The network as one compiled graph with its weights as constants; see `__call__`."""
        return self._graph_on(None)

    @functools.cached_property
    def _msi_net(self) -> Callable:
        """`model.msi_net` with these weights."""
        context = self.architecture.context
        assert context  # `from_arrays` rejects an encoder alone.
        if self.precision == "float32":
            conv = tensor_convolutions(self.arrays, self.layout)
        else:
            conv = half_convolutions(self.arrays, self.layout, self.precision)
        return functools.partial(msi_net, conv=conv, layout=self.layout, context=context)

    def _graph_on(self, device: str | None) -> tf.types.experimental.PolymorphicFunction:
        """The network as a graph for one device; None lets TensorFlow choose."""
        network = self._msi_net
        signature = [tf.TensorSpec((None, None, None, 3), tf.float32)]

        def maps(images):
            # Not `tf.device(None)`, which would override the caller's device.
            with tf.device(device) if device else contextlib.nullcontext():
                return network(images)

        return tf.function(maps, signature, autograph=False)

    def predict(self, photograph: Photograph) -> np.ndarray:
        """The saliency map of one photograph.

        Args:
            photograph: RGB as uint8, (H, W, 3), 0 to 255; or grayscale, (H, W) or (H, W, 1); or RGBA, which is
                composited on white; or a Pillow image of any mode; or the path of an image file.

        Returns:
            float32, (H, W), 0 to 1: how likely people are to look at each pixel, relative to the photograph's others.
            Files and Pillow images with an EXIF orientation are turned upright first; see `orientation`.

        Raises:
            UserError: the array has another dtype or shape, or the file cannot be read.
        """
        return next(self.predict_many([photograph]))

    def predict_many(self, photographs: Iterable[Photograph], batch_size: int = 1) -> Iterator[np.ndarray]:
        """The saliency maps of any number of photographs, in order and in constant memory.

        Args:
            photographs: see `predict`; their sizes may differ.
            batch_size: photographs that the network processes together.

        Yields:
            The result of `predict` for each.

        Raises:
            UserError: an argument is wrong, or a photograph cannot be read; the message names it.
        """
        return _to_maps(self.predictions(photographs, batch_size))

    predict_video = maps.predict_video

    def predictions(self, photographs: Iterable[Photograph], batch_size: int = 1) -> Iterator[Prediction]:
        """Like `predict_many`, but continues after a photograph that cannot be read.

        Photographs are read, and maps are resized, in the background.

        Yields:
            A `Prediction` for each photograph, in order. An error that `photographs` raises comes after the
            predictions of the earlier ones.
        """
        checks.check_not_forked()
        batch_size = checks.check_param("batch_size", batch_size)
        checks.check_several(photographs)
        opened = map(self._open, photographs)
        fitted = parallel_map(self._fit, opened, weight=_pixels, most=PIXELS_IN_FLIGHT)
        mapped = self._in_batches(fitted, batch_size)
        return parallel_map(_restore, mapped, weight=_pixels, most=PIXELS_IN_FLIGHT)

    def size_for(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The network's input size for a photograph, both as (height, width)."""
        height, width = self.input_size
        return fitted_size(shape, height * width) if self.fit_shape else self.input_size

    def record(self) -> dict:
        """What a run record says about the network."""
        return {
            "weights": str(self.weights.path),
            "reason": self.weights.reason,
            "variant": self.architecture.variant,
            "context": self.architecture.context,
            "input_size": list(self.input_size),
            "knowledge": self.knowledge and self.knowledge.record(),
            "gpus": list(self.gpus),
            "onednn": onednn_enabled(),
            **{key: getattr(self, key) for key in RECORDED},
        }

    def _open(self, photograph: Photograph) -> "_Opened | Prediction":
        """Read a photograph's size but not its pixels."""
        try:
            if isinstance(photograph, Path | str):
                path = Path(photograph)
                header = read_header(path, most_pixels=self.max_pixels, orientation=self.orientation)
                return _Opened(photograph, header.size, functools.partial(read_image, path, header))
            checks.check_pixels(photograph, self.max_pixels)
            pixels = as_pixels(photograph, self.orientation)
            return _Opened(photograph, pixels.shape[:2], lambda: pixels)
        except (Unreadable, UserError, OSError) as error:
            return Prediction(photograph, error=str(error))

    def _fit(self, opened: "_Opened | Prediction") -> "_Fitted | Prediction":
        """Read a photograph's pixels and fit them into the network's input."""
        if isinstance(opened, Prediction):
            return opened
        try:
            pixels = opened.read()
            size = pixels.shape[:2]
            return _Fitted(opened.photograph, size, _fit_image(pixels, self.size_for(size)))
        except (Unreadable, tf.errors.OpError) as error:
            return Prediction(opened.photograph, error=str(error))

    def _in_batches(self, fitted: Iterable, batch_size: int) -> Iterator["_Mapped | Prediction"]:
        """Predict in batches; failed photographs keep their place."""
        if len(self.gpus) > 1:
            graphs = [self._graph_on(device) for device in self.gpus]
        else:
            # A single photograph leaves cores idle between operations, so two graphs run at once.
            graphs = [self.graph] * (min(2, cores()) if batch_size == 1 else 1)
        # Each thread runs one graph. Batches are prefetched, so a thread need not wait for its next one.
        dispatched = zip(in_batches(fitted, batch_size), itertools.cycle(graphs), strict=False)
        count = len(graphs)
        predicted = parallel_map(lambda pair: self._predict(*pair), dispatched, workers=count, ahead=2 * count)
        return itertools.chain.from_iterable(predicted)

    def _predict(self, batch: list["_Fitted | Prediction"], graph: Callable) -> list["_Mapped | Prediction"]:
        """Predict a batch, with one call of the network per input size."""
        by_size: dict[tuple[int, int], list[tf.Tensor]] = {}
        for item in batch:
            if isinstance(item, _Fitted):
                by_size.setdefault(self.size_for(item.size), []).append(item.image)
        maps = {size: iter(self._maps(tf.stack(images), graph)) for size, images in by_size.items()}

        def mapped(item: _Fitted | Prediction) -> _Mapped | Prediction:
            if isinstance(item, Prediction):
                return item
            return _Mapped(item.photograph, item.size, next(maps[self.size_for(item.size)]))

        return [mapped(item) for item in batch]

    def _maps(self, images: tf.Tensor, graph: Callable) -> tf.Tensor:
        """Maps of fitted images; with `mirrored`, averaged with the maps of the mirror images."""
        maps = graph(images)
        return normalize(maps + graph(images[:, :, ::-1])[:, :, ::-1]) if self.mirrored else maps


# --- Stages of a prediction; each returns failed photographs' `Prediction`s unchanged ----------------------


class _Opened(NamedTuple):
    photograph: Photograph
    size: tuple[int, int]
    read: Callable[[], np.ndarray]  # Returns uint8 (H, W, 3).


class _Fitted(NamedTuple):
    photograph: Photograph
    size: tuple[int, int]  # Of the photograph.
    image: tf.Tensor  # float32 (h, w, 3), 0 to 255; the network's input.


class _Mapped(NamedTuple):
    photograph: Photograph
    size: tuple[int, int]  # Of the photograph.
    saliency: tf.Tensor  # float32 (h, w, 1), 0 to 1; the network's output.


def _to_maps(predictions: Iterable[Prediction]) -> Iterator[np.ndarray]:
    for i, prediction in enumerate(predictions):
        if prediction.saliency is None:
            name = prediction.photograph if isinstance(prediction.photograph, Path | str) else f"photograph {i}"
            raise UserError(f"{name}: {prediction.error}.")
        yield prediction.saliency / np.float32(255)


def _pixels(item: _Opened | _Mapped | Prediction) -> int:
    return 0 if isinstance(item, Prediction) else item.size[0] * item.size[1]


@tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)])
def _fit_image(pixels, size):
    return resize_and_pad(pixels, size, IMAGE_PADDING)


def _restore(mapped: _Mapped | Prediction) -> Prediction:
    """Resize a map to the photograph's size."""
    if isinstance(mapped, Prediction):
        return mapped
    try:
        return Prediction(mapped.photograph, restore_map(mapped.saliency, mapped.size))
    except (tf.errors.OpError, MemoryError) as error:
        reason = str(error).splitlines()[0][:120]
        return Prediction(mapped.photograph, error=f"its map could not be resized ({reason})")


def load(
    weights: str | Path | None = None,
    *,
    data: str = "salicon",
    results: str | Path = "results",
    input_size: tuple[int, int] | str | None = None,
    device: str = "auto",
    mirrored: bool = False,
    max_pixels: int = MAX_PIXELS,
    orientation: str = UPRIGHT,
    precision: str = "float32",
    gpus: int = 0,
) -> Network:
    """Load a trained network.

    Args:
        weights: "lite" (bundled), "published" (downloaded when missing), the path of a file in any known format, or
            None for the best available; see `checkpoint.choose_weights`.
        data: the dataset whose network and input size to use, one of `datasets.names()`.
        results: the folder with the checkpoints of your training runs.
        input_size: height and width that photographs are fitted into, divisible by 8; "auto" to adapt it to each
            photograph's shape, with about as many pixels as the default. The default is the weights' training size, or
            the dataset's if their file does not record one.
        device: "cpu" (channels-last), "gpu" (channels-first), or "auto" for a GPU if TensorFlow sees one.
        mirrored, max_pixels, orientation: see `Network`.
        precision: compute dtype of all convolutions except the first and the last: "float32", as published;
            "bfloat16", or on GPUs "float16", which are faster and less exact.
        gpus: number of this machine's GPUs to distribute batches across; 0 for all that TensorFlow sees.

    Raises:
        UserError: the weights are not available, damaged or incomplete; or this machine has fewer GPUs, or none
            for float16.
    """
    check_precision(precision)
    checks.check_param("device", device)
    checks.check_param("orientation", orientation)
    gpus = checks.check_param("gpus", gpus)
    max_pixels = checks.check_whole_number("max_pixels", max_pixels, 1, MAX_PIXELS)
    if data not in datasets.names():
        raise UserError(f"Received the dataset {data!r}, expected one of {', '.join(datasets.names())}.")
    if input_size not in (None, "auto"):
        input_size = checks.check_input_size(input_size)
    layout = choose_layout(device)
    names = find_gpus(gpus) if gpus or layout == CHANNELS_FIRST else []
    choice = checkpoint.choose_weights(data, weights=None if weights is None else str(weights), results=Path(results))
    arrays, sha256 = checkpoint.read_arrays(choice.path), checkpoint.file_sha256(choice.path)
    knowledge = checkpoint.read_knowledge(choice.path)
    size = knowledge.size_for(data) if knowledge else datasets.input_size(data)
    if input_size is not None and not isinstance(input_size, str):
        size = input_size
    network = from_arrays(arrays, size, layout=layout, weights=choice, sha256=sha256, knowledge=knowledge)
    fit_shape = input_size == "auto" or (input_size is None and knowledge is not None and knowledge.fit_shape)
    chosen: dict = {"mirrored": mirrored, "max_pixels": max_pixels, "orientation": orientation, "precision": precision}
    return replace(network, fit_shape=fit_shape, gpus=tuple(names), **chosen)


def from_arrays(
    arrays: Mapping[str, np.ndarray],
    input_size: tuple[int, int],
    *,
    layout: str = CHANNELS_LAST,
    weights: Choice = UNNAMED,
    sha256: str = "",
    knowledge: Knowledge | None = None,
) -> Network:
    """A network from weights in memory.

    Args:
        arrays: by published name, as `checkpoint.read_arrays` returns them.
        input_size, layout, weights, sha256, knowledge: see `Network`.

    Raises:
        UserError: the arrays belong to an encoder alone, or the input size is wrong.
    """
    folded = checkpoint.fold_batch_norm(arrays)
    architecture = checkpoint.describe(folded)
    if architecture.context is None:
        raise UserError(
            f"{weights.path} holds an encoder alone, expected a whole network: choose another file with --weights."
        )
    return Network(folded, architecture, checks.check_input_size(input_size), layout, weights, sha256, knowledge)
