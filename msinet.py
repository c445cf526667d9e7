"""MSI-Net from Python: a trained network as an object, from photographs to saliency maps.

import msinet

network = msinet.load("lite")
saliency = network.predict("photograph.jpg")
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

import checkpoint
from acquisition import datasets
from checkpoint import Architecture, Choice, Knowledge
from config import MAX_PIXELS
from data import Header, Unreadable, fitted_size, read_header
from images import IMAGE_PADDING, read_image, resize_and_pad, restore_map
from model import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    choose_layout,
    find_gpus,
    msi_net,
    normalize,
    tensor_convolutions,
)
from precision import check_precision, half_convolutions
from utils import UserError, cores, parallel_map

# A photograph: an array, an image of Pillow, or the path of an image file.
Photograph = np.ndarray | Image.Image | Path | str

# In place of a file, for weights that came from none.
UNNAMED = Choice(Path("arrays"), "given as arrays")

# Photographs that are read and maps that are brought to their sizes at one time have at most so many pixels together,
# as they take up to 15 bytes for each; a greater one goes alone.
PIXELS_IN_FLIGHT = 48_000_000


@dataclass(frozen=True)
class Prediction:
    """The saliency map of one photograph, float32 (H, W), 0 to 255, or a few words on what kept it from being made."""

    photograph: Photograph
    saliency: np.ndarray | None = None
    error: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A trained network, ready to predict; `load` makes one.

    Attributes:
        arrays: the weights, float32 by published name, batch normalisation folded in.
        architecture: width and context module.
        input_size: height and width that photographs are fitted into, divisible by 8.
        layout: what the convolutions compute in, "channels_last" or "channels_first".
        device: the same in words, and why.
        weights: the file that the arrays came from, and why it is this one.
        sha256: of that file, or of the files of a folder or checkpoint, in hexadecimal.
        knowledge: what that file says of how the weights were trained; None where it does not say.
        fit_shape: whether each photograph chooses, of the input sizes with about as many pixels, the one that suits its
            shape; see `data.fitted_size`.
        mirrored: whether the map is the mean of that of the photograph and that of its mirror image, which takes twice
            the time.
        max_pixels: a photograph of more pixels is refused.
        precision: what all convolutions but the first and the last compute in, "float32", "bfloat16" or "float16".
        gpus: names of the devices that batches are dealt out to in turn; none for the one that TensorFlow chooses.
    """

    arrays: Mapping[str, np.ndarray]
    architecture: Architecture
    input_size: tuple[int, int]
    layout: str
    device: str
    weights: Choice
    sha256: str
    knowledge: Knowledge | None = None
    fit_shape: bool = False
    mirrored: bool = False
    max_pixels: int = MAX_PIXELS
    precision: str = "float32"
    gpus: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.input_size
        return (
            f"<MSI-Net {self.architecture.variant}, context {self.architecture.context}, input {height}×{width}, "
            f"{self.layout}, {self.precision}, weights {self.weights.path} ({self.weights.reason}), "
            f"SHA-256 {self.sha256[:12]}…, training: {self.knowledge or 'not known'}>"
        )

    def summary(self) -> str:
        """What a phase prints before it predicts."""
        knowledge = self.knowledge or "the file does not say how it was trained"
        lines = [
            f"Weights: {self.weights.path} ({self.weights.reason}); {knowledge}.",
            f"Device: {self.device}, {self.precision}.",
            check_precision(self.precision),
        ]
        return "\n".join(line for line in lines if line)

    def __call__(self, images) -> tf.Tensor:
        """The network itself, as the paper's figure draws it.

        Args:
            images: RGB, float32, (B, h, w, 3), 0 to 255, already fitted: h and w divisible by 8.

        Returns:
            Saliency maps, float32, (B, h, w, 1), 0 to 1.
        """
        return self.graph(images)

    @functools.cached_property
    def graph(self) -> tf.types.experimental.PolymorphicFunction:
        """The network as one compiled graph with its weights as constants; see `__call__`."""
        return self._graph_on(None)

    @functools.cached_property
    def _msi_net(self) -> Callable:
        """`model.msi_net` with these weights, for the graph of each device."""
        context = self.architecture.context
        assert context  # `from_arrays` refuses an encoder alone.
        if self.precision == "float32":
            conv = tensor_convolutions(self.arrays, self.layout)
        else:
            conv = half_convolutions(self.arrays, self.layout, self.precision, context)
        return functools.partial(msi_net, conv=conv, layout=self.layout, context=context)

    def _graph_on(self, device: str | None) -> tf.types.experimental.PolymorphicFunction:
        """The network as a graph for one device; None for the one that TensorFlow chooses."""
        network = self._msi_net
        signature = [tf.TensorSpec((None, None, None, 3), tf.float32)]

        def maps(images):
            # Not `tf.device(None)`, which would hide the device that a caller chose.
            with tf.device(device) if device else contextlib.nullcontext():
                return network(images)

        return tf.function(maps, signature, autograph=False)

    def predict(self, photograph: Photograph) -> np.ndarray:
        """The saliency map of one photograph.

        Args:
            photograph: RGB as uint8, (H, W, 3), 0 to 255; or grayscale, (H, W) or (H, W, 1); or with a fourth channel
                for transparency, which is dropped; or an image of Pillow; or the path of an image file.

        Returns:
            float32, (H, W), 0 to 1: how likely each pixel is to be looked at, relative to this photograph's others.

        Raises:
            UserError: an array of another type or shape, or a file that cannot be read.
        """
        return next(self.predict_many([photograph]))

    def predict_many(self, photographs: Iterable[Photograph], batch_size: int = 1) -> Iterator[np.ndarray]:
        """The saliency maps of any number of photographs, in order and in constant memory.

        Args:
            photographs: see `predict`; of any sizes, mixed as you like.
            batch_size: photographs that go through the network together.

        Yields:
            For each, what `predict` returns.

        Raises:
            UserError: at a photograph that cannot be read; it says which.
        """
        for i, prediction in enumerate(self.predictions(photographs, batch_size)):
            if prediction.saliency is None:
                name = prediction.photograph if isinstance(prediction.photograph, Path | str) else f"photograph {i}"
                raise UserError(f"{name}: {prediction.error}.")
            yield prediction.saliency / np.float32(255)

    def predictions(self, photographs: Iterable[Photograph], batch_size: int = 1) -> Iterator[Prediction]:
        """Like `predict_many`, but a photograph that cannot be read does not stop the others.

        Photographs are read, and maps are brought to their sizes, in the background.

        Yields:
            A `Prediction` for each photograph, in order.
        """
        opened = (self._open(photograph) for photograph in photographs)
        loaded = parallel_map(self._load, opened, weight=_pixels, most=PIXELS_IN_FLIGHT)
        predicted = self._in_batches(loaded, batch_size)
        return parallel_map(self._restore, predicted, weight=_pixels, most=PIXELS_IN_FLIGHT)

    def size_for(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the network's input for a photograph of this height and width."""
        height, width = self.input_size
        return fitted_size(shape, height * width) if self.fit_shape else self.input_size

    def record(self) -> dict:
        """What a run's record says of the network that made it."""
        return {
            "weights": str(self.weights.path),
            "reason": self.weights.reason,
            "sha256": self.sha256,
            "variant": self.architecture.variant,
            "context": self.architecture.context,
            "input_size": list(self.input_size),
            "knowledge": self.knowledge and self.knowledge.record(),
            "fit_shape": self.fit_shape,
            "mirrored": self.mirrored,
            "device": self.device,
            "precision": self.precision,
        }

    def _open(self, photograph: Photograph) -> "_Row":
        """What is known of a photograph before it is read."""
        try:
            if isinstance(photograph, Path | str):
                header = read_header(Path(photograph), most_pixels=self.max_pixels)
                return _Row(photograph, header.size, header)
            pixels = as_pixels(photograph)
            return _Row(photograph, pixels.shape[:2], pixels)
        except (Unreadable, UserError, OSError) as error:
            return _Row(photograph, error=str(error))

    def _load(self, row: "_Row") -> "_Row":
        """Put the photograph, fitted into the network's input, in the place of its pixels."""
        if row.error:
            return row
        try:
            pixels = row.content
            if isinstance(pixels, Header) and isinstance(row.photograph, Path | str):
                pixels = read_image(Path(row.photograph), pixels)
                row.size = pixels.shape[:2]
            row.content = _fit(pixels, self.size_for(row.size))
        except (Unreadable, tf.errors.OpError) as error:
            row.error = str(error)
        return row

    def _in_batches(self, rows: Iterable["_Row"], batch_size: int) -> Iterator["_Row"]:
        """Replace each row's image by its map; rows with an error pass through in their place."""
        rows = iter(rows)
        chunks = iter(lambda: list(itertools.islice(rows, batch_size)), [])
        # Each thread waits for one graph, and the next batch is ready when it is done.
        if len(self.gpus) > 1:
            graphs = [self._graph_on(device) for device in self.gpus]
        else:
            # A single photograph leaves cores idle whenever an operation hands over to the next; two together do not.
            graphs = [self.graph] * (min(2, cores()) if batch_size == 1 else 1)
        dealt, count = zip(chunks, itertools.cycle(graphs), strict=False), len(graphs)
        predicted = parallel_map(lambda hand: self._predict(*hand), dealt, workers=count, ahead=2 * count)
        for chunk in predicted:
            yield from chunk

    def _predict(self, chunk: list["_Row"], graph: Callable) -> list["_Row"]:
        """Replace the images of some rows by their maps, those of one size together."""
        by_size: dict = {}
        for row in chunk:
            if not row.error:
                by_size.setdefault(tuple(row.content.shape), []).append(row)
        for together in by_size.values():
            maps = self._maps(tf.stack([row.content for row in together]), graph)
            for row, saliency in zip(together, maps, strict=True):
                row.content = saliency
        return chunk

    def _maps(self, images: tf.Tensor, graph: Callable) -> tf.Tensor:
        """Maps of fitted images, if wished as means with those of the mirrored images."""
        maps = graph(images)
        return normalize(maps + graph(images[:, :, ::-1])[:, :, ::-1]) if self.mirrored else maps

    def _restore(self, row: "_Row") -> Prediction:
        if not row.error:
            try:
                return Prediction(row.photograph, restore_map(row.content, row.size))
            except (tf.errors.OpError, MemoryError) as error:
                row.error = f"its map cannot be made ({str(error).splitlines()[0][:120]})"
        return Prediction(row.photograph, error=row.error)


@dataclass
class _Row:
    """A photograph on its way: `content` is its header or pixels, then the fitted image, then the network's map."""

    photograph: Photograph
    size: tuple[int, int] = (0, 0)
    content: Any = None
    error: str = ""


def _pixels(row: _Row) -> int:
    return row.size[0] * row.size[1]


def load(
    weights: str | Path | None = None,
    *,
    data: str = "salicon",
    results: str | Path = "results",
    input_size: tuple[int, int] | str | None = None,
    device: str = "auto",
    mirrored: bool = False,
    max_pixels: int = MAX_PIXELS,
    precision: str = "float32",
    gpus: int = 0,
) -> Network:
    """Load a trained network.

    Args:
        weights: "lite" (it comes with the program), "published" (downloaded when missing), the path of a file in any
            known format, or None for the best there is; see `checkpoint.choose_weights`.
        data: the dataset whose network and input size to use, one of `datasets.names()`.
        results: the folder with the checkpoints of your own training runs.
        input_size: height and width that photographs are fitted into, divisible by 8; "auto" for one that suits each
            photograph's shape and has about as many pixels as the default. That is the size that the weights were
            trained with, or where their file does not say, that of the dataset.
        device: "cpu" (channels-last), "gpu" (channels-first), or "auto" for what TensorFlow finds.
        mirrored, max_pixels: see `Network`.
        precision: what all convolutions but the first and the last compute in: "float32", as published;
            "bfloat16", or on GPUs "float16", which are faster and less exact.
        gpus: GPUs of this machine that batches are dealt out to; 0 for all that TensorFlow sees.

    Raises:
        UserError: the weights cannot be had, are damaged, or are not those of a whole network; or this machine has not
            so many GPUs, or none to compute in float16.
    """
    check_precision(precision)
    if data not in datasets.names():
        raise UserError(f"Received the dataset {data!r}, expected one of {', '.join(datasets.names())}.")
    if isinstance(input_size, str) and input_size != "auto":
        raise UserError(f"Received the input size {input_size!r}, expected a height and a width, or 'auto'.")
    layout, device = choose_layout(device)
    names = find_gpus(gpus) if gpus or layout == CHANNELS_FIRST else []
    if len(names) > 1:
        device += f", {len(names)} of them"
    choice = checkpoint.choose_weights(data, weights=None if weights is None else str(weights), results=Path(results))
    arrays, sha256 = checkpoint.read_arrays(choice.path), checkpoint.file_sha256(choice.path)
    knowledge = checkpoint.read_knowledge(choice.path)
    size = knowledge.size_for(data) if knowledge else datasets.input_size(data)
    if input_size is not None and not isinstance(input_size, str):
        size = input_size
    network = from_arrays(
        arrays, size, layout=layout, device=device, weights=choice, sha256=sha256, knowledge=knowledge
    )
    fit_shape = input_size == "auto" or (input_size is None and knowledge is not None and knowledge.fit_shape)
    return replace(
        network,
        fit_shape=fit_shape,
        mirrored=mirrored,
        max_pixels=max_pixels,
        precision=precision,
        gpus=tuple(names),
    )


def from_arrays(
    arrays: Mapping[str, np.ndarray],
    input_size: tuple[int, int],
    *,
    layout: str = CHANNELS_LAST,
    device: str = "cpu (channels-last)",
    weights: Choice = UNNAMED,
    sha256: str = "",
    knowledge: Knowledge | None = None,
) -> Network:
    """The network of weights that are at hand.

    Args:
        arrays: by published name, as `checkpoint.read_arrays` gives them.
        input_size, layout, device, weights, sha256, knowledge: see `Network`.

    Raises:
        UserError: the arrays are those of an encoder alone, or a side of the input is not divisible by 8.
    """
    folded = checkpoint.fold_batch_norm(arrays)
    architecture = checkpoint.describe(folded)
    if architecture.context is None:
        raise UserError(
            f"{weights.path} holds an encoder alone, expected a whole network: name another with --weights."
        )
    height, width = (int(side) for side in input_size)
    if min(height, width) < 8 or height % 8 or width % 8:
        raise UserError(f"Received an input size of {height}×{width}, expected multiples of 8.")
    return Network(folded, architecture, (height, width), layout, device, weights, sha256, knowledge)


# --- Photographs ------------------------------------------------------------------------------------------------------


def as_pixels(photograph: np.ndarray | Image.Image) -> np.ndarray:
    """RGB pixels of a photograph that is in memory, uint8 (H, W, 3); see `Network.predict`.

    Raises:
        UserError: it says in a few words what is wrong.
    """
    if isinstance(photograph, Image.Image):
        photograph = photograph.convert("RGB")
    pixels = np.asarray(photograph)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise UserError(
            f"received an array of {pixels.dtype} {pixels.shape}, expected uint8, 0 to 255, of shape (height, width, "
            f"3), or (height, width) for grayscale"
        )
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


@tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)])
def _fit(pixels, size):
    return resize_and_pad(pixels, size, IMAGE_PADDING)
