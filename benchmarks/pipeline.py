"""Speed of the input pipeline alone: reading, decoding, augmenting and resizing, without a network.

    python -m benchmarks.pipeline [--images 300] [--epochs 3] [--teraflops 40]

Photographs are synthetic: smooth JPEGs of quality 90 with a little noise and JPEG maps, of the sizes of SALICON
(640×480) and MIT1003 (1024×768). A row gives the images per second of the whole process and the CPU time per image,
which matters if other programs run too. The second table gives the images per second that a GPU would train on at
--teraflops; a training step takes three times the operations of a prediction.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

from msinet.utils import quiet_stderr  # noqa: E402

with quiet_stderr():
    import numpy as np
    import tensorflow as tf

from benchmarks.speed import operations  # noqa: E402
from msinet import data  # noqa: E402
from msinet.config import RECIPES, VARIANTS, defaults  # noqa: E402
from msinet.phases.training.batches import Batch, load_batches, training_plan  # noqa: E402

# Height and width of the photographs, and of the network's input for them.
KINDS = {"SALICON": ((480, 640), (240, 320)), "MIT1003": ((768, 1024), (360, 360))}


def make_dataset(folder: Path, shape: tuple[int, int], count: int) -> data.Group:
    """Photographs with maps in `folder`."""
    for i in range(count):
        random = np.random.default_rng(i)
        coarse = random.uniform(0, 255, (1, 12, 16, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, shape, "bicubic")[0].numpy()
        pixels = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        for part, picture in (("stimuli", pixels), ("saliency", np.clip(smooth, 0, 255).astype(np.uint8)[..., :1])):
            (folder / part).mkdir(exist_ok=True, parents=True)
            (folder / part / f"{i}.jpg").write_bytes(tf.io.encode_jpeg(picture, quality=90).numpy())
    return data.Group(data.pair_files(folder), (0, 0))


def measure(plan: list[Batch], augmentation: dict) -> tuple[float, float]:
    """Images per second and CPU milliseconds per image, without the first quarter of the plan."""
    spent = []
    for part in (plan[: len(plan) // 4], plan):
        start, used = time.perf_counter(), time.process_time()
        images = sum(batch.shape[0] for batch, _ in load_batches(part, augmentation))
        spent.append((images, time.perf_counter() - start, time.process_time() - used))
    images, seconds, used = (whole - quarter for quarter, whole in zip(*spent, strict=True))
    return images / seconds, 1e3 * used / images


def print_demand(teraflops: float) -> None:
    print(f"\n| network | size | images per second that {teraflops:g} TFLOP/s train on |\n| --- | --- | --- |")
    for variant in VARIANTS:
        for size in sorted({size for _, size in KINDS.values()}):
            demand = teraflops * 1e12 / (3 * operations(variant, size))
            print(f"| {variant} | {size[0]}×{size[1]} | {demand:.0f} |")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300, help="photographs of each kind (default: 300)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them (default: 3)")
    parser.add_argument("--teraflops", type=float, default=40, help="sustained speed of a GPU (default: 40)")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} processor cores, TensorFlow {tf.__version__}\n")
    print("| photographs | recipe | images per second | CPU ms per image |\n| --- | --- | --- | --- |")
    for kind, (shape, size) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            made = make_dataset(Path(folder) / "data", shape, options.images)
            group = data.Group(made.samples, size)
            for recipe, changes in RECIPES.items():
                params = defaults() | changes
                augmentation = {key: params[key] for key in ("mirror", "color", "crop") if params[key]}
                plan = [
                    batch
                    for epoch in range(options.epochs)
                    for batch in training_plan([group], 8, 1, epoch, params["scales"])
                ]
                speed, spent = measure(plan, augmentation)
                print(f"| {kind}, {shape[1]}×{shape[0]} | {recipe} | {speed:.0f} | {spent:.1f} |", flush=True)
    print_demand(options.teraflops)


if __name__ == "__main__":
    run()
