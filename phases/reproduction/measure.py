"""What a reproduction will take: downloads, disk, and the time that is expected from steps measured on this machine."""

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import checkpoint
import download
import msinet
from acquisition.datasets import DATASETS
from config import VARIANTS
from data import Sample
from loss import kld
from model import build_model, choose_layout
from phases.reproduction.plan import PROTOCOLS as NAMES
from phases.reproduction.plan import Options, Step
from phases.submit import BENCHMARKS
from scoring import contenders
from scoring.ground_truth import Case, GroundTruth
from scoring.protocols import PROTOCOLS, usable
from utils import cores

MEASURED_SIZE = (240, 320)  # of the network's input
SCORED_SHAPE = (480, 640)  # of the photographs whose scoring is measured
OBSERVERS = 15  # of each of them, with four fixations
FULL_MB, ENCODER_MB = 99.7, 58.9  # of float32 weights


@dataclass(frozen=True)
class Speed:
    """Seconds, measured on this machine.

    Attributes:
        predict, train: of an image, for each pixel of the network's input.
        score, gold: of an image, for each protocol; of the gold standard, for each observer.
    """

    predict: float
    train: float
    score: dict[str, float]
    gold: dict[str, float]


@dataclass(frozen=True)
class Need:
    """What a step takes: megabytes to fetch and to keep, seconds; None where that is not known."""

    download: float | None = 0.0
    disk: float | None = 0.0
    seconds: float | None = 0.0


def table(options: Options, steps: Sequence[Step]) -> str:
    """The plan for people: every step with what it takes, and their sum."""
    speed = measure(options)
    needs = [need_of(step, options, speed) for step in steps]
    rows = [["", "step", "download", "disk", "time"]]
    for number, (step, need) in enumerate(zip(steps, needs, strict=True), 1):
        rows.append([str(number), step.name, megabytes(need.download), megabytes(need.disk), duration(need.seconds)])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    unknown = sum(need.download is None for need in needs)
    total = [sum(getattr(need, kind) or 0 for need in needs) for kind in ("download", "disk", "seconds")]
    height, width = MEASURED_SIZE
    lines += [
        "",
        f"Together: {total[0] / 1000:.2f} GB to fetch and {total[1] / 1000:.2f} GB of disk"
        + (f", and {unknown} downloads whose size nobody here has measured" if unknown else "")
        + f"; {duration(total[2]) or 'no time'} without the downloads, and less for what is done already.",
        f"Measured here and now: {speed.predict * height * width:.2f} s to predict a {height}×{width} map, "
        + (f"{speed.train * height * width:.2f} s for a training step, " if options.train else "")
        + ", ".join(f"{seconds:.2f} s to score an image ({name})" for name, seconds in speed.score.items())
        + ".",
    ]
    return "\n".join(lines)


def need_of(step: Step, options: Options, speed: Speed) -> Need:
    """What a step takes."""
    if step.kind == "data":
        there = any((folder / "stimuli").is_dir() for folder in (options.path / step.data, options.path))
        size = 0.0 if there else stated_megabytes(DATASETS[step.data].size)
        return Need(size, size and 2 * size, None)
    if step.kind == "weights":
        which = step.settings["which"]
        key = {"vgg16": "vgg16_hybrid", "published": f"model_{step.data}_cpu"}.get(which)
        size = 0.0 if key is None or download.present(key, checkpoint.WEIGHTS_FOLDER) else FULL_MB
        size = min(size, ENCODER_MB) if which == "vgg16" else size
        return Need(size, 2 * size, None)
    if step.kind == "submit":
        benchmark = BENCHMARKS[step.data]
        height, width = options.size_for(benchmark.dataset)
        return Need(seconds=benchmark.images * speed.predict * height * width)
    row = DATASETS[step.data]
    height, width = options.size_for(step.data)
    if step.kind == "train":
        one = row.train * speed.train + row.valid * speed.predict
        weights = FULL_MB * VARIANTS[options.variant]["width"] ** 2
        return Need(disk=6 * weights, seconds=options.params["epochs"] * one * height * width)
    if step.network == "baselines":
        gold = speed.gold[step.protocol] * stated_number(row.observers)
        return Need(seconds=row.valid * (3 * speed.score[step.protocol] + gold))
    return Need(seconds=row.valid * (speed.predict * height * width + speed.score[step.protocol]))


# --- Measurements -----------------------------------------------------------------------------------------------------


def measure(options: Options) -> Speed:
    """Measure a prediction, a training step if there will be any, and the scoring of images."""
    layout = choose_layout(options.params["device"])
    height, width = MEASURED_SIZE
    photographs = np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
    factor = VARIANTS["lite"]["width"] if options.weights == "lite" else 1.0
    arrays = checkpoint.arrays_of(build_model(width=factor, seed=0))
    network = msinet.from_arrays(arrays, MEASURED_SIZE, layout=layout)
    predict = second_time(lambda: np.asarray(network(photographs)))
    train = 0.0
    if options.train:
        trained = build_model(layout, width=VARIANTS[options.variant]["width"], seed=0)
        trained.compile("adam", kld, jit_compile=False)
        train = second_time(lambda: trained.train_on_batch(photographs, photographs[..., :1]))
    score, gold = scoring_speed()
    return Speed(predict / (height * width), train / (height * width), score, gold)


def second_time(function) -> float:
    """The seconds of a call that is not the first, which compiles."""
    function()
    started = time.monotonic()
    function()
    return time.monotonic() - started


def scoring_speed() -> tuple[dict[str, float], dict[str, float]]:
    """Seconds that an image is scored in, and the gold standard of an image for each observer, by protocol."""
    random = np.random.default_rng(0)
    number = 2 * cores()
    score, gold = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        for i in range(number):
            path = Path(folder, f"{i}.png")
            Image.fromarray(random.integers(0, 256, SCORED_SHAPE, np.uint8)).save(path)
            fixations = random.integers(0, SCORED_SHAPE, (4 * OBSERVERS, 2))
            cases.append(Case(i, Sample(str(i), path, path), SCORED_SHAPE, fixations, np.arange(4 * OBSERVERS) // 4))
        truth = GroundTruth(cases)
        noise = contenders.Contender("measured", lambda cases: (random.random(SCORED_SHAPE) for _ in cases))
        for name in NAMES:
            protocol, _ = usable(PROTOCOLS[name])
            started = time.monotonic()
            contenders.score_contender(noise, truth, protocol)
            score[name] = (time.monotonic() - started) / number
            started = time.monotonic()
            contenders.score_gold_standard(truth, protocol)
            gold[name] = (time.monotonic() - started) / number / OBSERVERS
    return score, gold


# --- Words and numbers ------------------------------------------------------------------------------------------------


def stated_megabytes(text: str) -> float | None:
    """The size that a row of the datasets states, in megabytes."""
    found = re.match(r"([\d.]+) (MB|GB)", text)
    return float(found[1]) * {"MB": 1, "GB": 1000}[found[2]] if found else None


def stated_number(text: str) -> int:
    """The first number in a text, such as "about 60 an image"."""
    found = re.search(r"\d+", text)
    return int(found[0]) if found else OBSERVERS


def megabytes(size: float | None) -> str:
    return "not known" if size is None else f"{size / 1000:.2f} GB" if size else ""


def duration(seconds: float | None) -> str:
    """A time in words of one or two units."""
    if not seconds:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"
