"""The ground truth of predictions: each image's fixations and map, and where people look in the other images."""

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..acquisition.convert import gaussian_blur
from ..acquisition.readers import UNKNOWN_OBSERVER
from ..data import BLACK, Sample, other_size
from ..image_files import STORED, Unreadable, image_size
from ..images import read_map
from ..utils import UserError
from . import density, metrics
from .fixations import read_fixations
from .table import MAX_DROPPED, TABLE

# NumPy parses an array's header as Python code, which sometimes raises SystemError in parallel threads (Python 3.11).
ONE_HEADER = threading.Lock()


@dataclass(frozen=True)
class Case:
    """An image and its ground truth.

    Attributes:
        index: of the image among the evaluated images.
        sample: its files.
        shape: height and width in pixels.
        fixations: every fixation's row and column, (N, 2) integers.
        observers: the observer of each fixation, (N,) integers; (0,) if unknown.
    """

    index: int
    sample: Sample
    shape: tuple[int, int]
    fixations: np.ndarray
    observers: np.ndarray

    @functools.cached_property
    def positions(self) -> np.ndarray:
        return density.relative(self.fixations, self.shape)

    @property
    def has_observers(self) -> bool:
        """Whether there are at least two known observers, so some can predict others."""
        return len(np.unique(self.observers)) > 1


def load_cases(folder: Path, samples: Sequence[Sample], max_dropped: float = MAX_DROPPED) -> list[Case]:
    """Read the sizes and fixations of images; without fixations in the dataset, all images have none."""
    every = {}
    if (folder / TABLE).exists() or (folder / "fixations").is_dir():
        every = read_fixations(folder, samples[0].orientation if samples else STORED, max_dropped)
    cases = []
    for index, sample in enumerate(samples):
        x, y, observers = every.get(sample.name, np.zeros((0, 3), np.int64)).T
        known = observers if observers.min(initial=0) != UNKNOWN_OBSERVER else observers[:0]
        size = image_size(sample.stimulus, orientation=sample.orientation)
        cases.append(Case(index, sample, size, np.column_stack([y, x]), known))
    return cases


class GroundTruth:
    """All cases: the maps of each, and the fixations of the others.

    `sigma` is the standard deviation in pixels of the blur that makes maps of fixations, or None for the dataset's own
    maps; a `UserError` if it is wider than an image. `seed` is that of random draws.
    """

    def __init__(self, cases: Sequence[Case], sigma: float | None = None, seed: int = 0):
        for case in cases:
            if sigma is not None and sigma > max(case.shape):
                raise UserError(
                    f"A --sigma of {sigma:g} pixels is wider than the image {case.sample.name} of "
                    f"{case.shape[1]}×{case.shape[0]} pixels: choose a smaller one."
                )
        self.cases, self.sigma, self.seed = cases, sigma, seed
        self.center_bias = density.fit_center_bias([case.positions for case in cases])
        self.every = np.concatenate([np.zeros((0, 2)), *(case.positions for case in cases)])
        # One table per image size keeps the shuffled AUC linear in the number of images.
        self._counts = functools.lru_cache(maxsize=32)(lambda shape: density.histogram(self.every, shape))

    def own_map(self, case: Case) -> np.ndarray:
        """The saliency map of an image in the dataset, float64 (H, W); a `UserError` if it is damaged or black."""
        sample, truth = case.sample, read_saliency(case.sample.saliency)
        if truth.shape != case.shape:
            found = (truth.shape[0], truth.shape[1])
            raise UserError(f"{other_size(sample.saliency, found, sample.stimulus, case.shape)}.")
        return truth

    @functools.cached_property
    def kernel(self) -> float:
        """The blur's standard deviation in pixels: given, or estimated from the dataset's own maps."""
        return self.sigma if self.sigma is not None else estimate_kernel(self.cases)

    def other_fixations(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """All fixations of the other images at this image's size: distinct pixels (M, 2) and their counts."""
        counts = self._counts(case.shape).copy()
        np.subtract.at(counts, tuple(density.pixels_at(case.positions, case.shape).T), 1)
        found = np.flatnonzero(counts)
        return np.column_stack(np.divmod(found, case.shape[1])), counts.ravel()[found]

    def other_map(self, case: Case, images: int) -> np.ndarray:
        """Pixels with fixations in a number of other images, drawn at random, (H, W) bool."""
        random = np.random.default_rng([self.seed, case.index])
        others = np.delete(np.arange(len(self.cases)), case.index)
        drawn = random.choice(others, min(images, len(others)), replace=False)
        positions = np.concatenate([np.zeros((0, 2)), *(self.cases[i].positions for i in drawn)])
        return density.histogram(positions, case.shape) > 0

    def log_center_bias(self, case: Case) -> np.ndarray:
        """The log density of the other images' fixations."""
        return self.center_bias.log_density(case.shape, without=case.positions)


def estimate_kernel(cases: Sequence[Case], count: int = 8) -> float:
    """The blur of a dataset's own maps: the standard deviation with the highest correlation to them."""
    chosen = [case for case in cases if len(case.fixations)][:: max(1, len(cases) // count)][:count]
    if not chosen:
        raise UserError("There are no fixations to estimate the blur of the saliency maps from: set it with --sigma.")
    pairs = [(metrics.count_map(c.fixations, c.shape), read_saliency(c.sample.saliency)) for c in chosen]

    def loss(sigma):
        return -np.mean([metrics.cc(gaussian_blur(counts, sigma), truth) for counts, truth in pairs])

    return density.minimum(loss, 2, max(chosen[0].shape) / 8)


def read_saliency(path: Path) -> np.ndarray:
    """A map from an image, 0 to 255, or an array of any scale, (H, W) or (H, W, 1); float64 (H, W).

    A `UserError` if it cannot be read, or is black.
    """
    try:
        if path.suffix.lower() != ".npy":
            saliency = read_map(path)
        elif path.is_file():
            with ONE_HEADER:
                saliency = np.lib.format.open_memmap(path, mode="r")  # The header cannot claim more than the file has.
        else:
            raise Unreadable("not a regular file")
        saliency = np.array(saliency, np.float64)
    except (Unreadable, ValueError, TypeError, EOFError) as error:
        raise UserError(f"{path} is not a map, or is damaged. Make it again.") from error
    if not saliency.any():
        raise UserError(f"{path} is black: {BLACK}.")
    return saliency[..., 0] if saliency.ndim == 3 and saliency.shape[-1] == 1 else saliency
