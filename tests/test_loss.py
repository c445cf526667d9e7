"""The loss is the published one."""

import numpy as np
import pytest
import tensorflow as tf

from msinet import loss
from msinet.loss import kld
from msinet.scoring import metrics


@pytest.mark.parametrize("case", ["kld0", "kld1", "kld2"])
def test_loss_equals_the_published_loss(fixture, case):
    numbers = fixture("kld.npz")
    loss = np.mean(kld(numbers[f"{case}_true"], numbers[f"{case}_pred"]))
    assert loss == pytest.approx(numbers[f"{case}_loss"], abs=1e-6)


@pytest.fixture
def maps():
    random = np.random.default_rng(0)
    return random.uniform(0, 255, (3, 6, 8, 1)).astype(np.float32), random.random((3, 6, 8, 1)).astype(np.float32)


def test_correlation_is_that_of_the_metric(maps):
    true, predicted = maps
    expected = [np.corrcoef(t.ravel(), p.ravel())[0, 1] for t, p in zip(true, predicted, strict=True)]
    np.testing.assert_allclose(loss.cc(true, predicted), expected, atol=1e-5)
    np.testing.assert_allclose(loss.cc(true, 3 * true + 1), 1, atol=1e-5)


def test_scanpath_term_is_the_metric_weighted_by_the_true_map(maps):
    _, predicted = maps
    fixated = np.zeros_like(predicted)
    fixated[:, 2, 3], fixated[:, 4, 1] = 255, 255
    expected = [
        metrics.nss_tuebingen(p[..., 0], np.argwhere(f[..., 0])) for p, f in zip(predicted, fixated, strict=True)
    ]
    np.testing.assert_allclose(loss.nss(fixated, predicted), expected, atol=1e-5)


def test_combined_loss_adds_the_weighted_terms(maps):
    expected = kld(*maps) + 0.5 * (1 - loss.cc(*maps)) - 0.25 * loss.nss(*maps)
    np.testing.assert_allclose(loss.combined(0.5, 0.25)(*maps), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_terms_of_a_constant_map_are_finite_and_have_gradients(maps, value):
    flat = tf.Variable(np.full_like(maps[1], value))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(loss.combined(1.0, 1.0)(maps[0], flat))
    assert np.isfinite(total) and np.isfinite(tape.gradient(total, flat)).all()
