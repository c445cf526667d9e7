"""What predictions are scored against: each image's fixations and map, and where people look in the others."""

import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from acquisition.convert import gaussian_blur
from acquisition.gaze import UNKNOWN_OBSERVER
from data import MAP_FORMATS, Sample, Unreadable, image_size, read_header
from images import decode_image
from scoring import density, metrics
from scoring.fixations import TABLE, read_fixations
from utils import UserError

# An array's header is parsed as Python, which Python 3.11 cannot do in two threads at once: now and then it raises
# SystemError.
ONE_HEADER = threading.Lock()


@dataclass(frozen=True)
class Case:
    """An image and what its predictions are scored against.

    Attributes:
        index: of the image among those that are evaluated.
        sample: its files.
        shape: height and width in pixels.
        fixations: every fixation's row and column, (N, 2) integers.
        observers: whose they are, (N,) integers, or None where that is not known.
    """

    index: int
    sample: Sample
    shape: tuple[int, int]
    fixations: np.ndarray
    observers: np.ndarray | None

    @functools.cached_property
    def positions(self) -> np.ndarray:
        return density.relative(self.fixations, self.shape)

    @property
    def known_observers(self) -> np.ndarray:
        """Whose the fixations are, (N,) integers; (0,) where that is not known."""
        return np.zeros(0, np.int64) if self.observers is None else self.observers

    @property
    def has_observers(self) -> bool:
        """Whether the fixations are of two known observers or more, so that some can predict others."""
        return len(np.unique(self.known_observers)) > 1


def load_cases(folder: Path, samples: Sequence[Sample]) -> list[Case]:
    """Read the sizes and fixations of images; a dataset without fixations has none in every image."""
    try:
        every = read_fixations(folder)
    except UserError:
        if (folder / TABLE).exists() or (folder / "fixations").is_dir():
            raise
        every = {}
    cases = []
    for index, sample in enumerate(samples):
        x, y, observers = every.get(sample.name, np.zeros((0, 3), np.int64)).T
        known = len(observers) > 0 and observers.min() != UNKNOWN_OBSERVER
        positions = np.column_stack([y, x])
        cases.append(Case(index, sample, image_size(sample.stimulus), positions, observers if known else None))
    return cases


class GroundTruth:
    """All cases together: each one's maps, and the fixations of the others.

    Args:
        cases: the images that are evaluated.
        sigma: standard deviation in pixels of the blur that makes maps of fixations; None for the dataset's own maps.
        seed: of what is drawn at random.

    Raises:
        UserError: the blur is wider than an image.
    """

    def __init__(self, cases: Sequence[Case], sigma: float | None = None, seed: int = 0):
        for case in cases:
            if sigma is not None and sigma > max(case.shape):
                raise UserError(
                    f"A --sigma of {sigma:g} pixels is wider than the image {case.sample.name} of "
                    f"{case.shape[1]}×{case.shape[0]} pixels: choose a smaller one."
                )
        self.cases, self.sigma, self.seed = cases, sigma, seed
        self.centre_bias = density.fit_centre_bias([case.positions for case in cases])
        self.every = np.concatenate([np.zeros((0, 2)), *(case.positions for case in cases)])
        # One table for each size of image keeps the shuffled AUC linear in the number of images.
        self._counts = functools.lru_cache(maxsize=32)(lambda shape: _count_at(self.every, shape))

    def own_map(self, case: Case) -> np.ndarray:
        """The saliency map that the dataset has of an image, float64 (H, W).

        Raises:
            UserError: it cannot be read, or has another size than the image.
        """
        truth = read_saliency(case.sample.saliency)
        if truth.shape != case.shape:
            raise UserError(f"{case.sample.saliency} has another size than {case.sample.stimulus}; make them equal.")
        return truth

    @functools.cached_property
    def kernel(self) -> float:
        """The blur's standard deviation in pixels: given, or found by comparison with the dataset's own maps."""
        return self.sigma if self.sigma is not None else estimate_kernel(self.cases)

    def other_fixations(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """All fixations of the other images at this one's size: distinct pixels (M, 2), and how often each occurs."""
        counts = self._counts(case.shape).copy()
        np.subtract.at(counts, tuple(pixels_at(case.positions, case.shape).T), 1)
        found = np.flatnonzero(counts)
        return np.column_stack(np.divmod(found, case.shape[1])), counts.ravel()[found]

    def other_map(self, case: Case, images: int) -> np.ndarray:
        """Where so many other images, drawn at random, have fixations, (H, W) bool."""
        random = np.random.default_rng([self.seed, case.index])
        others = np.delete(np.arange(len(self.cases)), case.index)
        drawn = random.choice(others, min(images, len(others)), replace=False)
        positions = np.concatenate([np.zeros((0, 2)), *(self.cases[i].positions for i in drawn)])
        return _count_at(positions, case.shape) > 0

    def log_centre_bias(self, case: Case) -> np.ndarray:
        """The log density of the other images' fixations."""
        return self.centre_bias.log_density(case.shape, without=case.positions)


def pixels_at(positions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of an image, (N, 2), that relative positions are in."""
    return np.minimum((positions * shape).astype(int), np.subtract(shape, 1))


def _count_at(positions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return metrics.count_map(pixels_at(positions, shape), shape)


def estimate_kernel(cases: Sequence[Case], count: int = 8) -> float:
    """The blur that makes a dataset's own maps of its fixations: the standard deviation of the highest correlation."""
    chosen = [case for case in cases if len(case.fixations)][:: max(1, len(cases) // count)][:count]
    if not chosen:
        raise UserError("There are no fixations to compare the saliency maps with: give the blur with --sigma.")
    pairs = [(metrics.count_map(c.fixations, c.shape), read_saliency(c.sample.saliency)) for c in chosen]

    def loss(sigma):
        return -np.mean([metrics.cc(gaussian_blur(counts, sigma), truth) for counts, truth in pairs])

    return density.minimum(loss, 2, max(chosen[0].shape) / 8)


def read_saliency(path: Path) -> np.ndarray:
    """A map from an image, 0 to 255, or an array of any scale, (H, W) or (H, W, 1); float64 (H, W)."""
    try:
        if path.suffix.lower() != ".npy":
            read_header(path, MAP_FORMATS)
            saliency = decode_image(tf.io.read_file(os.fsencode(path)), 1).numpy()
        elif path.is_file():
            with ONE_HEADER:
                saliency = np.lib.format.open_memmap(path, mode="r")  # A file cannot claim more than it holds.
        else:
            raise Unreadable("not a regular file")
        saliency = np.array(saliency, np.float64)
    except (tf.errors.OpError, Unreadable, ValueError, TypeError, EOFError) as error:
        raise UserError(f"{path} is not a map that can be read, or damaged. Make it again.") from error
    return saliency[..., 0] if saliency.ndim == 3 and saliency.shape[-1] == 1 else saliency
