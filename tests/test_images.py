"""Pixels: decoding, the way into the network and back, augmentation and batches."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import data
import images
from data import Batch

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


@pytest.mark.parametrize("shape", [(37, 200), (200, 37), (1, 50), (333, 444), (8, 8), (1, 1), (1, 900), (900, 1)])
def test_inverse_geometry_gives_back_the_shape_of_any_image(shape):
    padded = images.resize_and_pad(np.zeros((*shape, 3), np.uint8), (48, 64), images.IMAGE_PADDING)
    assert padded.shape == (48, 64, 3)
    assert images.crop_and_restore(padded[..., :1] / 255, shape).shape == (*shape, 1)


# --- Decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "format"),
    [(mode, "PNG") for mode in ("RGB", "L", "P", "RGBA", "LA", "1", "I;16")]
    + [("RGB", "BMP"), ("RGB", "GIF"), ("RGB", "WEBP"), ("L", "JPEG"), ("CMYK", "JPEG")],
)
def test_every_kind_of_image_becomes_rgb(mode, format):
    gray = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    image = Image.fromarray(gray.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, format)
    decoded = images.decode_image(tf.constant(buffer.getvalue()), 3).numpy()
    assert decoded.shape == (48, 64, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.mean(axis=(0, 1)) - gray.mean()).max() < 8


def test_first_frame_of_an_animation_counts():
    frames = [Image.new("L", (8, 8), value) for value in (200, 10)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert images.decode_image(tf.constant(buffer.getvalue()), 3).numpy().min() == 200


def test_exif_orientation_is_left_alone(photograph):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    Image.fromarray(photograph(48, 64)).save(buffer, "JPEG", exif=exif)
    assert images.decode_image(tf.constant(buffer.getvalue()), 3).shape == (48, 64, 3)


def test_loaded_batches_are_resized_padded_and_paired(tiny_dataset):
    samples = data.pair_files(tiny_dataset(count=3, height=60, width=40))
    batches = list(images.load_batches([Batch(samples[:2], (48, 64)), Batch(samples[2:], (24, 32))]))
    assert [tuple(stimuli.shape) for stimuli, _ in batches] == [(2, 48, 64, 3), (1, 24, 32, 3)]
    assert [tuple(maps.shape) for _, maps in batches] == [(2, 48, 64, 1), (1, 24, 32, 1)]
    stimuli, maps = batches[0]
    assert np.all(stimuli[:, :, 0] == images.IMAGE_PADDING) and np.all(maps[:, :, 0] == images.MAP_PADDING)
    # The test's maps are the red channels of its photographs.
    np.testing.assert_allclose(stimuli[:, :, 20:44, :1], maps[:, :, 20:44], atol=1e-3)


def test_augmentation_moves_image_and_map_alike_and_repeats_with_its_seed(photograph):
    image = photograph(48, 64)
    truth = image[..., :1]
    shapes, mirrored = set(), 0
    for i in range(20):
        varied, moved = images.augment(image, truth, (0, i), mirror=True, crop=0.3)
        again, _ = images.augment(image, truth, (0, i), mirror=True, crop=0.3)
        np.testing.assert_array_equal(varied, again)
        np.testing.assert_array_equal(varied[..., :1], tf.cast(moved, tf.float32))
        shapes.add(tuple(moved.shape))
        mirrored += bool(np.all(images.augment(image, truth, (0, i), mirror=True)[1] == truth[:, ::-1]))
    assert len(shapes) > 5 and all(33 <= height <= 48 for height, _, _ in shapes)
    assert 4 <= mirrored <= 16


def test_resizing_while_augmenting_draws_the_same_and_comes_before_the_colours(photograph, monkeypatch):
    image, size, seen = photograph(96, 128), (48, 64), []
    options = {"mirror": True, "crop": 0.3}
    recolor = images._recolor
    monkeypatch.setattr(images, "_recolor", lambda x, *rest: seen.append(tuple(x.shape)) or recolor(x, *rest))
    for i in range(4):
        varied, truth = images.augment(image, image[..., :1], (0, i), **options)
        smaller, smaller_truth = images.augment(image, image[..., :1], (0, i), size=size, **options)
        np.testing.assert_allclose(smaller, images.resize_to_fit(varied, size), atol=1e-3)
        np.testing.assert_allclose(smaller_truth, images.resize_to_fit(truth, size), atol=1e-3)
        flat = np.full_like(image, (90, 120, 60))  # Its colours are the same before and after resizing.
        before = images.augment(flat, image[..., :1], (0, i), color=0.5, **options)[0]
        after = images.augment(flat, image[..., :1], (0, i), color=0.5, size=size, **options)[0]
        np.testing.assert_allclose(after[0, 0], before[0, 0], atol=1e-3)
        assert seen.pop() == (*after.shape[:2], 3) != seen.pop()


def test_smallest_image_is_not_cropped_away():
    pixel = np.full((1, 1, 3), 9, np.uint8)
    assert images.augment(pixel, pixel[..., :1], (0, 1), crop=0.9)[0].shape == (1, 1, 3)


def test_color_augmentation_leaves_the_map_and_stays_in_range(photograph):
    image = photograph()
    varied, truth = images.augment(image, image[..., :1], (0, 1), color=0.5)
    np.testing.assert_array_equal(truth, image[..., :1])
    assert np.min(varied) >= 0 and np.max(varied) <= 255
    assert np.abs(varied - image.astype(np.float32)).mean() > 1
