"""The PyTorch network that trains on GPUs is the program's: same maps, same loss, same arrays."""

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is needed only to train on a GPU")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "distillation"))

import port  # noqa: E402
import prune  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures"
EVERYWHERE = ("conv", "aspp", "decoder")


def images_of(seed, batch=2, height=32, width=48):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (batch, 3, height, width)).astype(np.float32))


def maps(network, images):
    with torch.no_grad():
        return network.eval()(images).numpy()


def test_forward_equals_the_published_network():
    network, arrays = port.MSINet(), {}
    for i, name in enumerate(f"{name}/{kind}" for name in port.NAMES for kind in ("kernel", "bias")):
        weight = network.layer(name.rpartition("/")[0]).conv.weight
        filters, inputs, height, width = weight.shape
        shape = (height, width, inputs, filters) if name.endswith("kernel") else (filters,)
        scale = np.sqrt(2 / (height * width * inputs)) if name.endswith("kernel") else 0.05
        arrays[name] = (np.random.default_rng(1000 + i).standard_normal(shape) * scale).astype(np.float32)
    port.assign(network, arrays)
    numbers = np.load(FIXTURES / "forward.npz")
    for case in ("fwd0", "fwd1", "fwd2"):
        batch, height, width, seed = numbers[f"{case}_spec"]
        images = np.random.default_rng(seed).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)
        result = maps(network, torch.from_numpy(images.transpose(0, 3, 1, 2)))
        np.testing.assert_allclose(result[:, 0], numbers[f"{case}_output"].reshape(batch, height, width), atol=1e-4)


def test_loss_equals_the_published_one():
    numbers = np.load(FIXTURES / "kld.npz")
    for case in ("kld0", "kld1", "kld2"):
        true, predicted = (torch.from_numpy(numbers[f"{case}_{kind}"]) for kind in ("true", "pred"))
        loss = port.kld(*(x.reshape(len(x), 1, *x.shape[1:3]) for x in (true, predicted)))
        np.testing.assert_allclose(loss.mean(), numbers[f"{case}_loss"].mean(), atol=1e-4)


def test_folded_arrays_give_the_maps_of_the_normalized_network():
    network = port.MSINet(0.25, EVERYWHERE).train()
    for seed in range(3):
        network(images_of(seed, 4))
    plain = port.MSINet(0.25)
    port.assign(plain, port.to_arrays(network))
    np.testing.assert_allclose(maps(plain, images_of(9)), maps(network, images_of(9)), atol=1e-4)


def test_pruning_to_the_same_width_keeps_the_network():
    torch.manual_seed(0)
    wide, copy = port.MSINet(0.25), port.MSINet(0.25, EVERYWHERE)
    batches = [(images_of(seed, 4), torch.rand(4, 1, 32, 48)) for seed in range(2)]
    prune.prune(wide, copy, batches, contextlib.nullcontext)
    copy.train()
    for _ in range(400):  # Until the running statistics are those of the two batches.
        with torch.no_grad():
            for images, _ in batches:
                copy(images)
    correlation = np.corrcoef(maps(wide, batches[0][0]).ravel(), maps(copy, batches[0][0]).ravel())[0, 1]
    assert correlation > 0.98
