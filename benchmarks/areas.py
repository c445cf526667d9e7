"""How wrong shares of attention, crops and comparisons are: measured against people on photographs that validate.

    pip install pyvips-binary pyvips smartcrop
    python benchmarks/areas.py --data data       # writes attention/measured.json and the chapter's tables
    python benchmarks/areas.py --data data --maps published=FOLDER --output published.json

The medium network predicts the maps once, into `results/areas/`; `--maps` reads `FOLDER/<dataset>/<image>.npy` instead.
Errors that set an interval never count towards its coverage: five folds of photographs take turns.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[1]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from msinet.acquisition.datasets import DATASETS  # noqa: E402
from msinet.attention import crops, errors  # noqa: E402
from msinet.attention.areas import parse_ratio  # noqa: E402
from msinet.attention.density import attention, center_bias, integral  # noqa: E402
from msinet.attention.measured import MEASURED  # noqa: E402
from msinet.data import find_dataset, image_size, pair_files, split  # noqa: E402
from msinet.scoring.fixations import read_fixations  # noqa: E402
from msinet.utils import parallel_map, whole_file, write_json  # noqa: E402

# What the package ships, and the chapter with its tables between two comments.
OUTPUT, CHAPTER = ROOT / "attention" / "measured.json", ROOT / "docs" / "attention.md"
BEGIN, END = "<!-- benchmarks/areas.py writes these tables: -->", "<!-- end of the tables -->"

NETWORK, NAMES = "medium", ("osie", "mit1003")
RATIOS = ("1:1", "4:5", "16:9")
BOXES, PAIRS, FOLDS = 2000, 2000, 5  # random boxes and pairs of photographs of each dataset
KINDS = {"quarters": slice(0, 4), "3×3 grid": slice(4, 13), "random boxes": slice(13, None)}
SAME_PLACE = slice(0, 13)  # the areas that all photographs have
PEOPLE, CENTER, HALF, OTHER_HALF = "people", "center bias", "half of the observers", "the other half"
# Ways from a map to a density, besides dividing it by its sum.
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "power 0.8": lambda saliency: attention(saliency**0.8),
    "power 1.2": lambda saliency: attention(saliency**1.2),
    "10 % center bias": lambda saliency: 0.9 * attention(saliency) + 0.1 * center_bias(saliency.shape),
}


@dataclass(frozen=True)
class Photograph:
    """A photograph that validates.

    Attributes:
        file, shape: of it; height and width.
        fixations: row, column and observer of each, (N, 3) integers.
        saliency: the network's map, float32, (H, W).
        boxes: top, left, bottom and right of its areas in pixels, (areas, 4): quarters, grid and random boxes.
    """

    file: Path
    shape: tuple[int, int]
    fixations: np.ndarray
    saliency: np.ndarray
    boxes: np.ndarray

    def counts(self, half: int | None = None) -> np.ndarray:
        """How many fixations each pixel has, float64, (H, W): of all observers, or of every second one."""
        chosen = slice(None)
        if half is not None:
            chosen = np.isin(self.fixations[:, 2], np.unique(self.fixations[:, 2])[half::2])
        rows, columns = self.fixations[chosen, :2].T
        counts = np.bincount(rows * self.shape[1] + columns, minlength=np.prod(self.shape))
        return counts.reshape(self.shape).astype(float)

    def shares(self, density: np.ndarray) -> np.ndarray:
        """The share of a density in each of the boxes, (areas,)."""
        sums = integral(density / density.sum())
        top, left, bottom, right = self.boxes.T
        return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


def main() -> None:
    parser = argparse.ArgumentParser(description="How wrong shares of attention are, against people.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the datasets osie and mit1003")
    parser.add_argument("--maps", help="NAME=FOLDER of existing maps")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    MEASURED["center_bias"] = fit_center_bias(options.data)
    network, _, folder = (options.maps or f"{NETWORK}=").partition("=")
    maps, sha256 = (Path(folder), None) if folder else predict(options.data)
    result: dict = {"network": network, "sha256": sha256, "center_bias": MEASURED["center_bias"]}
    photographs = {name: load(options.data, name, maps / name) for name in NAMES}
    shares = {name: all_shares(photographs[name], network) for name in NAMES}
    pooled = [np.concatenate([shares[name][who] for name in NAMES]) for who in (network, PEOPLE)]
    result["interval"] = fit_interval(*pooled)
    result["shares"] = {name: score_shares(shares[name], network, coverages(shares, network)[name]) for name in NAMES}
    result["transforms"] = {
        name: {who: float(np.abs(shares[name][who] - shares[name][PEOPLE]).mean()) for who in (network, *TRANSFORMS)}
        for name in NAMES
    }
    result["compare"] = {name: score_pairs(shares[name], network, result["interval"]) for name in NAMES}
    result["crops"] = {name: score_crops(photographs[name], network) for name in NAMES}
    write_json(options.output, result)
    print(tables(result))
    if options.output == OUTPUT:
        write_chapter(result)


# --- Photographs, maps and shares -------------------------------------------------------------------------------------


def fit_center_bias(data: Path) -> dict[str, float]:
    """Mean and standard deviation of the training photographs' fixations, in shares of the sides."""
    positions = []
    for name in NAMES:
        folder = find_dataset(name, data)
        fixations = read_fixations(folder)
        for sample in split(pair_files(folder), DATASETS[name])[0]:
            height, width = image_size(sample.stimulus)
            positions.append((fixations[sample.name][:, :2] + 0.5) / (width, height))
    x, y = np.concatenate(positions).T
    values = {"y": y.mean(), "sigma_y": y.std(), "sigma_x": np.sqrt(np.mean((x - 0.5) ** 2))}
    return {key: round(float(value), 3) for key, value in values.items()}


def predict(data: Path) -> tuple[Path, str]:
    """The folder with the medium network's maps, which are made where they are missing, and the network's SHA-256."""
    import msinet

    for name in NAMES:
        network = msinet.load(NETWORK, data=name)
        folder = ROOT / "results" / "areas" / network.sha256[:12]
        samples = split(pair_files(find_dataset(name, data)), DATASETS[name])[1]
        missing = [sample for sample in samples if not (folder / name / f"{sample.name}.npy").exists()]
        for sample, saliency in zip(missing, network.predict_many([s.stimulus for s in missing]), strict=True):
            with whole_file(folder / name / f"{sample.name}.npy") as temporary:
                np.save(temporary, saliency.astype(np.float32))
    return folder, network.sha256


def load(data: Path, name: str, maps: Path) -> list[Photograph]:
    folder = find_dataset(name, data)
    samples, fixations = split(pair_files(folder), DATASETS[name])[1], read_fixations(folder)
    random = np.random.default_rng(0)
    result = []
    for sample in samples:
        saliency = np.load(maps / f"{sample.name}.npy")
        shape = saliency.shape[:2]
        boxes = np.concatenate([cells(2), cells(3), random_boxes(random, BOXES // len(samples))])
        in_pixels = np.round(boxes * np.tile(shape, 2)).astype(int)
        points = fixations[sample.name][:, [1, 0, 2]]
        result.append(Photograph(sample.stimulus, shape, points, saliency.reshape(shape), in_pixels))
    return result


def cells(count: int) -> np.ndarray:
    """The cells of a grid with `count` rows and columns: top, left, bottom, right, in shares of the sides."""
    starts = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), -1).reshape(-1, 2)
    return np.column_stack([starts, starts + 1]) / count


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Boxes of 2 to 25 % of a photograph's area, up to twice as long as wide; top, left, bottom, right in shares."""
    area, shape = random.uniform(0.02, 0.25, count), np.exp2(random.uniform(-1, 1, count))
    size = np.sqrt(area[:, None] * np.column_stack([shape, 1 / shape]))
    start = random.uniform(0, 1 - size)
    return np.column_stack([start, start + size])


def all_shares(photographs: Sequence[Photograph], network: str) -> dict[str, np.ndarray]:
    """By who says so, the share in every area of every photograph, (photographs, areas)."""

    def of_one(photograph: Photograph) -> dict[str, np.ndarray]:
        saliency = photograph.saliency.astype(np.float64)
        densities = {
            PEOPLE: photograph.counts(),
            HALF: photograph.counts(half=0),
            OTHER_HALF: photograph.counts(half=1),
            CENTER: center_bias(photograph.shape),
            network: attention(saliency),
            **{name: transform(saliency) for name, transform in TRANSFORMS.items()},
        }
        return {name: photograph.shares(density) for name, density in densities.items()}

    rows = list(parallel_map(of_one, photographs))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


# --- Errors -----------------------------------------------------------------------------------------------------------


def error(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How far shares, (photographs, areas), are from the true ones."""
    return {
        "correlation": float(np.corrcoef(predicted.ravel(), truth.ravel())[0, 1]),
        "mean_absolute_error": float(np.abs(predicted - truth).mean()),
        "same_top_area": float(np.mean(predicted.argmax(1) == truth.argmax(1))),
    }


def score_shares(shares: dict[str, np.ndarray], network: str, covered: np.ndarray) -> dict:
    result: dict = {}
    for kind, part in KINDS.items():
        truth, half = shares[PEOPLE][:, part], shares[OTHER_HALF][:, part]
        result[kind] = {who: error(shares[who][:, part], truth) for who in (network, CENTER)}
        result[kind][network]["coverage"] = float(covered[:, part].mean())
        # Half of the observers can only be compared with the other half, which is fewer people, and so noisier.
        result[kind] |= {f"{who} → {OTHER_HALF}": error(shares[who][:, part], half) for who in (network, HALF)}
    return {**result, "coverage": float(covered.mean())}


def fit_interval(predicted: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    """The 5th and the 95th percentile of the errors around each of `errors.KNOTS`, in units of `errors.scale`."""
    predicted, truth = predicted.ravel(), truth.ravel()
    scaled = (truth - predicted) / errors.scale(predicted)
    ends: dict[str, list[float]] = {"low": [], "high": []}
    for knot in errors.KNOTS:
        nearest = np.argsort(np.abs(np.sqrt(predicted) - np.sqrt(knot)))[: len(predicted) // 10]
        low, high = np.quantile(scaled[nearest], [(1 - errors.COVERAGE) / 2, (1 + errors.COVERAGE) / 2])
        ends["low"].append(round(float(low), 4))
        ends["high"].append(round(float(high), 4))
    return ends


def coverages(shares: dict[str, dict[str, np.ndarray]], network: str) -> dict[str, np.ndarray]:
    """By dataset, whether people's share is in the interval that other photographs set, (photographs, areas) bool."""
    folds = {name: np.random.default_rng(0).permutation(len(s[PEOPLE])) % FOLDS for name, s in shares.items()}
    covered = {name: np.zeros(s[PEOPLE].shape, bool) for name, s in shares.items()}
    for fold in range(FOLDS):
        others = [
            np.concatenate([shares[name][who][folds[name] != fold] for name in shares]) for who in (network, PEOPLE)
        ]
        fitted = fit_interval(*others)
        for name, same in shares.items():
            chosen = folds[name] == fold
            low, high = errors.interval(same[network][chosen], fitted)
            truth = same[PEOPLE][chosen]
            covered[name][chosen] = (truth >= low - 1e-9) & (truth <= high + 1e-9)
    return covered


def score_pairs(shares: dict[str, np.ndarray], network: str, interval: dict) -> dict[str, float]:
    """How well differences between two photographs in the same cell are predicted."""
    random = np.random.default_rng(1)
    count = len(shares[PEOPLE])
    pairs = np.array([random.choice(count, 2, replace=False) for _ in range(PAIRS)])
    first, second = ({who: shares[who][pairs[:, i], SAME_PLACE] for who in (PEOPLE, network, CENTER)} for i in (0, 1))
    truth, predicted = (second[who] - first[who] for who in (PEOPLE, network))
    clear = np.abs(truth) > 0.1
    MEASURED["interval"] = interval
    ends = np.vectorize(errors.difference_interval)(first[network], second[network])
    return {
        "pairs": int(clear.sum()),
        "sign_agreement": float(np.mean(np.sign(predicted[clear]) == np.sign(truth[clear]))),
        "coverage_of_the_difference": float(np.mean((truth >= ends[0] - 1e-9) & (truth <= ends[1] + 1e-9))),
    }


# --- Crops ------------------------------------------------------------------------------------------------------------


def score_crops(photographs: Sequence[Photograph], network: str) -> dict[str, dict[str, float]]:
    """By ratio and method, the mean share of fixations that the largest crop keeps."""

    def of_one(photograph: Photograph) -> dict[str, dict[str, float]]:
        counts = photograph.counts()
        sums, result = integral(counts / counts.sum()), {}
        for ratio in RATIOS:
            size = crops.crop_sizes(photograph.shape, parse_ratio(ratio), 1)[0]
            slack = np.subtract(photograph.shape, size)
            everywhere = crops.box_sums(sums, np.arange(slack[0] + 1), np.arange(slack[1] + 1), size)
            ours = crops.crop(photograph.saliency, ratio)
            places = {
                network: (ours.y, ours.x),
                "center crop": tuple(slack // 2),
                "libvips attention": libvips_crop(photograph.file, size),
                "smartcrop": smart_crop(photograph.file, size),
            }
            result[ratio] = {who: float(everywhere[place]) for who, place in places.items()}
            result[ratio]["knows the fixations"] = float(everywhere.max())
        return result

    rows = list(parallel_map(of_one, photographs))
    methods = rows[0][RATIOS[0]]
    return {ratio: {who: float(np.mean([row[ratio][who] for row in rows])) for who in methods} for ratio in RATIOS}


def libvips_crop(file: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of libvips' attention crop."""
    import pyvips

    cropped = pyvips.Image.new_from_file(str(file)).smartcrop(size[1], size[0], interesting="attention")
    return -cropped.yoffset, -cropped.xoffset


def smart_crop(file: Path, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of smartcrop's crop, which it finds on a reduced photograph."""
    import smartcrop

    with Image.open(file) as image:
        shape = image.height, image.width
        height, width = (round(100 * side / min(size)) for side in size)  # As in its own examples.
        box = smartcrop.SmartCrop().crop(image.convert("RGB"), width, height, min_scale=1)["top_crop"]
    top, left = (min(max(0, round(box[k])), side - length) for k, side, length in zip("yx", shape, size, strict=True))
    return top, left


# --- Tables -----------------------------------------------------------------------------------------------------------


def tables(result: dict) -> str:
    """The tables of docs/attention.md."""
    network = result["network"]
    judges = [network, CENTER, f"{network} → {OTHER_HALF}", f"{HALF} → {OTHER_HALF}"]
    rows = [["dataset, areas", network, CENTER, f"{network} → half", "half → half", "in the interval"]]
    for name in NAMES:
        for kind, found in ((kind, result["shares"][name][kind]) for kind in KINDS):
            scores = [found[judge] for judge in judges]
            cells = [
                f"{s['correlation']:.2f}, {100 * s['mean_absolute_error']:.1f}, {s['same_top_area']:.0%}"
                for s in scores
            ]
            rows.append([f"{name}, {kind}", *cells, f"{found[network]['coverage']:.1%}"])
    methods = list(result["crops"][NAMES[0]][RATIOS[0]])
    crop_rows = [["dataset, ratio", *methods]]
    for name in NAMES:
        for ratio in RATIOS:
            kept = result["crops"][name][ratio]
            crop_rows.append([f"{name}, {ratio}", *(f"{kept[method]:.1%}" for method in methods)])
    pair_rows = [["dataset", "pairs", "right sign", "in the interval (all pairs)"]]
    for name in NAMES:
        row = result["compare"][name]
        shares = (row["sign_agreement"], row["coverage_of_the_difference"])
        pair_rows.append([name, str(row["pairs"]), *(f"{share:.1%}" for share in shares)])
    return "\n\n".join(
        [
            "Shares: correlation, mean absolute error in points, how often the top area is the right one",
            markdown(rows),
            "Crops: share of people's fixations that the largest crop keeps",
            markdown(crop_rows),
            "Differences between two photographs in the same cell, where people differ by more than 10 points",
            markdown(pair_rows),
        ]
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def write_chapter(result: dict) -> None:
    """Replace the tables of the chapter."""
    before, _, rest = CHAPTER.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    CHAPTER.write_text(f"{before}{BEGIN}\n\n{tables(result)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
