"""Compare a training step of this program with the published program's, on one machine and in one run.

    python -m benchmarks.training_step [--repetitions 8] [--profile]

The published step is the same network and optimizer with what TensorFlow offered in 2020: convolutions that move space
into the batch for dilations, TensorFlow's own gradients, and oneDNN only where TensorFlow enables it by itself. Each
step runs in a process of its own; the processes take turns, and the shortest duration counts. To imitate a processor
with AVX2 only, set ONEDNN_MAX_CPU_ISA=AVX2 and, because TensorFlow would not enable oneDNN there, --published-onednn 0.
--profile measures the convolutions of the program's step one by one instead, next to a product of large matrices.
"""

import argparse
import os
import subprocess
import sys
import time

SIZE = (240, 320)


def serve(published: bool) -> None:
    """Train one step for each line of standard input, and print its wall and processor time in seconds."""
    import keras
    import tensorflow as tf

    from msinet import layers
    from msinet.config import defaults
    from msinet.model import build_model
    from msinet.phases.training import optimizer

    if published:
        layers.DilatedConv2D = keras.layers.Conv2D
    model = build_model(seed=1)
    optimizer.compile_model(model, defaults(), steps=1)
    images = tf.random.stateless_uniform((1, *SIZE, 3), (1, 2), 0, 255)
    for _ in sys.stdin:
        start, used = time.perf_counter(), time.process_time()
        model.train_on_batch(images, images[..., :1] / 255)
        print(time.perf_counter() - start, time.process_time() - used, flush=True)


def profile(repetitions: int) -> None:
    """Print the time and speed of all convolutions by direction."""
    import tensorflow as tf

    from benchmarks.speed import convolutions, shortest
    from msinet import layers

    found = convolutions("full", SIZE)
    seconds = dict.fromkeys(("forward", "gradient of the input", "gradient of the kernel"), 0.0)
    for number, (output, kernel_shape, dilation) in enumerate(found):
        x, kernel = tf.random.normal((*output, kernel_shape[2])), tf.random.normal(kernel_shape)
        layer = layers.DilatedConv2D(kernel_shape[-1], kernel_shape[0], padding="same", dilation_rate=dilation)
        upstream = tf.random.normal((*output, kernel_shape[-1]))
        layer.build(x.shape)

        def gradient(of, layer=layer, x=x, kernel=kernel, upstream=upstream):
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = layer.convolution_op(x, kernel)
            return tape.gradient(y, {"x": x, "kernel": kernel}[of], upstream)

        graphs = {
            "forward": tf.function(lambda layer=layer, x=x, kernel=kernel: layer.convolution_op(x, kernel)),
            "gradient of the input": tf.function(lambda gradient=gradient: gradient("x")),
            "gradient of the kernel": tf.function(lambda gradient=gradient: gradient("kernel")),
        }
        if not number:
            del graphs["gradient of the input"]  # The images need none.
        calls = {name: lambda graph=graph: graph().numpy() for name, graph in graphs.items()}
        for name, duration in shortest(calls, repetitions).items():
            seconds[name] += duration
    operations = sum(convolution.operations for convolution in found)
    matrix = tf.random.normal((2048, 2048))
    peak = 2 * 2048**3 / shortest({0: lambda: tf.matmul(matrix, matrix).numpy()}, repetitions)[0]
    print("| convolutions of a step | milliseconds | GFLOP/s |\n| --- | --- | --- |")
    for name, duration in seconds.items():
        print(f"| {name} | {1e3 * duration:.0f} | {operations / duration / 1e9:.0f} |")
    print(f"| product of large matrices | | {peak / 1e9:.0f} |")


def run() -> None:
    from benchmarks.machine import processor

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--published-onednn", choices=("0", "1"), help="default: as TensorFlow chooses")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--serve", choices=("program", "published"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve == "published")
    if options.profile:
        return profile(options.repetitions)
    found: dict[str, list] = {"published": [], "program": []}
    processes = {}
    for name in found:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
        if name == "published" and options.published_onednn:
            environment["TF_ENABLE_ONEDNN_OPTS"] = options.published_onednn
        command = [sys.executable, "-m", "benchmarks.training_step", "--serve", name]
        processes[name] = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    for turn in range(options.repetitions + 1):
        for name, process in processes.items():
            print(file=process.stdin, flush=True)
            times = [float(word) for word in process.stdout.readline().split()]
            if turn:  # The first step compiles.
                found[name].append(times)
    print(f"Full network, one image of {SIZE[0]}×{SIZE[1]}, float32, {processor()}\n")
    print("| training step | seconds | CPU seconds |\n| --- | --- | --- |")
    least = {name: [min(column) for column in zip(*times, strict=True)] for name, times in found.items()}
    for name, (seconds, used) in least.items():
        print(f"| {name} | {seconds:.2f} | {used:.2f} |")
    ratios = [old / new for old, new in zip(least["published"], least["program"], strict=True)]
    print(f"| ratio | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    run()
