"""Contenders, which predict maps, and their scores: folders of maps, baselines, the gold standard, and networks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..data import files_by_name
from ..image_files import MAP_SUFFIXES
from ..progress import ProgressBar
from ..utils import UserError, name_some, parallel_map
from . import density, metrics
from .fitted import FittedDensity, fit_density
from .ground_truth import Case, GroundTruth, read_saliency
from .protocols import TUEBINGEN, Protocol

# Training images for the fit of a density; its 34 parameters do not need more.
FIT_IMAGES = 200

# Names of `baselines` and `score_gold_standard` in the table, reserved for them.
UNIFORM, CENTER_BIAS, GOLD_STANDARD = "uniform", "center bias", "gold standard"


@dataclass(frozen=True)
class Contender:
    """A source of predictions: a network, a folder of maps, or a baseline.

    Attributes:
        name: in the table.
        maps: returns the saliency map of each case, float, (H, W), in order; may be called several times.
        log_density: from a saliency map to its log density.
        plain: metrics that score the saliency map itself although there are maps for each metric.
        record: description for `summary.json`.
        settings: those that affect the scores.
        note: for readers of the table; may be empty.
    """

    name: str
    maps: Callable[[Sequence[Case]], Iterator[np.ndarray]]
    log_density: Callable[[np.ndarray], np.ndarray] = density.default_log_density
    plain: tuple[str, ...] = ()
    record: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    note: str = ""


# --- Contenders -------------------------------------------------------------------------------------------------------


def folder_contender(name: str, folder: Path) -> Contender:
    """Existing maps, images or `.npy`, with the names of the photographs up to the suffix."""
    if not folder.is_dir():
        raise UserError(f"No such folder of maps: {folder}.")
    suffixes = (".npy", *MAP_SUFFIXES)
    files = files_by_name(folder, suffixes)

    def maps(cases: Sequence[Case]) -> Iterator[np.ndarray]:
        missing = [case.sample.name for case in cases if case.sample.name not in files]
        if missing:
            raise UserError(
                f"{folder} has no map for {len(missing)} of {len(cases)} images: {name_some(missing)}. Expected files "
                f"with the images' names, ending in {', '.join(suffixes)}."
            )
        return parallel_map(lambda case: read_saliency(files[case.sample.name]), cases)

    return Contender(name, maps, record={"maps": str(folder)}, settings={"maps": str(folder.resolve())})


def baselines(truth: GroundTruth) -> list[Contender]:
    """Predictions that every model should beat: a constant map, and the center bias."""

    def uniform(cases):
        return (np.full(case.shape, 1 / np.prod(case.shape)) for case in cases)

    def center_bias(cases):
        return parallel_map(lambda case: np.exp(truth.log_center_bias(case)), cases)

    bias = truth.center_bias
    record = {"baseline": CENTER_BIAS, "bandwidth": bias.bandwidth, "uniform_share": bias.uniform}
    return [
        Contender(UNIFORM, uniform, _log_of_density, record={"baseline": UNIFORM}),
        Contender(CENTER_BIAS, center_bias, _log_of_density, record=record),
    ]


def _log_of_density(values: np.ndarray) -> np.ndarray:
    return density.normalize(np.log(np.maximum(values, 1e-300)))


# --- Scores -----------------------------------------------------------------------------------------------------------


def score_contender(
    contender: Contender, truth: GroundTruth, protocol: Protocol, metric_maps: bool = False
) -> list[dict[str, float]]:
    """Score every case in parallel with the next predictions.

    With `metric_maps`, each metric is scored on its own map, made from the log density; see `density.metric_maps`.
    """
    make_maps = _metric_maps(contender, truth) if metric_maps else None

    def score_one(row):
        case, saliency = row
        try:
            protocol.check_size(saliency, case.shape)
            saliency = saliency.astype(np.float64)
            log_density = contender.log_density(saliency) if protocol.uses_density else None
            maps = make_maps(case, log_density) | dict.fromkeys(contender.plain, saliency) if make_maps else saliency
            return protocol.score(truth, case, maps, log_density)
        except UserError as error:
            raise UserError(f"{contender.name}, {case.sample.name}: {error}") from error

    rows = zip(truth.cases, contender.maps(truth.cases), strict=True)
    return list(_progress(parallel_map(score_one, rows, ahead=16), len(truth.cases), contender.name))


def _metric_maps(contender: Contender, truth: GroundTruth) -> Callable[[Case, np.ndarray], dict[str, np.ndarray]]:
    """A function that makes the maps for each metric, after a first pass over all predictions for their average."""
    rows = zip(truth.cases, contender.maps(truth.cases), strict=True)
    grids = parallel_map(lambda row: density.on_pixels(np.exp(contender.log_density(row[1])), density.GRID), rows)
    total = sum(_progress(grids, len(truth.cases), f"{contender.name}, average"))
    count = round(np.mean([len(case.fixations) for case in truth.cases]))

    def make(case: Case, log_density: np.ndarray) -> dict[str, np.ndarray]:
        others = total - density.on_pixels(np.exp(log_density), density.GRID)
        others = density.on_pixels(np.maximum(others, 1e-300), case.shape)
        return density.metric_maps(log_density, others, truth.kernel, max(1, count), truth.seed)

    return make


def fit_contender(contender: Contender, cases: Sequence[Case], sigma: float | None = None) -> tuple[FittedDensity, str]:
    """Fit a density to a contender's maps of at most `FIT_IMAGES` training images; add a sentence about the gain.

    `sigma` is that of `GroundTruth`.
    """
    chosen = [case for case in cases if len(case.fixations)]
    chosen = chosen[:: max(1, -(-len(chosen) // FIT_IMAGES))]
    if not chosen:
        raise UserError("--fit learns from fixations, and the training split has none.")
    maps = _progress(contender.maps(chosen), len(chosen), f"{contender.name}, fit")
    fitted, before, after = fit_density(maps, [case.positions for case in chosen])
    fitted = replace(fitted, plain=plain_metrics(contender, fitted, chosen, sigma))
    return fitted, (
        f"Density of {contender.name}, fitted to {len(chosen)} training images: log likelihood over uniform from "
        f"{before:.3f} (default) to {after:.3f} bits per fixation there."
    )


def plain_metrics(
    contender: Contender, fitted: FittedDensity, cases: Sequence[Case], sigma: float | None
) -> tuple[str, ...]:
    """Those of CC and KLD for which the contender's maps score better than the blurred density.

    Networks are trained to predict blurred fixations, which these metrics compare with. Blurring a density of single
    fixations loses details that the maps have.
    """
    truth = GroundTruth(cases, sigma)

    def score(row: tuple[Case, np.ndarray]) -> list[list[float]]:
        case, saliency = row
        image = TUEBINGEN.true_map(truth, case)
        blurred = density.blurred(fitted.log_density(saliency), truth.kernel)
        return [[metrics.cc(values, image), -metrics.kld(values, image)] for values in (saliency, blurred)]

    rows = parallel_map(score, zip(cases, contender.maps(cases), strict=True))
    plain, made = np.mean(list(_progress(rows, len(cases), f"{contender.name}, CC and KLD")), axis=0)
    return tuple(name for name, better in zip(("CC", "KLD"), plain > made, strict=True) if better)


def score_gold_standard(truth: GroundTruth, protocol: Protocol) -> tuple[list[dict[str, float]], dict]:
    """Score how well observers predict another observer, the expected upper bound of models; add its parameters.

    For metrics on fixations, each observer of an image is predicted by all others, and the scores are averaged. For
    metrics that compare maps, half of the observers predict the map of the other half. An image without two known
    observers has no score; at least one image must have them, see `Case.has_observers`.
    """
    known = [case for case in truth.cases if case.has_observers]
    centers = {case.index: truth.center_bias.grid(without=case.positions) for case in known}
    gold = density.fit_gold_standard([(c.positions, c.observers, c.shape, centers[c.index]) for c in known])
    names = protocol.metrics
    of_fixations = [name for name in names if name in protocol.of_fixations]
    of_maps = [name for name in names if name not in protocol.of_fixations]

    def predict_others(case: Case, shape: tuple[int, int], chosen: np.ndarray, names: Sequence[str]) -> dict:
        """Score the prediction of the chosen fixations by all others, on `shape` pixels."""
        grid = gold.grid(case.positions[~chosen], case.shape, centers[case.index])
        values = density.on_pixels(grid, shape)
        seen = replace(case, shape=shape, fixations=density.pixels_at(case.positions, shape))
        return protocol.score(truth, seen, values, np.log(values), seen.fixations[chosen], names)

    def score_one(case: Case) -> dict[str, float]:
        if case.index not in centers:
            return dict.fromkeys(names, np.nan)
        observers = np.unique(case.observers)
        # The density has no finer details than its grid, and scoring on the grid is faster.
        rows = [predict_others(case, density.GRID, case.observers == observer, of_fixations) for observer in observers]
        means = {name: float(np.mean([row[name] for row in rows])) for name in of_fixations}
        halves = predict_others(case, case.shape, np.isin(case.observers, observers[::2]), of_maps)
        return {name: {**means, **halves}[name] for name in names}

    rows = _progress(parallel_map(score_one, truth.cases), len(truth.cases), GOLD_STANDARD)
    record = {"baseline": GOLD_STANDARD, "bandwidth": gold.bandwidth, "centre_bias_share": gold.center}
    return list(rows), record


def _progress(rows: Iterator, total: int, name: str) -> Iterator:
    return ProgressBar(rows, total=total, desc=name, unit="image")
