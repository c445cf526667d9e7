"""Speed of the metrics at 600×800 pixels with 100 fixations: alone, in parallel, and by number of images.

    python benchmarks/metrics.py

Times are CPU times, which depend little on the machine's other load; the median of several repetitions.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
ROOT = Path(__file__).parents[1]
# This folder would hide modules of the same name as a script.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

from msinet.utils import parallel_map, quiet_stderr  # noqa: E402

with quiet_stderr():
    import numpy as np
    from scipy.ndimage import gaussian_filter

    from msinet.data import Sample
    from msinet.scoring import density
    from msinet.scoring.ground_truth import Case, GroundTruth
    from msinet.scoring.protocols import PROTOCOLS, TUEBINGEN

SHAPE, FIXATIONS = (600, 800), 100


def milliseconds(function: Callable, repetitions: int = 7) -> float:
    """Median CPU time of a call, after a warm-up call."""
    function()
    durations = []
    for _ in range(repetitions):
        start = time.process_time()
        function()
        durations.append(time.process_time() - start)
    return 1e3 * statistics.median(durations)


def scene(images: int, seed: int = 0) -> GroundTruth:
    """Images with fixations around a few spots each."""
    random = np.random.default_rng(seed)
    cases = []
    for index in range(images):
        spots = random.uniform(0.15, 0.85, (4, 2))[random.integers(0, 4, FIXATIONS)]
        positions = np.clip(spots + random.normal(0, 0.04, (FIXATIONS, 2)), 0, 0.999) * SHAPE
        sample = Sample(str(index), Path("none"), Path("none"))
        cases.append(Case(index, sample, SHAPE, positions.astype(int), None))
    return GroundTruth(cases, sigma=16)


def smooth_map(seed: int) -> np.ndarray:
    """A map like a network's: smooth float32."""
    coarse = gaussian_filter(np.random.default_rng(seed).random((60, 80)), 4)
    return density.on_pixels(coarse, SHAPE).astype(np.float32)


def print_metrics(name: str) -> None:
    """Time each metric alone, without preparing the true map and the center bias."""
    protocol, truth, saliency = PROTOCOLS[name], scene(50), smooth_map(1)
    case, log_density = truth.cases[0], density.default_log_density(saliency)
    image, center_bias = protocol.true_map(truth, case), truth.log_center_bias(case)
    truth.log_center_bias = lambda *_: center_bias
    formulas = protocol.formulas(truth, case, saliency, log_density, case.fixations, lambda: image)
    print(f"\n| {name} | ms per image |\n| --- | --- |")
    for metric in protocol.metrics:
        print(f"| {metric} | {milliseconds(formulas[metric], 3 if name == 'mit' else 7):.1f} |")
    if protocol is TUEBINGEN:
        used = milliseconds(lambda: [formulas[metric]() for metric in protocol.metrics])
        print(f"| all | {used:.1f} |")


def print_parallel() -> None:
    truth, saliency = scene(32), smooth_map(1)

    def score(case):
        return TUEBINGEN.score(truth, case, saliency, density.default_log_density(saliency))

    def seconds(workers):
        start = time.perf_counter()
        list(parallel_map(score, truth.cases, workers, 2 * workers))
        return time.perf_counter() - start

    alone, together = seconds(1), seconds(os.cpu_count())
    print(f"\n{len(truth.cases)} images, including true maps and center biases: {alone:.1f} s in one thread, "
          f"{together:.1f} s in {os.cpu_count()} (wall time)")  # fmt: skip


def print_shuffled() -> None:
    saliency = smooth_map(1)
    print("\n| images | ms per image for sAUC |\n| --- | --- |")
    for images in (250, 500, 1000):
        truth = scene(images)
        chosen = truth.cases[:: images // 10]

        def score_all(truth=truth, chosen=chosen):
            for case in chosen:
                TUEBINGEN.score(truth, case, saliency, saliency, names=["sAUC"])

        every = milliseconds(score_all, 3)
        print(f"| {images} | {every / len(chosen):.1f} |")


if __name__ == "__main__":
    print(f"{SHAPE[1]}×{SHAPE[0]} pixels, {FIXATIONS} fixations, {os.cpu_count()} cores, NumPy {np.__version__}")
    print_metrics("tuebingen")
    print_parallel()
    print_shuffled()
    print_metrics("mit")
