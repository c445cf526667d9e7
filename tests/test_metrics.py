"""Metrics: equal to both benchmarks' numbers, with the properties of their definitions."""

import json

import numpy as np
import pytest
from conftest import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st

from msinet.scoring import metrics
from msinet.utils import UserError

CASES = range(5)
EXPECTED = json.loads((FIXTURES / "metrics.json").read_text(encoding="utf-8"))
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("reproducible")


@pytest.fixture
def case(fixture):
    """The arrays of a frozen case: `case(2).prediction`, and so on."""
    arrays = fixture("metrics.npz")
    return lambda index: {name.split("_", 1)[1]: arrays[name] for name in arrays if name.startswith(f"m{index}_")}


@st.composite
def scenes(draw, levels=(2, 1000)):
    """A small map of integers, with ties and exact affine maps, and fixations with duplicates."""
    seed, height, width = draw(st.integers(0, 2**32)), draw(st.integers(2, 9)), draw(st.integers(2, 9))
    random = np.random.default_rng(seed)
    saliency = random.integers(0, draw(st.integers(*levels)), (height, width)).astype(float)
    count = draw(st.integers(1, 12))
    return saliency, np.column_stack([random.integers(0, side, count) for side in (height, width)]), random


# --- The benchmarks' numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", CASES)
def test_deterministic_metrics_equal_the_benchmarks(case, index):
    frozen = case(index)
    saliency, fixations, truth = frozen["prediction"], frozen["fixations"], frozen["density"]
    fixated = metrics.fixation_map(fixations, saliency.shape)
    mit = {
        "auc_judd_no_jitter": metrics.auc_judd_mit(saliency, fixated, jitter=0),
        "cc": metrics.cc(saliency, truth),
        "sim": metrics.sim_mit(saliency, truth),
        "kldiv": metrics.kld(saliency, truth),
        "nss": metrics.nss_mit(saliency, fixated),
        "info_gain": metrics.ig_mit(saliency, fixated, frozen["baseline"]),
    }
    log_density, log_baseline = (np.log(metrics.as_distribution(frozen[name])) for name in ("prediction", "baseline"))
    tuebingen = {
        "auc": metrics.auc_tuebingen(saliency, fixations),
        "sauc": metrics.sauc_tuebingen(saliency, fixations, frozen["other_fixations"]),
        "nss": metrics.nss_tuebingen(saliency, fixations),
        "cc": metrics.cc(saliency, truth),
        "sim": metrics.sim_tuebingen(saliency, truth),
        "kldiv": metrics.kld(saliency, truth),
        "ig_bits": metrics.ig_tuebingen(log_density, log_baseline, fixations),
    }
    for values, source in ((mit, "mit_matlab"), (tuebingen, "pysaliency_0_2_22")):
        expected = {name: EXPECTED[source][index][name] for name in values}
        assert values == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("index", CASES)
def test_sampled_metrics_are_near_the_benchmarks(case, index):
    frozen, expected = case(index), EXPECTED["mit_matlab"][index]
    saliency = frozen["prediction"]
    fixated, other = (metrics.fixation_map(frozen[n], saliency.shape) for n in ("fixations", "other_fixations"))
    assert metrics.auc_borji_mit(saliency, fixated) == pytest.approx(expected["auc_borji_100_splits"], abs=0.01)
    shuffled = metrics.auc_shuffled_mit(saliency, fixated, other)
    assert shuffled == pytest.approx(expected["auc_shuffled_100_splits"], abs=0.01)
    assert shuffled == metrics.auc_shuffled_mit(saliency, fixated, other)  # The seed decides.
    assert shuffled != metrics.auc_shuffled_mit(saliency, fixated, other, seed=1)


def test_duplicates_count_for_tuebingen_and_collapse_for_mit(case):
    frozen = case(1)
    saliency, fixations = frozen["prediction"], frozen["fixations"]
    assert len(np.unique(fixations, axis=0)) < len(fixations)
    fixated = metrics.fixation_map(fixations, saliency.shape)
    assert fixated.sum() == len(np.unique(fixations, axis=0))
    assert metrics.count_map(fixations, saliency.shape).sum() == len(fixations)
    unique = np.argwhere(fixated)
    assert metrics.nss_tuebingen(saliency, fixations) != pytest.approx(metrics.nss_tuebingen(saliency, unique))
    # Beyond duplicates, the two differ in the standard deviation alone.
    n = saliency.size
    expected = metrics.nss_tuebingen(saliency, unique) * np.sqrt((n - 1) / n)
    assert metrics.nss_mit(saliency, fixated) == pytest.approx(expected)


# --- Properties -------------------------------------------------------------------------------------------------------


@given(scenes(levels=(2, 6)))
def test_aucs_are_the_share_of_pairs_in_the_right_order(scene):
    saliency, fixations, random = scene
    negatives = np.column_stack([random.integers(0, side, 20) for side in saliency.shape])

    def share(others):
        above = saliency[tuple(fixations.T)][:, None] - others
        return pytest.approx(np.mean((above > 0) + 0.5 * (above == 0)))

    assert metrics.auc_tuebingen(saliency, fixations) == share(saliency.ravel())
    expected = share(saliency[tuple(negatives.T)])
    assert metrics.sauc_tuebingen(saliency, fixations, negatives) == expected
    distinct, counts = np.unique(negatives, axis=0, return_counts=True)
    assert metrics.sauc_tuebingen(saliency, fixations, distinct, counts) == expected


@given(scenes(levels=(2, 6)))
def test_auc_judd_is_the_area_over_thresholds_at_the_fixations(scene):
    saliency, fixations, _ = scene
    fixated = metrics.fixation_map(fixations, saliency.shape)
    count, curve = fixated.sum(), [(0.0, 0.0)]
    for i, threshold in enumerate(sorted(saliency[fixated], reverse=True), 1):
        curve.append((((saliency >= threshold).sum() - i) / max(saliency.size - count, 1), i / count))
    x, y = zip(*curve, (1.0, 1.0), strict=True)
    expected = sum((x[i + 1] - x[i]) * (y[i + 1] + y[i]) / 2 for i in range(len(x) - 1))
    if saliency.min() < saliency.max():
        assert metrics.auc_judd_mit(saliency, fixated, jitter=0) == pytest.approx(expected)


# --- Earth mover's distance, resizing, blur ---------------------------------------------------------------------------


def test_earth_movers_distance_is_the_distance_that_the_mass_moves():
    here, there = np.zeros((192, 256)), np.zeros((192, 256))
    here[64:96, 64:96] = there[128:160, 160:192] = 1  # Two cells down, three to the right.
    assert metrics.emd_mit(here, here) == pytest.approx(0, abs=1e-9)
    assert metrics.emd_mit(here, there) == pytest.approx(np.hypot(2, 3), rel=0.02)
    assert metrics.emd_mit(here, there) == pytest.approx(metrics.emd_mit(there, here))


def test_resizing_keeps_a_ramp_and_does_not_alias():
    ramp = np.tile(np.linspace(0, 1, 80), (60, 1))
    np.testing.assert_allclose(metrics.resize_mit(ramp, (30, 40))[:, 4:-4], ramp[::2, 8:-8:2] + 0.5 / 79, atol=1e-6)
    checkerboard = np.indices((64, 64)).sum(0) % 2
    np.testing.assert_allclose(metrics.resize_mit(checkerboard, (16, 16)), 0.5, atol=0.02)


def test_mit_blur_is_a_gaussian_of_the_benchmarks_width():
    impulse = np.zeros((256, 256))
    impulse[128, 100] = 1
    blurred = metrics.blur_mit(impulse)
    # exp(-ln 2 f^2 / c^2) over 256 pixels is a Gaussian of this standard deviation in the image.
    sigma = 256 * np.sqrt(np.log(2) / 2) / (np.pi * metrics.CUTOFF_CYCLES)
    rows, columns = np.indices((256, 256))
    expected = np.exp(-((rows - 128) ** 2 + (columns - 100) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)
    # The side of the next power of two decides: an image of 150 × 200 pixels has the kernel of 256 × 256.
    np.testing.assert_allclose(metrics.blur_mit(impulse[:150, :200]), expected[:150, :200], atol=1e-6)


# --- Odd input --------------------------------------------------------------------------------------------------------


def test_constant_maps_are_chance():
    fixations, truth = np.array([[1, 2], [1, 2], [3, 0]]), np.random.default_rng(0).random((4, 5))
    fixated = metrics.fixation_map(fixations, (4, 5))
    for level in (0.0, 0.1, 7.0):
        flat = np.full((4, 5), level)
        aucs = (
            metrics.auc_tuebingen(flat, fixations),
            metrics.sauc_tuebingen(flat, fixations, fixations),
            metrics.auc_judd_mit(flat, fixated),
            metrics.auc_borji_mit(flat, fixated),
            metrics.auc_shuffled_mit(flat, fixated, ~fixated),
        )
        assert aucs == (0.5,) * 5
        assert metrics.nss_tuebingen(flat, fixations) == metrics.nss_mit(flat, fixated) == metrics.cc(flat, truth) == 0
        assert metrics.kld(flat, truth) == pytest.approx(metrics.kld(np.ones((4, 5)), truth))
        assert metrics.sim_mit(flat, truth) == pytest.approx(metrics.sim_mit(np.ones((4, 5)), truth))
        assert metrics.ig_mit(flat, fixated, flat + 1) == pytest.approx(0)


def test_without_fixations_every_metric_is_nan():
    saliency, none, empty = np.eye(4), np.zeros((0, 2), int), np.zeros((4, 4))
    values = (
        metrics.auc_tuebingen(saliency, none),
        metrics.sauc_tuebingen(saliency, none, [[0, 0]]),
        metrics.sauc_tuebingen(saliency, [[0, 0]], none),
        metrics.nss_tuebingen(saliency, none),
        metrics.ig_tuebingen(saliency, saliency, none),
        metrics.auc_judd_mit(saliency, empty),
        metrics.auc_borji_mit(saliency, empty),
        metrics.auc_shuffled_mit(saliency, empty, saliency),
        metrics.auc_shuffled_mit(saliency, saliency, empty),
        metrics.nss_mit(saliency, empty),
        metrics.ig_mit(saliency, empty, saliency),
        metrics.cc(saliency, empty),
        metrics.kld(saliency, empty),
        metrics.sim_tuebingen(saliency, empty),
        metrics.sim_mit(saliency, empty),
        metrics.emd_mit(saliency, empty),
    )
    assert np.isnan(values).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.cc(np.full((2, 2), np.nan), np.eye(2)), "not finite"),
        (lambda: metrics.auc_tuebingen([[np.inf, 0]], [[0, 0]]), "not finite"),
        (lambda: metrics.kld(np.eye(3), np.eye(4)), "3×3.*4×4"),
        (lambda: metrics.nss_mit(np.eye(3), np.eye(4)), "3×3.*4×4"),
        (lambda: metrics.nss_tuebingen(np.eye(3), [[0, 3]]), "row 0, column 3"),
        (lambda: metrics.nss_tuebingen(np.eye(3), [[-1, 0]]), "row -1, column 0"),
        (lambda: metrics.cc(np.zeros((2, 2, 1)), np.eye(2)), "shape"),
    ],
)
def test_unscorable_maps_are_clear_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 0.01, 100, 1e300])
def test_distributions_are_invariant_under_scaling_and_neither_underflow_nor_overflow(scale):
    random = np.random.default_rng(0)
    saliency, truth, fixated = 1 + random.random((20, 30)), random.random((20, 30)), random.random((20, 30)) < 0.1
    for metric in (metrics.kld, metrics.sim_tuebingen, metrics.sim_mit):
        assert metric(saliency * scale, truth) == pytest.approx(metric(saliency, truth))
    changed = saliency * scale + scale  # The MIT benchmark also removes the minimum.
    assert metrics.sim_mit(changed, truth) == pytest.approx(metrics.sim_mit(saliency, truth))
    assert metrics.ig_mit(changed, fixated, truth) == pytest.approx(metrics.ig_mit(saliency, fixated, truth))
