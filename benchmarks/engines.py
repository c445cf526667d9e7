"""The same network and image in TensorFlow, ONNX Runtime, OpenVINO and LiteRT: speed, and difference of the maps.

    pip install -r requirements-engines.txt
    python -m benchmarks.engines [--variant full] [--batches 1 4] [--at-once 1] [--threads 1] [--repetitions 10]

Every engine uses all cores, or the given number of threads, and is compiled for the input size where possible.
`--at-once 2` runs two independent batches at a time, as `test` does with single photographs; LiteRT does not support
that and is skipped. Calls alternate between the engines, and the shortest duration counts, so the ratios mean more than
the milliseconds. Differences are relative to TensorFlow in float32, in gray levels (0 to 255).
"""

import argparse
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]

from msinet.utils import cores, count, quiet_stderr  # noqa: E402

with quiet_stderr():
    import numpy as np
    import onnxruntime
    import openvino
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

import msinet  # noqa: E402
from benchmarks.machine import processor  # noqa: E402
from benchmarks.speed import SIZE, network_of, shortest  # noqa: E402
from msinet import images  # noqa: E402
from msinet.config import VARIANTS  # noqa: E402
from msinet.image_files import read_header  # noqa: E402
from msinet.phases.formats import FORMATS  # noqa: E402
from msinet.photographs import sample_photograph  # noqa: E402
from msinet.precision import processor_has_bfloat16  # noqa: E402

Engine = Callable[[np.ndarray], np.ndarray]


def tensorflow(network: msinet.Network, precision: str) -> Engine:
    chosen = replace(network, precision=precision)
    return lambda batch: chosen(batch).numpy()


def side_by_side(engine: Engine, at_once: int) -> Engine:
    """The engine, called by several threads at a time with the same images."""
    if at_once == 1:
        return engine
    pool = ThreadPoolExecutor(at_once)

    def predict(images):
        first, *_ = pool.map(engine, [images] * at_once)
        return first

    return predict


def onnx_runtime(folder: Path, batch: int, threads: int) -> Engine:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for axis, length in (("batch", batch), ("height", SIZE[0]), ("width", SIZE[1])):
        options.add_free_dimension_override_by_name(axis, length)
    file = folder / FORMATS["onnx"][0].file
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["output"], {"input": images})[0]


def open_vino(folder: Path, batch: int, threads: int, at_once: int, precision: str) -> Engine:
    core = openvino.Core()
    model = core.read_model(folder / FORMATS["onnx"][0].file)
    model.reshape([batch, *SIZE, 3])
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY" if at_once == 1 else "THROUGHPUT",
        "NUM_STREAMS": at_once,
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(model, "CPU", settings)
    thread = threading.local()

    def predict(images):
        if not hasattr(thread, "request"):
            thread.request = compiled.create_infer_request()
        return thread.request.infer([images])[0]

    return predict


def litert(folder: Path, batch: int, threads: int) -> Engine:
    interpreter = Interpreter(str(folder / FORMATS["tflite"][0].file), num_threads=threads)
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(source, [batch, *SIZE, 3])
    interpreter.allocate_tensors()

    def predict(images):
        interpreter.set_tensor(source, images)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return predict


def load(
    network: msinet.Network, folder: Path, batch: int, options: argparse.Namespace
) -> dict[tuple[str, str], Engine]:
    """All engines by name and precision."""
    threads, at_once = options.threads, options.at_once
    open_vino_name = f"OpenVINO {openvino.__version__.partition('-')[0]}"
    engines = {
        ("TensorFlow (ours)", "float32"): tensorflow(network, "float32"),
        (f"ONNX Runtime {onnxruntime.__version__}", "float32"): onnx_runtime(folder, batch, threads),
        (open_vino_name, "float32"): open_vino(folder, batch, threads, at_once, "float32"),
    }
    if at_once == 1:
        engines["LiteRT", "float32"] = litert(folder, batch, threads)
    if processor_has_bfloat16() is not False:
        engines |= {
            ("TensorFlow (ours)", "bfloat16"): tensorflow(network, "bfloat16"),
            (open_vino_name, "bfloat16"): open_vino(folder, batch, threads, at_once, "bfloat16"),
        }
    return {name: side_by_side(engine, at_once) for name, engine in engines.items()}


def print_batch(
    network: msinet.Network, folder: Path, image: np.ndarray, batch: int, options: argparse.Namespace
) -> None:
    # The images of a batch must differ.
    photographs = np.stack([np.roll(image, 16 * i, axis=1) for i in range(batch)])
    with quiet_stderr():
        engines = load(network, folder, batch, options)
        durations = shortest(
            {name: lambda e=e: e(photographs) for name, e in engines.items()}, options.repetitions, settle=True
        )
    truth = engines["TensorFlow (ours)", "float32"](photographs)
    for (name, precision), predict in engines.items():
        off = 255 * np.abs(predict(photographs) - truth)
        spent = durations[name, precision]
        print(
            f"| {batch} | {precision} | {name} | {1e3 * spent / batch / options.at_once:.1f} | "
            f"{durations['TensorFlow (ours)', precision] / spent:.2f} | {off.max():.2g} | {off.mean():.2g} |",
            flush=True,
        )


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, default="full")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="images at a time (default: 1 4)")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=1, help="parallel batches (default: 1)")
    parser.add_argument("--threads", type=int, default=cores(), help="of each engine (default: one per core)")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    network = network_of(options.variant)
    path = sample_photograph()
    image = images.resize_and_pad(images.read_image(path, read_header(path)), SIZE, images.IMAGE_PADDING).numpy()
    print(f"{options.variant} network at {SIZE[0]}×{SIZE[1]}, {processor()}, {count(options.threads, 'thread')}")
    print(f"TensorFlow {tf.__version__}, batches at a time: {options.at_once}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with quiet_stderr():
            for name in ("onnx", "tflite"):
                FORMATS[name][0].write(network, folder, 32, ())
        print("| images | precision | engine | ms per image | ours / this | greatest difference | mean difference |")
        print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for batch in options.batches:
            print_batch(network, folder, image, batch, options)


if __name__ == "__main__":
    run()
