"""The network for LiteRT (formerly TensorFlow Lite), for phones and small computers."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from ...network import Network
from ...utils import quiet_stderr
from .base import Format, named_graph, python_example

FILE = "msinet.tflite"


def write_litert(network: Network, folder: Path, bits: int, calibration: Sequence[np.ndarray]) -> None:
    module = tf.Module()
    module.predict = named_graph(network)
    with tempfile.TemporaryDirectory() as temporary:
        tf.saved_model.save(module, temporary, signatures=module.predict.get_concrete_function())
        converter = tf.lite.TFLiteConverter.from_saved_model(temporary)
        if bits < 32:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if bits == 16:
            converter.target_spec.supported_types = [tf.float16]
        if bits == 8:
            converter.representative_dataset = lambda: ([images] for images in calibration)
        with quiet_stderr():
            contents = converter.convert()
    (folder / FILE).write_bytes(contents)


def predict_litert(folder: Path, images: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    with quiet_stderr():
        runner = Interpreter(str(folder / FILE)).get_signature_runner()
        return runner(input=images)["output"]


FORMAT = Format(
    runtime="LiteRT",
    file=FILE,
    write=write_litert,
    predict=predict_litert,
    example=python_example(
        "from ai_edge_litert.interpreter import Interpreter",
        'network = Interpreter("msinet.tflite").get_signature_runner()\nmaps = network(input=images)["output"]',
    ),
    needs="numpy, pillow and ai-edge-litert",
    notes="32 and 16 bits run in LiteRT 1.0.1 or later and in its predecessor tflite-runtime 2.14; 8 bits need LiteRT "
    "1.4. In other languages than Python, resize the input to the size of your image before allocating tensors, and "
    "again when the size changes.",
    packages=("ai_edge_litert",),
)
