"""The evaluation phase: from predictions, or existing maps, to scores with intervals and pictures."""

import csv
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import msinet
from data import Sample, files_by_name, image_size
from images import decode_image
from msinet import Network
from scoring import density, metrics
from scoring.fixations import TABLE, UNKNOWN_OBSERVER, read_fixations
from utils import UserError, name_some, parallel_map, whole_file, write_record

# The metrics of each protocol in the order of the table; of those in LESS_IS_BETTER, less is.
PROTOCOLS = {
    "tuebingen": ("AUC", "sAUC", "NSS", "CC", "SIM", "KLD", "IG"),
    "mit": ("AUC-Judd", "AUC-Borji", "sAUC", "NSS", "CC", "SIM", "KLD", "IG", "EMD"),
}
LESS_IS_BETTER = ("KLD", "EMD")

# The gold standard is scored against one observer left out in these, and against half of the observers in the others.
FIXATION_METRICS = ("AUC", "sAUC", "NSS", "IG", "AUC-Judd", "AUC-Borji")

# The MIT benchmark takes the negatives of the shuffled AUC from as many other images.
MIT_OTHER_IMAGES = 10

BOOTSTRAP_SAMPLES = 2000

# Training images that a density is fitted to; its 34 parameters need no more.
FIT_IMAGES = 200


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


@dataclass(frozen=True)
class Contender:
    """Something that predicts: a network, a folder of maps, or a baseline.

    Attributes:
        name: in the table.
        maps: the saliency map of each case, float, (H, W), in order; it can be asked again.
        log_density: from a saliency map to its log density.
        record: what it is, for `summary.json`.
    """

    name: str
    maps: Callable[[Sequence[Case]], Iterator[np.ndarray]]
    log_density: Callable[[np.ndarray], np.ndarray] = density.default_log_density
    record: dict = field(default_factory=dict)


# --- Ground truth -----------------------------------------------------------------------------------------------------


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
    """All cases together: each one's true map, and the fixations of the others.

    Args:
        cases: the images that are evaluated.
        protocol: a key of `PROTOCOLS`.
        sigma: standard deviation in pixels of the blur that makes true maps of fixations; None for the dataset's own
            maps. The MIT protocol has a blur of its own.
        seed: of what the MIT protocol draws at random.
    """

    def __init__(self, cases: Sequence[Case], protocol: str, sigma: float | None = None, seed: int = 0):
        self.cases, self.protocol, self.sigma, self.seed = cases, protocol, sigma, seed
        self.centre_bias = density.fit_centre_bias([case.positions for case in cases])
        self.every = np.concatenate([np.zeros((0, 2)), *(case.positions for case in cases)])
        # One table for each size of image keeps the shuffled AUC linear in the number of images.
        self._counts = functools.lru_cache(maxsize=32)(lambda shape: _count_at(self.every, shape))

    def true_map(self, case: Case, fixations: np.ndarray | None = None) -> np.ndarray:
        """The map to predict, (H, W); of given fixations, or of all."""
        if self.protocol == "mit":
            return metrics.blur_mit(
                metrics.fixation_map(case.fixations if fixations is None else fixations, case.shape)
            )
        if fixations is None and self.sigma is None:
            truth = read_map(case.sample.saliency)
            if truth.shape != case.shape:
                raise UserError(
                    f"{case.sample.saliency} has another size than {case.sample.stimulus}; make them equal."
                )
            return truth
        counts = metrics.count_map(case.fixations if fixations is None else fixations, case.shape)
        return gaussian_filter(counts, self.kernel)

    @functools.cached_property
    def kernel(self) -> float:
        """The blur's standard deviation in pixels: given, or found by comparison with the dataset's own maps."""
        return self.sigma if self.sigma is not None else estimate_kernel(self.cases)

    def other_fixations(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """All fixations of the other images at this one's size: distinct pixels (M, 2), and how often each occurs."""
        counts = self._counts(case.shape).copy()
        np.subtract.at(counts, tuple(_pixels_at(case.positions, case.shape).T), 1)
        found = np.flatnonzero(counts)
        return np.column_stack(np.divmod(found, case.shape[1])), counts.ravel()[found]

    def other_map(self, case: Case) -> np.ndarray:
        """Where ten other images, drawn at random, have fixations, (H, W) bool."""
        random = np.random.default_rng([self.seed, case.index])
        others = np.delete(np.arange(len(self.cases)), case.index)
        drawn = random.choice(others, min(MIT_OTHER_IMAGES, len(others)), replace=False)
        positions = np.concatenate([np.zeros((0, 2)), *(self.cases[i].positions for i in drawn)])
        return _count_at(positions, case.shape) > 0

    def log_centre_bias(self, case: Case) -> np.ndarray:
        """The log density of the other images' fixations."""
        return self.centre_bias.log_density(case.shape, without=case.positions)


def _pixels_at(positions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels of an image, (N, 2), that relative positions are in."""
    return np.minimum((positions * shape).astype(int), np.subtract(shape, 1))


def _count_at(positions: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return metrics.count_map(_pixels_at(positions, shape), shape)


def estimate_kernel(cases: Sequence[Case], count: int = 8) -> float:
    """The blur that makes a dataset's own maps of its fixations: the standard deviation of the highest correlation."""
    chosen = [case for case in cases if len(case.fixations)][:: max(1, len(cases) // count)][:count]
    if not chosen:
        raise UserError("There are no fixations to compare the saliency maps with: give the blur with --sigma.")
    pairs = [(metrics.count_map(c.fixations, c.shape), read_map(c.sample.saliency)) for c in chosen]

    def loss(sigma):
        return -np.mean([metrics.cc(gaussian_filter(counts, sigma), truth) for counts, truth in pairs])

    return density.minimum(loss, 2, max(chosen[0].shape) / 8)


# --- Who predicts -----------------------------------------------------------------------------------------------------


def network_contender(name: str, network: Network, batch_size: int) -> Contender:
    """A network that predicts."""

    def maps(cases: Sequence[Case]) -> Iterator[np.ndarray]:
        for prediction in network.predictions([case.sample.stimulus for case in cases], batch_size):
            if prediction.saliency is None:
                raise UserError(
                    f"{prediction.photograph}: {prediction.error}. Replace it, or take it out of the dataset."
                )
            yield prediction.saliency

    return Contender(name, maps, record=network.record())


def folder_contender(name: str, folder: Path) -> Contender:
    """Existing maps, images or `.npy`, called like the images up to the suffix."""
    if not folder.is_dir():
        raise UserError(f"No such folder of maps: {folder}.")
    files = files_by_name(folder, MAP_SUFFIXES)

    def maps(cases: Sequence[Case]) -> Iterator[np.ndarray]:
        missing = [case.sample.name for case in cases if case.sample.name not in files]
        if missing:
            raise UserError(
                f"{folder} has no map for {len(missing)} of {len(cases)} images: {name_some(missing)}. Expected files "
                f"of the images' names, ending in {', '.join(MAP_SUFFIXES)}."
            )
        return parallel_map(lambda case: read_map(files[case.sample.name]), cases)

    return Contender(name, maps, record={"maps": str(folder)})


MAP_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg")


def read_map(path: Path) -> np.ndarray:
    """A map from an image, 0 to 255, or an array of any scale, (H, W) or (H, W, 1); float64 (H, W)."""
    try:
        if path.suffix.lower() == ".npy":
            saliency = np.load(path, allow_pickle=False)
        else:
            saliency = decode_image(tf.io.read_file(os.fsencode(path)), 1).numpy()
        saliency = saliency.astype(np.float64)
    except (tf.errors.OpError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a map that can be read, or damaged. Make it again.") from error
    return saliency[..., 0] if saliency.ndim == 3 and saliency.shape[-1] == 1 else saliency


def baselines(truth: GroundTruth) -> list[Contender]:
    """What any model should beat: the same everywhere, and where people look whatever the image shows."""

    def uniform(cases):
        return (np.full(case.shape, 1 / np.prod(case.shape)) for case in cases)

    def centre_bias(cases):
        return parallel_map(lambda case: np.exp(truth.log_centre_bias(case)), cases)

    bias = truth.centre_bias
    record = {"baseline": "centre bias", "bandwidth": bias.bandwidth, "uniform_share": bias.uniform}
    return [
        Contender("uniform", uniform, _log_of_density, {"baseline": "uniform"}),
        Contender("centre bias", centre_bias, _log_of_density, record),
    ]


def _log_of_density(values: np.ndarray) -> np.ndarray:
    return density.normalize(np.log(np.maximum(values, 1e-300)))


# --- Scores -----------------------------------------------------------------------------------------------------------


def score(
    truth: GroundTruth,
    case: Case,
    maps: dict[str, np.ndarray] | np.ndarray,
    log_density: np.ndarray,
    fixations: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """All metrics of one prediction.

    Args:
        truth, case: what to score against.
        maps: the saliency map, (H, W), or one for each metric by name.
        log_density: for the information gain.
        fixations: score against these instead of all, (N, 2).
        names: of the metrics to compute; all of the protocol by default.

    Returns:
        Values by the metrics' names.
    """
    names = names or PROTOCOLS[truth.protocol]
    fixated = case.fixations if fixations is None else fixations
    image = functools.cache(functools.partial(truth.true_map, case, fixations))
    of = maps.__getitem__ if isinstance(maps, dict) else lambda _: maps
    if truth.protocol == "mit":
        assert isinstance(maps, np.ndarray)  # --metric-maps belongs to the other protocol.
        maps = metrics.resize_mit(maps, case.shape)
        stretched = (maps - maps.min()) / (np.ptp(maps) or 1)
        binary = metrics.fixation_map(fixated, case.shape)
        formulas = {
            "AUC-Judd": lambda: metrics.auc_judd_mit(stretched, binary, seed=truth.seed),
            "AUC-Borji": lambda: metrics.auc_borji_mit(maps, binary, seed=truth.seed),
            "sAUC": lambda: metrics.auc_shuffled_mit(maps, binary, truth.other_map(case), seed=truth.seed),
            "NSS": lambda: metrics.nss_mit(maps, binary),
            "CC": lambda: metrics.cc(maps, image()),
            "SIM": lambda: metrics.sim_mit(maps, image()),
            "KLD": lambda: metrics.kld(maps, image()),
            "IG": lambda: metrics.ig_mit(maps, binary, np.exp(truth.log_centre_bias(case))),
            "EMD": lambda: metrics.emd_mit(maps, image()),
        }
    else:
        formulas = {
            "AUC": lambda: metrics.auc_tuebingen(of("AUC"), fixated),
            "sAUC": lambda: metrics.sauc_tuebingen(of("sAUC"), fixated, *truth.other_fixations(case)),
            "NSS": lambda: metrics.nss_tuebingen(of("NSS"), fixated),
            "CC": lambda: metrics.cc(of("CC"), image()),
            "SIM": lambda: metrics.sim_tuebingen(of("SIM"), image()),
            "KLD": lambda: metrics.kld(of("KLD"), image()),
            "IG": lambda: metrics.ig_tuebingen(log_density, truth.log_centre_bias(case), fixated),
        }
    return {name: formulas[name]() for name in names}


def score_contender(contender: Contender, truth: GroundTruth, metric_maps: bool = False) -> list[dict[str, float]]:
    """Score every case in parallel, while the next predictions are made.

    Args:
        contender, truth: who predicts what.
        metric_maps: score each metric on its own map, made from the log density; see `density.metric_maps`.
    """
    make_maps = _metric_maps(contender, truth) if metric_maps else None

    def score_one(row):
        case, saliency = row
        try:
            if truth.protocol != "mit" and saliency.shape != case.shape:
                raise UserError(
                    f"the map has {saliency.shape} pixels, the image {case.shape} (height, width). Save maps at the "
                    f"images' own sizes, or use --protocol mit, which resizes them."
                )
            saliency = saliency.astype(np.float64)
            log_density = contender.log_density(saliency) if truth.protocol != "mit" else None
            maps = make_maps(case, log_density) if make_maps else saliency
            return score(truth, case, maps, log_density)
        except UserError as error:
            raise UserError(f"{contender.name}, {case.sample.name}: {error}") from error

    rows = zip(truth.cases, contender.maps(truth.cases), strict=True)
    return list(_progress(parallel_map(score_one, rows, os.cpu_count() or 1, 16), len(truth.cases), contender.name))


def _metric_maps(contender: Contender, truth: GroundTruth) -> Callable[[Case, np.ndarray], dict[str, np.ndarray]]:
    """What makes the maps for each metric, after a first pass over all predictions for their average density."""
    grid = (density.CELLS, density.CELLS)
    rows = zip(truth.cases, contender.maps(truth.cases), strict=True)
    grids = parallel_map(lambda row: density.on_pixels(np.exp(contender.log_density(row[1])), grid), rows)
    total = sum(_progress(grids, len(truth.cases), f"{contender.name}, average"))
    count = round(np.mean([len(case.fixations) for case in truth.cases]))

    def make(case: Case, log_density: np.ndarray) -> dict[str, np.ndarray]:
        others = total - density.on_pixels(np.exp(log_density), grid)
        others = density.on_pixels(np.maximum(others, 1e-300), case.shape)
        return density.metric_maps(log_density, others, truth.kernel, max(1, count), truth.seed)

    return make


def with_fitted_density(contender: Contender, cases: Sequence[Case], path: Path) -> Contender:
    """The contender with a log density fitted to training images, which is saved at `path`.

    Args:
        contender: who predicts.
        cases: training images; at most `FIT_IMAGES`, evenly chosen, are used.
        path: see `density.FittedDensity.save`.
    """
    chosen = [case for case in cases if len(case.fixations)]
    chosen = chosen[:: max(1, -(-len(chosen) // FIT_IMAGES))]
    if not chosen:
        raise UserError("--fit learns from fixations, and the training split has none.")
    maps = _progress(contender.maps(chosen), len(chosen), f"{contender.name}, fit")
    fitted, before, after = density.fit_density(maps, [case.positions for case in chosen])
    fitted.save(path)
    print(
        f"Density of {contender.name}, fitted to {len(chosen)} training images: log likelihood over uniform from "
        f"{before:.3f} (default) to {after:.3f} bits a fixation there. It is in {path}."
    )
    record = {**contender.record, "density": str(path)}
    return replace(contender, log_density=fitted.log_density, record=record)


def score_gold_standard(truth: GroundTruth) -> tuple[list[dict[str, float]], dict]:
    """Score how well observers predict another: the best that a model can be expected to reach.

    Metrics on fixations are means over the observers of each image, every one predicted by all others; those that
    compare maps take half of the observers to predict the map of the other half.

    Returns:
        The scores of each case, and the parameters of `density.GoldStandard`.
    """
    known = [case for case in truth.cases if case.observers is not None and len(np.unique(case.observers)) > 1]
    centres = {case.index: truth.centre_bias.grid(without=case.positions) for case in known}
    gold = density.fit_gold_standard(
        [(c.positions, c.observers, c.shape, centres[c.index]) for c in known if c.observers is not None]
    )
    names = PROTOCOLS[truth.protocol]

    of_fixations = [name for name in names if name in FIXATION_METRICS]
    of_maps = [name for name in names if name not in FIXATION_METRICS]

    def predict_others(case: Case, shape: tuple[int, int], chosen: np.ndarray, names: Sequence[str]) -> dict:
        """Score the prediction of the chosen fixations by all others, on `shape` pixels."""
        grid = gold.grid(case.positions[~chosen], case.shape, centres[case.index])
        values = density.on_pixels(grid, shape)
        seen = replace(case, shape=shape, fixations=_pixels_at(case.positions, shape))
        return score(truth, seen, values, np.log(values), seen.fixations[chosen], names)

    def score_one(case: Case) -> dict[str, float]:
        if case.observers is None or case.index not in centres:
            return dict.fromkeys(names, np.nan)
        observers = np.unique(case.observers)
        # The density has no finer details than its grid, on which so many predictions take less time.
        coarse = (density.CELLS, density.CELLS)
        rows = [predict_others(case, coarse, case.observers == observer, of_fixations) for observer in observers]
        means = {name: float(np.mean([row[name] for row in rows])) for name in of_fixations}
        halves = predict_others(case, case.shape, np.isin(case.observers, observers[::2]), of_maps)
        return {name: {**means, **halves}[name] for name in names}

    rows = _progress(parallel_map(score_one, truth.cases, os.cpu_count() or 1), len(truth.cases), "gold standard")
    record = {"baseline": "gold standard", "bandwidth": gold.bandwidth, "centre_bias_share": gold.centre}
    return list(rows), record


def _progress(rows: Iterator, total: int, name: str) -> Iterator:
    return tqdm(rows, total=total, desc=name, unit="image", leave=False, disable=None)


# --- Intervals and tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean over images, the 95 % bootstrap interval around it, and the number of images with a value."""

    mean: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.images else "–"


def estimate(values: np.ndarray, seed: int) -> Estimate:
    """The mean of values, (N,), and the interval that resampling the images gives; NaN is left out.

    Equal seeds and numbers of images draw the same images.
    """
    known = np.isfinite(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan, 0)
    means = _resampled_means(np.where(known, values, 0), known, seed)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Estimate(float(values[known].mean()), float(low), float(high), int(known.sum()))


def _resampled_means(values: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
    drawn = _bootstrap_counts(len(values), seed)
    with np.errstate(invalid="ignore"):  # A sample may have drawn no image with a value.
        return (drawn @ values) / (drawn @ known)


@functools.lru_cache(maxsize=2)
def _bootstrap_counts(images: int, seed: int) -> np.ndarray:
    """How often each image is drawn in each sample, (BOOTSTRAP_SAMPLES, images) float32."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), BOOTSTRAP_SAMPLES).astype(np.float32)


def estimates(scores: dict[str, list[dict]], seed: int) -> dict[str, dict[str, Estimate]]:
    """By contender and metric, the mean with its interval."""
    return {
        name: {metric: estimate(np.array([row[metric] for row in rows]), seed) for metric in rows[0]}
        for name, rows in scores.items()
    }


def differences(scores: dict[str, list[dict]], seed: int) -> dict[str, dict[str, Estimate]]:
    """For each contender but the first, the mean difference from the first, with paired intervals."""
    first, *others = scores.values()
    paired = [
        [{metric: row[metric] - base[metric] for metric in row} for row, base in zip(rows, first, strict=True)]
        for rows in others
    ]
    return estimates(dict(zip(list(scores)[1:], paired, strict=True)), seed)


def table(columns: dict[str, dict[str, Estimate]]) -> str:
    """Metrics down, contenders across: mean, 95 % interval, and the number of images."""
    metric_names = list(next(iter(columns.values())))
    head = ["metric", *columns, "images"]
    body = [
        [
            f"{metric} {'↓' if metric in LESS_IS_BETTER else '↑'}",
            *(str(column[metric]) for column in columns.values()),
            str(min(column[metric].images for column in columns.values())),
        ]
        for metric in metric_names
    ]
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)
    )


# --- Files ------------------------------------------------------------------------------------------------------------


def write_per_image(path: Path, cases: Sequence[Case], scores: dict[str, list[dict]]) -> None:
    """One row for each contender and image."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["contender", "image", *next(iter(scores.values()))[0]])
        for name, rows in scores.items():
            for case, row in zip(cases, rows, strict=True):
                writer.writerow([name, case.sample.name, *row.values()])


def _as_json(columns: dict[str, dict[str, Estimate]]) -> dict:
    """Estimates as JSON knows them, which has no NaN."""
    return {
        name: {
            metric: {"mean": e.mean, "low": e.low, "high": e.high, "images": e.images} if e.images else None
            for metric, e in column.items()
        }
        for name, column in columns.items()
    }


def draw_examples(path: Path, contender: Contender, truth: GroundTruth, rows: Sequence[dict], metric: str) -> None:
    """Draw the best, the median and the worst images: photograph with fixations, true map, and prediction."""
    from matplotlib.figure import Figure  # Without pyplot no display is asked for.

    values = np.array([row[metric] for row in rows])
    order = [i for i in np.argsort(values if metric in LESS_IS_BETTER else -values) if np.isfinite(values[i])]
    if not order:
        return
    middle = max(0, len(order) // 2 - 1)
    parts = {"worst": order[-2:], "median": order[middle : middle + 2], "best": order[:2]}
    words = {i: word for word, part in parts.items() for i in part}
    chosen = sorted(words, key=order.index)
    cases = [truth.cases[i] for i in chosen]
    figure = Figure(figsize=(9, 2.5 * len(chosen)))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.98, 0.02, 0.12)  # Quicker than to have the layout found.
    grid = figure.subplots(len(chosen), 3, squeeze=False)
    for axes, case, saliency in zip(grid, cases, contender.maps(cases), strict=True):
        axes[0].imshow(decode_image(tf.io.read_file(os.fsencode(case.sample.stimulus)), 3).numpy())
        rows_, columns = case.fixations.T
        axes[0].scatter(columns, rows_, s=7, c="yellow", edgecolors="black", linewidths=0.4)
        axes[0].set(xlim=(-0.5, case.shape[1] - 0.5), ylim=(case.shape[0] - 0.5, -0.5))
        axes[0].set_title(f"{words[case.index]}: {case.sample.name}, {metric} {values[case.index]:.2f}", fontsize=9)
        axes[1].imshow(truth.true_map(case), cmap="inferno")
        axes[2].imshow(saliency, cmap="inferno")
    for axis in grid.ravel():
        axis.set_axis_off()
    grid[0, 1].set_title("ground truth", fontsize=9)
    grid[0, 2].set_title(contender.name, fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_distributions(path: Path, scores: dict[str, list[dict]]) -> None:
    """Draw how each metric is distributed over the images, a box for each contender."""
    from matplotlib.figure import Figure

    names = list(next(iter(scores.values()))[0])
    columns = min(4, len(names))
    figure = Figure(figsize=(3.2 * columns, (1 + 0.35 * len(scores)) * -(-len(names) // columns)), layout="constrained")
    grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False)
    for axes, name in itertools.zip_longest(grid.ravel(), names):
        if name is None:
            axes.set_axis_off()
            continue
        values = [[row[name] for row in rows if np.isfinite(row[name])] for rows in scores.values()]
        axes.boxplot(values, orientation="horizontal", widths=0.6, flierprops={"markersize": 2})
        axes.set_yticks(range(1, len(scores) + 1), list(scores) if axes in grid[:, 0] else [""] * len(scores))
        axes.invert_yaxis()
        axes.set_title(name + (" (less is better)" if name in LESS_IS_BETTER else ""), fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


# --- The phase --------------------------------------------------------------------------------------------------------


def run(
    data: str,
    folder: Path,
    samples: Sequence[Sample],
    params: dict,
    *,
    part: str,
    size: tuple[int, int],
    weights: Sequence[str] | None = None,
    maps: Sequence[Path] = (),
    protocol: str = "tuebingen",
    sigma: float | None = None,
    with_baselines: bool = False,
    metric_maps: bool = False,
    density_file: Path | None = None,
    training: Sequence[Sample] | None = None,
    name: str | None = None,
) -> None:
    """Score networks and folders of maps, print one table, and write the run's files.

    Args:
        data, folder, samples: the dataset's key, its folder, and the images of it to predict.
        params: `config.PARAMS` with the user's flags.
        part: which images they are, for the record.
        size: height and width of the networks' input.
        weights: see `checkpoint.choose_weights`; None for the best there are, unless `maps` are given.
        maps: folders of existing maps.
        protocol, sigma: see `GroundTruth`.
        with_baselines: whether to score `baselines` and the gold standard too.
        metric_maps: see `score_contender`.
        density_file: of a density that was fitted before, instead of the default one.
        training: fit each model's density to these.
        name: of the run's folder in `results/evaluation/`.
    """
    results, seed = Path(params["results"]), params["seed"]
    if not samples:
        raise UserError(f"The {part} part of {folder} holds no image; choose another --split.")
    if name and Path(name).name != name:
        raise UserError(f"--name names a folder in {results / 'evaluation'}, and so holds no slash; received {name}.")
    if protocol == "mit":
        metrics.optimal_transport()  # Whether it is there should be known before an hour of predicting.
    truth = GroundTruth(load_cases(folder, samples), protocol, sigma, seed)
    models = _models(data, params, size, weights, maps)
    flags = {
        "baselines": with_baselines,
        "metric-maps": metric_maps,
        "fit": training is not None,
        "density": density_file is not None,
        f"sigma-{sigma}": sigma is not None,
    }
    words = [data, part, protocol, *(flag for flag, given in flags.items() if given), *(m.name for m in models)]
    target = results / "evaluation" / (name or "_".join(words)[:120])
    if density_file is not None:
        fitted, record = density.FittedDensity.load(density_file), {"density": str(density_file)}
        models = [replace(m, log_density=fitted.log_density, record={**m.record, **record}) for m in models]
    if training is not None:
        cases = load_cases(folder, training)
        models = [with_fitted_density(m, cases, target / f"density_{m.name}.json") for m in models]
    everyone = [*models, *(baselines(truth) if with_baselines else [])]
    records = {contender.name: contender.record for contender in everyone}
    # Every core has an image of its own; that products of matrices take several cores too would only hinder.
    with threadpool_limits(1, "blas"):
        scores = {contender.name: score_contender(contender, truth, metric_maps) for contender in everyone}
        if with_baselines and any(case.observers is not None for case in truth.cases):
            scores["gold standard"], records["gold standard"] = score_gold_standard(truth)

    columns = estimates(scores, seed)
    print(f"\n{len(samples)} images of {data} ({part}), protocol {protocol}; mean [95 % interval over images]\n")
    print(table(columns))
    compared = differences({model.name: scores[model.name] for model in models}, seed)
    if compared:
        print(f"\nDifference from {models[0].name} on the same images\n")
        print(table(compared))

    write_per_image(target / "per_image.csv", truth.cases, scores)
    summary = {
        "data": data,
        "folder": str(folder),
        "split": part,
        "images": len(samples),
        "fixations": sum(len(case.fixations) for case in truth.cases),
        "protocol": protocol,
        "sigma": sigma,
        "metric_maps": metric_maps,
        "centre_bias": {"bandwidth": truth.centre_bias.bandwidth, "uniform_share": truth.centre_bias.uniform},
        "seed": seed,
        "bootstrap_samples": BOOTSTRAP_SAMPLES,
        "contenders": records,
        "scores": _as_json(columns),
        "differences_from_the_first": _as_json(compared),
    }
    write_record(target / "summary.json", summary)
    draw_distributions(target / "distributions.png", scores)
    metric = "NSS" if columns[models[0].name]["NSS"].images else "CC"
    for model in models:
        draw_examples(target / f"examples_{model.name}.png", model, truth, scores[model.name], metric)
    print(f"\nScores of every image, the summary and pictures are in {target}.")


def _models(
    data: str, params: dict, size: tuple[int, int], weights: Sequence[str] | None, maps: Sequence[Path]
) -> list[Contender]:
    """The networks and folders to compare, each under a name of its own."""
    models: list[Contender] = []

    def free_name(wanted: str) -> str:
        taken = {model.name for model in models}
        candidates = itertools.chain([wanted], (f"{wanted}-{i}" for i in itertools.count(2)))
        return next(candidate for candidate in candidates if candidate not in taken)

    if weights or not maps:
        chosen: Sequence[str | None] = weights or [None]
        for wanted in chosen:
            network = msinet.load(
                wanted, data=data, results=params["results"], input_size=size, device=params["device"]
            )
            print(network.summary())
            name = free_name(network.weights.path.name.split(".")[0])
            models.append(network_contender(name, network, params["batch_size"]))
    for folder in maps:
        models.append(folder_contender(free_name(folder.resolve().name), folder))
    return models
