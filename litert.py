"""A bundled network in LiteRT: it starts in a second, because nothing here imports TensorFlow after the first run.

The first run converts the network and keeps the file. Photographs are decoded and resized to the same pixels as with
TensorFlow, so at least 99.9 % of a map's 8-bit pixels are equal, and none differs by more than one gray level.
"""

import functools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import checks, geometry
from .acquisition import datasets
from .bundled import BUNDLED, Choice, choice
from .config import MAX_PIXELS
from .image_files import UPRIGHT, Header, Unreadable, read_pixels, turn, why_unreadable
from .installation import download_folder, install_command
from .listing import hash_files
from .map_files import encode_map as encode_map
from .map_files import encode_overlay as encode_overlay
from .predictor import Predictor
from .utils import UserError, cores, only_python_on_stderr, quiet_stderr, whole_file


@dataclass(frozen=True, eq=False, repr=False)
class LiteNetwork(Predictor):
    """A bundled network in LiteRT; see `network.Network` for the attributes.

    Attributes:
        file: the network as a LiteRT file, for any input size.
        facts: what the record of a run says about the weights.
    """

    file: Path
    facts: dict
    weights: Choice
    input_size: tuple[int, int]
    fit_shape: bool = False
    max_pixels: int = MAX_PIXELS
    orientation: str = UPRIGHT

    def __repr__(self) -> str:
        return f"<MSI-Net {self.facts['variant']}, {self._input()}, LiteRT, {self.weights.path.name}>"

    def summary(self) -> str:
        return (
            f"Network: {self.weights.path.name} ({self.weights.reason}), {self._input()}.\n"
            f"Device: CPU, LiteRT, float32."
        )

    def record(self) -> dict:
        return {
            "weights": str(self.weights.path),
            "reason": self.weights.reason,
            "engine": "litert",
            "precision": "float32",
            "input_size": list(self.input_size),
            "fit_shape": self.fit_shape,
            "orientation": self.orientation,
            **self.facts,
        }

    # --- The engine; see `Predictor` ----------------------------------------------------------------------------------

    def read(self, path: Path, header: Header) -> np.ndarray:
        return read_image(path, header)

    def fit(self, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return geometry.fit(pixels, size)

    def graphs(self, batch_size: int) -> list[Callable]:
        return [self._maps]

    def restore(self, saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return geometry.restore(saliency, size) * np.float32(255)

    @functools.cached_property
    def _interpreter(self) -> tuple[threading.Lock, Any]:
        with only_python_on_stderr():
            interpreter = _litert().Interpreter(str(self.file), num_threads=cores())
            interpreter.allocate_tensors()  # Reports its delegate.
            return threading.Lock(), interpreter

    def _maps(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Maps of fitted images of one size: float32 (B, h, w, 1), 0 to 1."""
        batch = np.stack(images)
        lock, interpreter = self._interpreter
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        with lock:
            if tuple(source["shape"]) != batch.shape:
                interpreter.resize_tensor_input(source["index"], batch.shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], batch)
            interpreter.invoke()
            return interpreter.get_tensor(target["index"])


def read_image(path: Path, header: Header) -> np.ndarray:
    """Like `images.read_image`: the same pixels, or an error that names the other engine.

    Raises:
        Unreadable: the file is damaged, or a kind of JPEG that only TensorFlow decodes.
    """
    try:
        pixels = _read_jpeg(path) if header.format == "JPEG" else read_pixels(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"{why_unreadable(path, error)} ({str(error)[:80]}); or try --engine tensorflow") from error
    return turn(pixels, header.orientation)


def _read_jpeg(path: Path) -> np.ndarray:
    """Decode a JPEG with the settings of TensorFlow's decoder, which give the same pixels."""
    import simplejpeg

    contents = path.read_bytes()
    if (colors := simplejpeg.decode_jpeg_header(contents)[2]) not in ("YCbCr", "RGB", "Gray"):
        raise ValueError(f"a JPEG in {colors}")
    return simplejpeg.decode_jpeg(contents, "RGB", fastdct=True, fastupsample=False)


# --- Loading ----------------------------------------------------------------------------------------------------------

# The arguments of `network.load` that cannot be changed here, and their values.
DEFAULTS = {"device": ("auto", "cpu"), "mirrored": (False,), "precision": ("float32",), "gpus": (0,)}


def load(
    weights: str | Path | None = None,
    *,
    data: str = "salicon",
    results: str | Path = "results",
    input_size: tuple[int, int] | str | None = None,
    max_pixels: int = MAX_PIXELS,
    orientation: str = UPRIGHT,
    **others,
) -> LiteNetwork:
    """Load a bundled network; the arguments are those of `network.load`, of which `results` is not used.

    Raises:
        UserError: LiteRT is not installed, or cannot do what the arguments say.
    """
    name = str(weights)
    if name not in BUNDLED:
        received = f"received {name}" if weights else "received no --weights"
        raise UserError(
            f"--engine litert predicts only with the included networks, {received}: add --weights medium or lite."
        )
    for flag, value in others.items():
        if value not in DEFAULTS.get(flag, ()):
            given = flag if value is True else f"{flag} {value}"
            raise UserError(f"--engine litert does not support --{given}: leave out one of them.")
    checks.check_dataset(data)
    checks.check_param("orientation", orientation)
    max_pixels = checks.check_whole_number("max_pixels", max_pixels, 1, MAX_PIXELS)
    _litert()
    file, facts = _converted(name)
    sizes, fit_shape = facts.pop("sizes"), facts.pop("fit_shape")
    size, fit_shape = checks.choose_input(input_size, tuple(sizes[data]), fit_shape)
    return LiteNetwork(file, facts, choice(name), size, fit_shape, max_pixels, orientation)


def _litert():
    """The module with LiteRT's interpreter."""
    try:
        import simplejpeg  # noqa: F401
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise UserError(f"--engine litert needs more packages: {install_command('litert')} ({error}).") from error
    return interpreter


def _converted(name: str) -> tuple[Path, dict]:
    """A bundled network as a LiteRT file, and the facts about its weights; converted with TensorFlow the first time."""
    sha256 = hash_files([BUNDLED[name]]).hexdigest()
    file = download_folder("weights") / f"litert_{name}_{sha256[:16]}.tflite"
    if not file.exists():
        _convert(name, file)
    return file, {"sha256": sha256, **json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))}


def _convert(name: str, file: Path) -> None:
    with quiet_stderr():
        import tensorflow as tf

        from .network import load

        network = load(name)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([network.graph.get_concrete_function()])
        contents = converter.convert()
    knowledge = network.knowledge
    assert knowledge  # Included weights have metadata.
    facts = {
        "variant": network.architecture.variant,
        "context": network.architecture.context,
        "knowledge": knowledge.record(),
        "sizes": {data: knowledge.size_for(data) for data in datasets.names()},
        "fit_shape": knowledge.fit_shape,
    }
    with whole_file(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(facts), encoding="utf-8")
    with whole_file(file) as temporary:  # The last file, because its presence means that both are complete.
        temporary.write_bytes(contents)
