"""Batches: which images are in each, how they are loaded, and how augmentation varies them."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from msinet import data, images
from msinet.data import Group, Sample
from msinet.phases.training import batches
from msinet.phases.training.batches import Batch


def samples_named(names) -> list[Sample]:
    return [Sample(name, Path(name), Path(name)) for name in sorted(names)]


def test_plan_has_every_sample_once_in_an_order_that_changes_with_the_epoch():
    groups = [Group(samples_named(f"{i:02d}" for i in range(7)), (48, 64))]

    def order(seed, epoch):
        return [s.name for batch in batches.training_plan(groups, 2, seed, epoch) for s in batch.samples]

    assert sorted(order(1, 0)) == [s.name for s in groups[0].samples]
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_batches_of_several_datasets_have_one_size_each():
    groups = [Group(samples_named("abcde"), (48, 64)), Group(samples_named("vwxyz"), (72, 72))]
    plan = batches.training_plan(groups, 2, seed=0, epoch=0, scales=(0.5, 1.0))
    assert len(plan) == 6
    for batch in plan:
        names = {s.name for s in batch.samples}
        assert names <= set("abcde") or names <= set("vwxyz")
        assert batch.size in ({(24, 32), (48, 64)} if names <= set("abcde") else {(40, 40), (32, 32), (72, 72)})


def test_groups_by_shape_have_every_sample_at_the_size_that_fits_its_photograph(tiny_dataset):
    landscape = data.pair_files(tiny_dataset("landscape", count=3, height=48, width=64))
    portrait = data.pair_files(tiny_dataset("portrait", count=2, height=64, width=48))
    whole = Group([*landscape, portrait[0]], (48, 64)), Group(portrait[1:], (48, 64))
    groups = batches.group_by_shape(whole, 240 * 320)
    assert [(len(train.samples), train.size) for train, _ in groups] == [(3, (240, 320)), (1, (320, 240))]
    assert [(len(valid.samples), valid.size) for _, valid in groups] == [(0, (240, 320)), (1, (320, 240))]


def test_loaded_batches_are_resized_padded_and_paired(tiny_dataset):
    samples = data.pair_files(tiny_dataset(count=3, height=60, width=40))
    loaded = list(batches.load_batches([Batch(samples[:2], (48, 64)), Batch(samples[2:], (24, 32))]))
    assert [tuple(stimuli.shape) for stimuli, _ in loaded] == [(2, 48, 64, 3), (1, 24, 32, 3)]
    assert [tuple(maps.shape) for _, maps in loaded] == [(2, 48, 64, 1), (1, 24, 32, 1)]
    stimuli, maps = loaded[0]
    assert np.all(stimuli[:, :, 0] == images.IMAGE_PADDING) and np.all(maps[:, :, 0] == images.MAP_PADDING)
    # The maps of this dataset are the red channels of its photographs.
    np.testing.assert_allclose(stimuli[:, :, 20:44, :1], maps[:, :, 20:44], atol=1e-3)


def test_augmentation_moves_image_and_map_alike_and_repeats_with_its_seed(photograph):
    image = photograph(48, 64)
    truth = image[..., :1]
    shapes, mirrored = set(), 0
    for i in range(20):
        varied, moved = batches.augment(image, truth, (0, i), mirror=True, crop=0.3)
        again, _ = batches.augment(image, truth, (0, i), mirror=True, crop=0.3)
        np.testing.assert_array_equal(varied, again)
        np.testing.assert_array_equal(varied[..., :1], tf.cast(moved, tf.float32))
        shapes.add(tuple(moved.shape))
        mirrored += bool(np.all(batches.augment(image, truth, (0, i), mirror=True)[1] == truth[:, ::-1]))
    assert len(shapes) > 5 and all(33 <= height <= 48 for height, _, _ in shapes)
    assert 4 <= mirrored <= 16


def test_resizing_while_augmenting_draws_the_same_crop_mirror_and_colors(photograph):
    image, size = photograph(96, 128), (48, 64)
    options = {"mirror": True, "crop": 0.3}
    flat = np.full_like(image, (90, 120, 60))  # Its colors are the same before and after resizing.
    for i in range(4):
        varied, truth = batches.augment(image, image[..., :1], (0, i), **options)
        smaller, smaller_truth = batches.augment(image, image[..., :1], (0, i), size=size, **options)
        np.testing.assert_allclose(smaller, images.resize_to_fit(varied, size), atol=1e-3)
        np.testing.assert_allclose(smaller_truth, images.resize_to_fit(truth, size), atol=1e-3)
        before, _ = batches.augment(flat, image[..., :1], (0, i), color=0.5, **options)
        after, _ = batches.augment(flat, image[..., :1], (0, i), color=0.5, size=size, **options)
        np.testing.assert_allclose(after[0, 0], before[0, 0], atol=1e-3)


def test_smallest_image_is_not_cropped_away():
    pixel = np.full((1, 1, 3), 9, np.uint8)
    assert batches.augment(pixel, pixel[..., :1], (0, 1), crop=0.9)[0].shape == (1, 1, 3)


def test_color_augmentation_leaves_the_map_and_stays_in_range(photograph):
    image = photograph()
    varied, truth = batches.augment(image, image[..., :1], (0, 1), color=0.5)
    np.testing.assert_array_equal(truth, image[..., :1])
    assert np.min(varied) >= 0 and np.max(varied) <= 255
    assert np.abs(varied - image.astype(np.float32)).mean() > 1
