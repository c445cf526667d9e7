"""Speed and memory of the network, of `test`, and of a training step, in one run on one machine.

    python benchmarks/speed.py [--variant full|lite] [--images 100]

Every number is the median of several repetitions. Ratios within one run mean more than the milliseconds, which depend
on the machine and on what else it does.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from utils import quiet_stderr  # noqa: E402

with quiet_stderr():
    import numpy as np
    import tensorflow as tf

import checkpoint  # noqa: E402
import main  # noqa: E402
import msinet  # noqa: E402
from config import PARAMS, VARIANTS  # noqa: E402
from model import build_model  # noqa: E402
from phases import test, train  # noqa: E402
from photographs import find_images  # noqa: E402

SIZES = ((48, 64), (72, 96), (120, 160), (168, 224), (240, 320))


def seconds(function, repetitions: int) -> float:
    """Median duration of a call, after one that is not counted."""
    function()
    durations = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def operations(model, size) -> float:
    """Floating-point operations of all convolutions for one image: two for each weight at each output pixel."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            resolution = {"conv1": 1, "conv2": 2, "conv3": 4}.get(layer.name[:5], 8)
            resolution = {"decoder_conv1": 4, "decoder_conv2": 2}.get(layer.name, resolution)
            resolution = 1 if layer.name in ("decoder_conv3", "decoder_conv4") else resolution
            pixels = 1 if layer.name == "aspp_conv1_5" else size[0] * size[1] / resolution**2
            total += 2 * pixels * float(np.prod(layer.kernel.shape))
    return total


def print_network_speed(model, network) -> None:
    print("| network input | ms an image | GFLOP/s | compiled / eager |\n| --- | --- | --- | --- |")
    for size in SIZES:
        images = tf.random.uniform((1, *size, 3), 0, 255, seed=1)
        compiled = seconds(lambda images=images: network(images), 10)
        eager = seconds(lambda images=images: model(images), 5)
        speed = operations(model, size) / compiled / 1e9
        print(f"| {size[0]}×{size[1]} | {1e3 * compiled:.1f} | {speed:.0f} | {eager / compiled:.2f} times as fast |")


def print_test_speed(network, count: int) -> None:
    """The whole phase on a folder of copies of the sample photograph, beside the network alone."""
    size = (240, 320)
    images = tf.random.uniform((1, *size, 3), 0, 255, seed=1)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as results:
        photograph = main.sample_photograph().read_bytes()
        for i in range(count):
            (Path(folder) / f"{i:04d}.jpg").write_bytes(photograph)

        def whole_phase():
            root = Path(folder)
            test.test(
                network,
                find_images(root),
                root,
                Path(results),
                batch_size=1,
                suffix=".jpeg",
                overlay=False,
            )

        alone = seconds(lambda: [network(images) for _ in range(count)], 3) / count
        phase = seconds(whole_phase, 3) / count
    print(f"\n`test` on {count} photographs at 240×320: {1 / phase:.2f} images a second, the network alone "
          f"{1 / alone:.2f}: {phase / alone:.2f} times its duration")  # fmt: skip


def print_training_speed(variant: str) -> None:
    model = build_model(**VARIANTS[variant], seed=1)
    train.compile_model(model, PARAMS, steps=1)
    for size in ((120, 160), (240, 320)):
        images = tf.random.uniform((1, *size, 3), 0, 255, seed=1)
        step = seconds(lambda images=images: model.train_on_batch(images, images[..., :1]), 5)
        print(f"Training step, one image at {size[0]}×{size[1]}: {step:.3f} s")


def print_startup(weights: Path) -> None:
    def command(*arguments):
        return seconds(
            lambda: subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True), 3
        )

    with tempfile.TemporaryDirectory() as results:
        whole = command("main.py", "test", "--weights", str(weights), "--results", results)
        imported = command("-c", "import tensorflow")
        helped = command("main.py", "--help")
    print(
        f"`test` on one photograph: {whole:.1f} s; `import tensorflow` alone: {imported:.1f} s; --help: {helped:.2f} s"
    )


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, default="full")
    parser.add_argument("--images", type=int, default=100, help="photographs for the whole phase (default: 100)")
    options = parser.parse_args()
    print(f"{options.variant} network, {os.cpu_count()} processor cores, TensorFlow {tf.__version__}\n")

    model = build_model(width=VARIANTS[options.variant]["width"], seed=1)
    arrays = checkpoint.arrays_of(model)
    network = msinet.from_arrays(arrays, (240, 320))
    print_network_speed(model, network)
    print_test_speed(network, options.images)
    print_training_speed(options.variant)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        np.savez(weights, **arrays)
        print_startup(weights)
    print(f"Peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


if __name__ == "__main__":
    run()
