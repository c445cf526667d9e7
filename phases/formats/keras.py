"""The network as one `.keras` file, which loads without this program's code and in older versions of Keras."""

import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from ... import checkpoint
from ...layers import DilatedConv2D, LegacyUpsampling, ResizeLike
from ...network import Network
from .base import Format, keras_model, python_example

FILE = "msinet.keras"

# By class, settings that Keras 3.4 does not know. All have their default values, so they can be dropped.
NEWER_SETTINGS = {"InputLayer": ("ragged", "optional"), "ZerosLike": ("dtype",)}


def write_keras(network: Network, folder: Path, bits: int, calibration=()) -> None:
    portable_model(keras_model(network)).save(folder / FILE)
    _drop_newer_settings(folder / FILE)
    checkpoint.write_knowledge(folder / FILE, checkpoint.knowledge_of(network))


def portable_model(model: keras.Model) -> keras.Model:
    """The same network built from Keras' own layers, so it loads without this program's classes."""

    def portable(layer):
        if isinstance(layer, LegacyUpsampling):
            return _portable_upsampling(layer.name)
        if isinstance(layer, ResizeLike):
            return _portable_resizing(layer)
        kind = keras.layers.Conv2D if isinstance(layer, DilatedConv2D) else type(layer)
        # Trained weights need no initializers, and older versions of Keras do not know today's settings of them.
        config = {key: "zeros" if key.endswith("_initializer") else value for key, value in layer.get_config().items()}
        return kind.from_config(config)

    copy = keras.models.clone_model(model, clone_function=portable)
    copy.set_weights(model.get_weights())
    return copy


def _drop_newer_settings(path: Path) -> None:
    """Remove the settings from a `.keras` file that older versions of Keras reject as unexpected arguments."""

    def visit(item):
        if isinstance(item, list):
            return [visit(value) for value in item]
        if not isinstance(item, dict):
            return item
        kept = {key: visit(value) for key, value in item.items()}
        if isinstance(kept.get("config"), dict):
            dropped = NEWER_SETTINGS.get(kept.get("class_name"), ())
            if kept.get("module", "").startswith("keras.src.ops"):
                dropped = ("name", *dropped)  # Keras finds operations by the name outside of their settings.
            kept["config"] = {key: value for key, value in kept["config"].items() if key not in dropped}
        return kept

    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["config.json"] = json.dumps(visit(json.loads(contents["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def _portable_upsampling(name: str) -> keras.Layer:
    """`LegacyUpsampling`, borders included: repeat each pixel, then average it with the next.

    The average ignores pixels outside the image, so the last row and column stay unchanged.
    """
    return keras.Sequential(
        [keras.layers.UpSampling2D(2, interpolation="nearest"), keras.layers.AveragePooling2D(2, 1, "same")], name=name
    )


def _portable_resizing(layer: ResizeLike) -> keras.Model:
    """`ResizeLike` as products with matrices of weights, because Keras' own resizing has a fixed size."""
    x, like = (keras.Input(tensor.shape[1:]) for tensor in layer.input)
    ops, resized = keras.ops, x
    for axis, product in ((1, "bij,bjkc->bikc"), (2, "bij,bkjc->bkic")):
        # Positions of the old and of the new rows (or columns), (B, number). Sizes are known only when it runs.
        old, new = (
            ops.cumsum(ops.max(ops.ones_like(tensor), axis=(3 - axis, 3)), axis=1) - 0.5 for tensor in (x, like)
        )
        last = ops.max(old, axis=1, keepdims=True)
        at = new * (last + 0.5) / (ops.max(new, axis=1, keepdims=True) + 0.5)
        at = ops.minimum(ops.maximum(at, 0.5), last)
        weights = ops.relu(1.0 - ops.absolute(ops.expand_dims(at, 2) - ops.expand_dims(old, 1)))
        resized = ops.einsum(product, weights, resized)
    return keras.Model([x, like], resized, name=layer.name)


def predict_keras(folder: Path, images: np.ndarray) -> np.ndarray:
    return keras.models.load_model(folder / FILE).predict_on_batch(images)


FORMAT = Format(
    runtime="Keras",
    file=FILE,
    write=write_keras,
    predict=predict_keras,
    example=python_example(
        "import keras", 'network = keras.models.load_model("msinet.keras")\nmaps = network.predict_on_batch(images)'
    ),
    needs="numpy, pillow and tensorflow",
    notes="Keras 3.4 or later opens it, with TensorFlow as its backend (tried: Keras 3.4.0 with TensorFlow 2.17).",
)
