"""MSI-Net from Python: a trained network as an object, from photographs to saliency maps.

import msinet
saliency = msinet.load("lite").predict("photograph.jpg")
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from . import checkpoint, checks
from .acquisition import datasets
from .architectures import Architecture
from .bundled import Choice
from .checkpoint import Knowledge
from .config import MAX_PIXELS
from .image_files import UPRIGHT
from .images import IMAGE_PADDING, read_image, resize_and_pad, restore_map
from .layers import CHANNELS_FIRST, CHANNELS_LAST, tensor_convolutions
from .model import choose_layout, describe_device, find_gpus, msi_net, normalize
from .precision import check_precision, half_convolutions
from .predictor import Predictor
from .utils import UserError, cores, onednn_enabled

# Describes weights that were given as arrays.
UNNAMED = Choice(Path("arrays"), "given as arrays")

# Fields that are copied into a run's record.
RECORDED = ("sha256", "fit_shape", "mirrored", "orientation", "precision", "layout")


@tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)])
def _fit_image(pixels, size):
    return resize_and_pad(pixels, size, IMAGE_PADDING)


@dataclass(frozen=True, eq=False, repr=False)
class Network(Predictor):
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
        precision: compute dtype of all convolutions but `precision.EXACT`: "float32", "bfloat16" or "float16".
        gpus: names of the devices that batches are distributed across; empty for the one that TensorFlow chooses.
    """

    arrays: Mapping[str, np.ndarray]
    architecture: Architecture
    input_size: tuple[int, int]
    layout: str = CHANNELS_LAST
    weights: Choice = UNNAMED
    sha256: str = ""
    knowledge: Knowledge | None = None
    fit_shape: bool = False
    mirrored: bool = False
    max_pixels: int = MAX_PIXELS
    orientation: str = UPRIGHT
    precision: str = "float32"
    gpus: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<MSI-Net {self.architecture.variant}, {self._input()}, {self.precision}, {self.weights.path.name}>"

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

    def record(self) -> dict:
        return {
            "weights": str(self.weights.path),
            "reason": self.weights.reason,
            "variant": self.architecture.variant,
            "context": self.architecture.context,
            "input_size": list(self.input_size),
            "knowledge": self.knowledge and self.knowledge.record(),
            "gpus": list(self.gpus),
            "engine": "tensorflow",
            "onednn": onednn_enabled(),
            **{key: getattr(self, key) for key in RECORDED},
        }

    # --- The engine; see `Predictor` ---------------------------------------------------------------------------------

    errors = (*Predictor.errors, tf.errors.OpError)

    read = staticmethod(read_image)
    fit = staticmethod(_fit_image)
    restore = staticmethod(restore_map)

    def graphs(self, batch_size: int) -> list[Callable]:
        if len(self.gpus) > 1:
            graphs = [self._graph_on(device) for device in self.gpus]
        else:
            # A single photograph leaves cores idle between operations, so two graphs run at once.
            graphs = [self.graph] * (min(2, cores()) if batch_size == 1 else 1)
        _ = self._first_call  # Made here, not by two threads.
        return [functools.partial(self._maps, graph) for graph in graphs]

    @functools.cached_property
    def _first_call(self) -> contextlib.AbstractContextManager:
        """A lock for the first call: two at once would both optimize copies of the weights, 0.9 GB more if full."""
        return contextlib.nullcontext() if len(self.gpus) > 1 else threading.Lock()

    def _maps(self, graph: Callable, images: list[tf.Tensor]) -> tf.Tensor:
        """Maps of fitted images; with `mirrored`, averaged with the maps of the mirror images."""
        batch = tf.stack(images)
        with self._first_call:
            maps = graph(batch)
        self.__dict__["_first_call"] = contextlib.nullcontext()
        if self.architecture.is_symmetric or not self.mirrored:
            return maps
        return normalize(maps + graph(batch[:, :, ::-1])[:, :, ::-1])

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Without TensorFlow's graph optimizer, unless GPUs or half precision need it.

        It holds copies of the weights, 0.5 GB in the full network. With oneDNN's kernels, map and time are the same.
        """
        if self.layout != CHANNELS_LAST or self.precision != "float32" or not onednn_enabled():
            yield
            return
        before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        try:
            yield
        finally:
            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


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
        weights: "medium" or "lite" (included), "published" (downloaded when missing), the path of a file in any known
            format, or None for the best available; see `checkpoint.choose_weights`.
        data: the dataset whose network and input size to use, one of `datasets.names()`.
        results: the folder with the checkpoints of your training runs.
        input_size: height and width that photographs are fitted into, divisible by 8; "auto" to adapt it to each
            photograph's shape, with about as many pixels as the default. The default is the weights' training size, or
            the dataset's if their file does not record one.
        device: "cpu" (channels-last), "gpu" (channels-first), or "auto" for a GPU if TensorFlow sees one.
        mirrored, max_pixels, orientation: see `Network`.
        precision: compute dtype of all convolutions but `precision.EXACT`: "float32", as published;
            "bfloat16", or on GPUs "float16", which are faster and less exact.
        gpus: number of this machine's GPUs to distribute batches across; 0 for all that TensorFlow sees.

    Raises:
        UserError: the weights are not available, damaged or incomplete; or this machine has fewer GPUs, or none
            for float16.
    """
    check_precision(precision)
    checks.check_param("device", device)
    checks.check_param("orientation", orientation)
    checks.check_dataset(data)
    checks.choose_input(input_size, datasets.input_size(data), False)  # Before anything is downloaded.
    gpus = checks.check_param("gpus", gpus)
    max_pixels = checks.check_whole_number("max_pixels", max_pixels, 1, MAX_PIXELS)
    layout = choose_layout(device)
    names = find_gpus(gpus) if gpus or layout == CHANNELS_FIRST else []
    choice = checkpoint.choose_weights(data, weights=None if weights is None else str(weights), results=Path(results))
    arrays, knowledge = checkpoint.read_arrays(choice.path), checkpoint.read_knowledge(choice.path)
    size = knowledge.size_for(data) if knowledge else datasets.input_size(data)
    size, fit_shape = checks.choose_input(input_size, size, bool(knowledge and knowledge.fit_shape))
    return from_arrays(
        arrays,
        size,
        layout=layout,
        weights=choice,
        sha256=checkpoint.file_sha256(choice.path),
        knowledge=knowledge,
        fit_shape=fit_shape,
        mirrored=mirrored,
        max_pixels=max_pixels,
        orientation=orientation,
        precision=precision,
        gpus=tuple(names),
    )


def from_arrays(arrays: Mapping[str, np.ndarray], input_size: tuple[int, int], **fields) -> Network:
    """A network from weights in memory.

    Args:
        arrays: by published name, as `checkpoint.read_arrays` returns them.
        input_size, fields: see `Network`.

    Raises:
        UserError: the arrays belong to an encoder alone, or the input size is wrong.
    """
    folded = checkpoint.fold_batch_norm(arrays)
    network = Network(folded, checkpoint.describe(folded), checks.check_input_size(input_size), **fields)
    if network.architecture.context is None:
        raise UserError(
            f"{network.weights.path} holds an encoder alone, expected a whole network: choose another file with "
            f"--weights."
        )
    return network
