"""From photographs to saliency maps with any engine: reading, batches and the order of the stages.

Neither this module nor those that it imports import TensorFlow.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from . import checks
from .geometry import fitted_size
from .image_files import Header, Unreadable, as_pixels, read_header
from .utils import UserError, in_batches, parallel_map
from .videos import maps

# An array, a Pillow image, or the path of an image file.
Photograph = np.ndarray | Image.Image | Path | str

# Limits memory: photographs and maps that are processed in the background have at most this many pixels in total, at up
# to 15 bytes per pixel. A larger photograph is processed alone.
PIXELS_IN_FLIGHT = 48_000_000


@dataclass(frozen=True)
class Prediction:
    """The saliency map of one photograph, float32 (H, W), 0 to 255, or the reason why there is none, in a few words."""

    photograph: Photograph
    saliency: np.ndarray | None = None
    error: str = ""


class Predictor:
    """A trained network with any engine, which implements `read` to `restore`; see `network.Network` for attributes."""

    input_size: tuple[int, int]
    fit_shape: bool
    max_pixels: int
    orientation: str

    # What `read`, `fit` and `restore` may raise for a photograph.
    errors: tuple[type[Exception], ...] = (Unreadable, MemoryError)

    def __post_init__(self) -> None:
        checks.remember_process()

    def __getstate__(self) -> dict:
        """For `pickle` and `copy`: without the compiled graph, which a copy compiles again."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # type: ignore[attr-defined]

    def _input(self) -> str:
        height, width = self.input_size
        return f"input {height}×{width}" + (" in each photograph's shape" if self.fit_shape else "")

    def read(self, path: Path, header: Header) -> Any:
        """Decode an image file: uint8 (H, W, 3), turned and on white; raises `Unreadable`."""
        raise NotImplementedError

    def fit(self, pixels, size: tuple[int, int]) -> Any:
        """The network's input of this size for a photograph: float32 (h, w, 3), 0 to 255."""
        raise NotImplementedError

    def graphs(self, batch_size: int) -> list[Callable]:
        """Functions that run at the same time, each from a list of inputs of one size to maps (B, h, w, 1), 0 to 1."""
        raise NotImplementedError

    def record(self) -> dict:
        """What a run record says about the network."""
        raise NotImplementedError

    def summary(self) -> str:
        """What a phase prints before it predicts."""
        raise NotImplementedError

    def restore(self, saliency, size: tuple[int, int]) -> np.ndarray:
        """A map at the photograph's size: float32 (H, W), 0 to 255."""
        raise NotImplementedError

    def alone(self) -> contextlib.AbstractContextManager:
        """In this context, the process predicts with this network only, which may save memory."""
        return contextlib.nullcontext()

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
        return parallel_map(self._restore, mapped, weight=_pixels, most=PIXELS_IN_FLIGHT)

    def size_for(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The network's input size for a photograph, both as (height, width)."""
        height, width = self.input_size
        return fitted_size(shape, height * width) if self.fit_shape else self.input_size

    def _open(self, photograph: Photograph) -> "_Opened | Prediction":
        """Read a photograph's size but not its pixels."""
        try:
            if isinstance(photograph, Path | str):
                path = Path(photograph)
                header = read_header(path, most_pixels=self.max_pixels, orientation=self.orientation)
                return _Opened(photograph, header.size, functools.partial(self.read, path, header))
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
            return _Fitted(opened.photograph, size, self.fit(pixels, self.size_for(size)))
        except self.errors as error:
            return Prediction(opened.photograph, error=str(error) or "too large for the memory")

    def _in_batches(self, fitted: Iterable, batch_size: int) -> Iterator["_Mapped | Prediction"]:
        """Predict in batches; failed photographs keep their place."""
        graphs = self.graphs(batch_size)
        # Each thread runs one graph. Batches are prefetched, so a thread need not wait for its next one.
        dispatched = zip(in_batches(fitted, batch_size), itertools.cycle(graphs), strict=False)
        count = len(graphs)
        predicted = parallel_map(lambda pair: self._predict(*pair), dispatched, workers=count, ahead=2 * count)
        return itertools.chain.from_iterable(predicted)

    def _predict(self, batch: list["_Fitted | Prediction"], graph: Callable) -> list["_Mapped | Prediction"]:
        """Predict a batch, with one call of the network per input size."""
        by_size: dict[tuple[int, int], list] = {}
        for item in batch:
            if isinstance(item, _Fitted):
                by_size.setdefault(self.size_for(item.size), []).append(item.image)
        maps = {size: iter(graph(images)) for size, images in by_size.items()}

        def mapped(item: _Fitted | Prediction) -> _Mapped | Prediction:
            if isinstance(item, Prediction):
                return item
            return _Mapped(item.photograph, item.size, next(maps[self.size_for(item.size)]))

        return [mapped(item) for item in batch]

    def _restore(self, mapped: "_Mapped | Prediction") -> Prediction:
        """Resize a map to the photograph's size."""
        if isinstance(mapped, Prediction):
            return mapped
        try:
            return Prediction(mapped.photograph, self.restore(mapped.saliency, mapped.size))
        except self.errors as error:
            reason = (str(error) or "not enough memory").splitlines()[0][:120]
            return Prediction(mapped.photograph, error=f"its map could not be resized ({reason})")


# --- Stages of a prediction; each returns failed photographs' `Prediction`s unchanged ----------------------


class _Opened(NamedTuple):
    photograph: Photograph
    size: tuple[int, int]
    read: Callable[[], Any]  # Returns uint8 (H, W, 3).


class _Fitted(NamedTuple):
    photograph: Photograph
    size: tuple[int, int]  # Of the photograph.
    image: Any  # float32 (h, w, 3), 0 to 255; the network's input.


class _Mapped(NamedTuple):
    photograph: Photograph
    size: tuple[int, int]  # Of the photograph.
    saliency: Any  # float32 (h, w, 1), 0 to 1; the network's output.


def _to_maps(predictions: Iterable[Prediction]) -> Iterator[np.ndarray]:
    for i, prediction in enumerate(predictions):
        if prediction.saliency is None:
            name = prediction.photograph if isinstance(prediction.photograph, Path | str) else f"photograph {i}"
            raise UserError(f"{name}: {prediction.error}.")
        yield prediction.saliency / np.float32(255)


def _pixels(item: _Opened | _Mapped | Prediction) -> int:
    return 0 if isinstance(item, Prediction) else item.size[0] * item.size[1]
