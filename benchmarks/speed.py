"""Speed of the network and of a training step, in float32 and bfloat16, on one machine. `folder.py` measures `test`.

    python -m benchmarks.speed [--variant full|narrow|medium|lite] [--repetitions 5]

Measurements alternate, and the shortest duration counts. So the ratios mean more than the milliseconds, which depend on
the machine and its load.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from msinet.utils import onednn_enabled, quiet_stderr

with quiet_stderr():
    import keras
    import numpy as np
    import tensorflow as tf

import msinet
from benchmarks.machine import processor
from msinet import checkpoint
from msinet.bundled import BUNDLED
from msinet.config import VARIANTS, defaults
from msinet.layers import scaled_filters
from msinet.model import build_model, msi_net
from msinet.phases.training import optimizer
from msinet.precision import processor_has_bfloat16

SIZES = ((48, 64), (72, 96), (120, 160), (168, 224), (240, 320))
SIZE = SIZES[-1]


def seeded_arrays(model) -> dict[str, np.ndarray]:
    """Random weights with a network's names and shapes; biases too, because TensorFlow skips zero biases."""
    arrays = {}
    for seed, (name, array) in enumerate(checkpoint.arrays_of(model).items(), 1000):
        scale = 0.05 if array.ndim == 1 else np.sqrt(2 / np.prod(array.shape[:3]))
        arrays[name] = (scale * np.random.default_rng(seed).standard_normal(array.shape)).astype(np.float32)
    return arrays


def seconds(function: Callable, repetitions: int) -> float:
    """Median duration of a call, after a warm-up call."""
    function()
    durations = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def shortest(functions: Mapping[Any, Callable], repetitions: int, settle: bool = False) -> dict[Any, float]:
    """Shortest duration of each function; calls alternate, so the machine's other load affects all of them.

    Args:
        functions: by any name.
        repetitions: number of measured calls of each.
        settle: call each once more before it is measured. The threads of some libraries wait busily for more work,
            which would slow down the next library.
    """
    durations: dict[Any, list[float]] = {name: [] for name in functions}
    for turn in range(repetitions + 1):
        for name, function in functions.items():
            if settle:
                function()
            start = time.perf_counter()
            function()
            if turn:  # The first call compiles.
                durations[name].append(time.perf_counter() - start)
    return {name: min(found) for name, found in durations.items()}


def ratio(durations: Mapping[str, float]) -> str:
    """How many times as fast as float32 bfloat16 is, if it was measured."""
    return f"{durations['float32'] / durations['bfloat16']:.2f}" if "bfloat16" in durations else "not measured"


class Recorded(NamedTuple):
    """A convolution of a network."""

    output: tuple[int, int, int]  # images (the medium network also sees the mirror image), height and width
    kernel: tuple[int, ...]  # its shape
    dilation: int

    @property
    def operations(self) -> float:
        """Floating-point operations for one image: two per weight and output pixel."""
        return 2.0 * math.prod(self.output) * math.prod(self.kernel)


def network_of(variant: str) -> msinet.Network:
    """A network of a variant at `SIZE`, with random weights if it is not bundled."""
    if variant in BUNDLED:
        return msinet.load(variant, input_size=SIZE)
    model = build_model(**{**VARIANTS[variant], "batch_norm": False}, seed=1)
    return msinet.network.from_arrays(seeded_arrays(model), SIZE)


def convolutions(variant: str, size: tuple[int, int]) -> list[Recorded]:
    """All convolutions of a network, for one image of a size."""
    found, row = [], VARIANTS[variant]

    def conv(x, name, filters, size=3, dilation=1, relu=True, stride=1, depthwise=False):
        kernel = (size, size, x.shape[-1], 1 if depthwise else scaled_filters(filters, row["width"]))
        output = (x.shape[0], *(-(-side // stride) for side in x.shape[1:3]))
        found.append(Recorded(output, kernel, dilation))
        return keras.KerasTensor((*output, x.shape[-1] if depthwise else kernel[-1]))

    msi_net(keras.KerasTensor((1, *size, 3)), conv, context=row.get("context", "aspp"))
    return found


def operations(variant: str, size: tuple[int, int]) -> float:
    """Floating-point operations of all convolutions for one image."""
    return sum(convolution.operations for convolution in convolutions(variant, size))


def print_network_speed(variant: str, model, networks: Mapping[str, msinet.Network], repetitions: int) -> None:
    print("| network input | eager, ms | float32, ms | GFLOP/s | bfloat16, ms | float32 / bfloat16 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in SIZES:
        batch = tf.random.uniform((1, *size, 3), 0, 255, seed=1)
        found = shortest({name: lambda n=n: n(batch).numpy() for name, n in networks.items()}, repetitions)  # noqa: B023
        eager = seconds(lambda: model(batch), 3)  # noqa: B023
        speed = operations(variant, size) / found["float32"] / 1e9
        low = f"{1e3 * found['bfloat16']:.1f}" if "bfloat16" in found else "–"
        print(
            f"| {size[0]}×{size[1]} | {1e3 * eager:.1f} | {1e3 * found['float32']:.1f} | {speed:.0f} | {low} | "
            f"{ratio(found)} |",
            flush=True,
        )


def print_training_speed(variant: str, precisions: Sequence[str], repetitions: int) -> None:
    batch = tf.random.uniform((1, *SIZE, 3), 0, 255, seed=1)
    steps = {}
    for precision in precisions:
        model = build_model(**VARIANTS[variant], seed=1, precision=precision)
        optimizer.compile_model(model, {**defaults(), "precision": precision}, steps=1)
        steps[precision] = lambda model=model: model.train_on_batch(batch, batch[..., :1])
    found = shortest(steps, repetitions)
    print(f"\nTraining step, one image at {SIZE[0]}×{SIZE[1]}:")
    for name in precisions:
        print(f"{name}: {found[name]:.3f} s")
    print(f"float32 / bfloat16: {ratio(found)}", flush=True)


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, default="full")
    parser.add_argument("--repetitions", type=int, default=5, help="of short measurements (default: 5)")
    options = parser.parse_args()
    print(f"{options.variant} network, {processor()}, TensorFlow {tf.__version__}, oneDNN: {onednn_enabled()}")
    precisions = ("float32", "bfloat16")
    if processor_has_bfloat16() is False:
        print("This processor has no bfloat16 instructions, so bfloat16 is not measured.")
        precisions = ("float32",)
    print()

    model = build_model(**{**VARIANTS[options.variant], "batch_norm": False}, seed=1)
    network = network_of(options.variant)
    networks = {name: replace(network, precision=name) for name in precisions}
    print_network_speed(options.variant, model, networks, options.repetitions)
    print_training_speed(options.variant, precisions, options.repetitions)


if __name__ == "__main__":
    run()
