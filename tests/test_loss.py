"""The loss is the published one."""

import numpy as np
import pytest

from loss import kld


@pytest.mark.parametrize("case", ["kld0", "kld1", "kld2"])
def test_loss_equals_the_published_loss(fixture, case):
    numbers = fixture("kld.npz")
    loss = np.mean(kld(numbers[f"{case}_true"], numbers[f"{case}_pred"]))
    assert loss == pytest.approx(numbers[f"{case}_loss"], abs=1e-6)
