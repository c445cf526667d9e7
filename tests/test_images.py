"""Pixels: decoding, fitting into the network's input, and the inverse."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from msinet import images

# --- Geometry ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["eager", "tf.data"])
def apply(request):
    """Run a function of tensors eagerly, or inside a `tf.data` pipeline, whose shapes are unknown."""

    def run(function, array):
        if request.param == "eager":
            return function(tf.constant(array)).numpy()
        spec = tf.TensorSpec((None, None, None), array.dtype)
        dataset = tf.data.Dataset.from_generator(lambda: [array], output_signature=spec).map(function)
        return next(iter(dataset)).numpy()

    return run


@pytest.mark.parametrize("case", [f"pre{i}" for i in range(8)])
def test_resize_and_pad_equals_the_published_preprocessing(fixture, apply, case):
    numbers = fixture("preprocessing.npz")
    image = numbers[f"{case}_image"]
    size = tuple(int(side) for side in numbers[f"{case}_target"])
    padding = images.IMAGE_PADDING if image.shape[-1] == 3 else images.MAP_PADDING
    padded = apply(lambda x: images.resize_and_pad(x, size, padding), image)
    expected = numbers[f"{case}_padded"]
    assert np.abs(padded - expected).max() <= 1e-3
    assert np.mean(np.round(padded) == np.round(expected)) >= 0.999


@pytest.mark.parametrize("case", [f"post{i}" for i in range(5)])
def test_crop_and_restore_equals_the_published_postprocessing(fixture, apply, case):
    numbers = fixture("preprocessing.npz")
    size = tuple(int(side) for side in numbers[f"{case}_target"])
    restored = apply(lambda x: images.crop_and_restore(x, size), numbers[f"{case}_map"])
    assert restored.shape == (*size, 1)
    assert np.mean(np.round(restored) == numbers[f"{case}_uint8"]) >= 0.999


# --- Decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "format"),
    [(mode, "PNG") for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")] + [("L", "JPEG"), ("CMYK", "JPEG")],
)
def test_every_kind_of_image_becomes_rgb(mode, format):
    gray = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format)
    decoded = images.decode_image(tf.constant(buffer.getvalue()), 3).numpy()
    assert decoded.shape == (48, 64, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.mean(axis=(0, 1)) - gray.mean()).max() < 8
