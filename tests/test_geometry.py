"""The NumPy geometry that ships with every export equals the program's own."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from msinet import geometry, images

# Heights and widths: portrait and landscape, tiny, one pixel wide, smaller and larger than the network, and off by one
# from its own size and from halves, where rounding to even matters.
SHAPES = [
    (1, 1), (1, 2), (2, 1), (3, 3), (5, 8), (8, 5), (1, 50), (50, 1), (1, 900), (900, 1), (2, 700), (700, 3),
    (7, 1000), (1000, 7), (24, 32), (48, 64), (47, 64), (48, 63), (49, 64), (48, 65), (61, 83), (83, 61), (72, 96),
    (100, 100), (239, 320), (240, 319), (240, 320), (241, 320), (240, 321), (241, 321), (320, 240), (360, 360),
    (120, 161), (161, 120), (100, 1000), (1000, 100), (333, 444), (444, 333), (480, 640), (640, 480), (479, 641),
    (600, 512), (512, 600), (600, 800), (800, 600), (768, 1024), (1023, 769), (1080, 1920), (1200, 900), (1500, 2001),
]  # fmt: skip
SIZES = [(240, 320), (48, 64), (72, 96), (360, 360), (216, 384)]

TOLERANCE = 1e-4  # relative to the maximum


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fit_and_restore_equal_the_program(shape):
    random = np.random.default_rng(0)
    size = SIZES[sum(shape) % len(SIZES)]
    photograph = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    saliency = random.random(size, dtype=np.float32)
    fitted, restored = geometry.fit(photograph, size), geometry.restore(saliency, shape)
    expected = images.resize_and_pad(photograph, size, images.IMAGE_PADDING).numpy()
    assert fitted.dtype == restored.dtype == np.float32
    assert fitted.shape == (*size, 3) and restored.shape == shape
    np.testing.assert_allclose(fitted, expected, atol=TOLERANCE * 255, rtol=0)
    expected = images.crop_and_restore(saliency[..., None], shape).numpy()[..., 0] / 255
    np.testing.assert_allclose(restored, expected, atol=TOLERANCE, rtol=0)


def test_photographs_are_fitted_into_the_size_that_they_fill_best():
    image = np.random.default_rng(3).integers(0, 256, (90, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(geometry.fit(image), geometry.fit(image, (336, 224)))
    np.testing.assert_array_equal(geometry.fit(image, pixels=48 * 64), geometry.fit(image, (64, 48)))


def test_kernels_equal_tensorflow_1_including_borders():
    image = np.random.default_rng(1).uniform(0, 255, (9, 13, 2)).astype(np.float32)
    size = (31, 47)
    bicubic = tf.raw_ops.ResizeBicubic(images=image[None], size=size, align_corners=True, half_pixel_centers=False)[0]
    received = geometry._resize(image, size, [(0, 31), (0, 47)])
    np.testing.assert_allclose(received, bicubic, atol=1e-3)
    np.testing.assert_allclose(geometry._resize(image, size, [(5, 7), (40, 7)]), bicubic[5:12, 40:47], atol=1e-3)


def test_memory_for_narrow_photographs_does_not_grow_with_the_cropped_part():
    saliency = np.random.default_rng(2).random((240, 320), dtype=np.float32)
    for shape in ((1, 40_000), (40_000, 1)):
        tracemalloc.start()
        assert geometry.restore(saliency, shape).shape == shape
        assert geometry.fit(np.zeros((*shape, 3), np.uint8), (240, 320)).shape == (240, 320, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50e6  # Without cropping first, it would be 4.8 GB.


def test_it_needs_only_numpy(tmp_path):
    source = Path(geometry.__file__)
    (tmp_path / "geometry.py").write_bytes(source.read_bytes())
    script = (
        "import sys, geometry; print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'tensorflow', 'keras', 'PIL', 'scipy', 'images', 'utils'}))"
    )
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
