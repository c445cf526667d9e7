"""Training on several devices, tested with two logical devices of one processor in a separate process."""

import functools
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import run_as_program

from msinet import data
from msinet.config import defaults
from msinet.phases.training import batches, fit
from msinet.utils import UserError


def test_losses_are_the_same_on_one_and_two_devices_and_a_run_can_switch_between_them(tiny_dataset, tmp_path):
    folder = tiny_dataset(count=10)
    found = run_as_program(__file__, folder, tmp_path)
    assert found["devices"] == [1, 2, 1] and found["shares"] == [2, 2]
    assert len(found["one"]) == len(found["two, then one"]) == 2  # Epochs of two steps, one of them on two devices.
    np.testing.assert_allclose(found["two, then one"], found["one"], rtol=0, atol=1e-4)


def main(folder: Path, results: Path) -> dict:
    """Losses of an uninterrupted run on one device, and of a run that switches from two devices to one."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # It takes longer than it saves.
    compile_ = keras.Model.compile
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    fit.VARIANTS["narrow"] = {"width": 0.125, "batch_norm": True}
    groups = {"custom": data.load_groups("custom", folder, (48, 64))}
    strategies, feed = [], fit.feed

    def watched_feed(strategy, plan, augmentation=None):
        strategies.append(strategy)
        return feed(strategy, plan, augmentation)

    def losses(name: str, epochs: int, names: list[str]) -> list:
        fit.choose_devices, fit.feed = lambda *_: names, watched_feed
        keras.Model.compile = functools.partialmethod(compile_, run_eagerly=not names)
        params = {**defaults(), "epochs": epochs, "batch_size": 4, "results": str(results / name)}
        fit.train(groups, params, variant="narrow", context="plain", init="scratch")
        rows = (results / name / "history" / "custom.csv").read_text(encoding="utf-8").splitlines()[1:]
        return [[float(value) for value in row.split(",")[1:3]] for row in rows]

    one = losses("one", 2, [])
    losses("two", 1, ["CPU:0", "CPU:1"])
    two = losses("two", 2, [])
    replicas = [strategy.num_replicas_in_sync for strategy in strategies[::2]]  # Training, then validation.
    strategy = strategies[2]
    images, _ = next(iter(feed(strategy, batches.training_plan([groups["custom"][0]], 4, 0, 0))))
    shares = [share.shape[0] for share in strategy.experimental_local_results(images)]
    return {"one": one, "two, then one": two, "devices": replicas, "shares": shares}


def test_shares_of_a_batch_keep_its_order_and_augmentation(tiny_dataset):
    samples = data.pair_files(tiny_dataset(count=5))
    whole = batches.Batch(samples, (48, 64), seed=7)
    shares = batches.share_out([whole], 2)
    assert [len(share.samples) for share in shares] == [3, 2]
    options = {"mirror": True, "crop": 0.3, "color": 0.3}
    together, _ = next(iter(batches.load_batches([whole], options)))
    apart = np.concatenate([images for images, _ in batches.load_batches(shares, options)])
    np.testing.assert_allclose(apart, together, atol=1e-3)


def test_device_without_a_sample_repeats_one_of_the_others(tiny_dataset):
    samples = data.pair_files(tiny_dataset(count=2))
    shares = batches.share_out([batches.Batch(samples, (48, 64))], 3)
    assert [share.samples for share in shares] == [samples[:1], samples[1:], samples[:1]]
    assert [share.first for share in shares] == [0, 1, 0]


def test_batch_too_small_for_the_gpus_and_missing_gpus_are_errors(monkeypatch):
    found = [tf.config.LogicalDevice(f"/device:GPU:{i}", "GPU") for i in range(4)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: found)
    with pytest.raises(UserError, match=r"--batch-size 2 is shared by --gpus 3"):
        fit.choose_devices(3, 2)
    with pytest.raises(UserError, match=r"--gpus 5 was requested, but TensorFlow sees 4"):
        fit.choose_devices(5, 8)
    assert len(fit.choose_devices(2, 8)) == 2
    assert len(fit.choose_devices(0, 8)) == 4
    assert len(fit.choose_devices(0, 1)) == 1


if __name__ == "__main__":  # Run by the first test.
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
