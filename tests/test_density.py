"""Densities: normalized, fitted by likelihood, and the optimal map of each metric."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp

from msinet.scoring import density, metrics
from msinet.scoring import fitted as fitting
from msinet.utils import UserError


def smooth_map(seed, shape=(24, 32), sigma=3):
    """A random map from 0 to 1 with structure."""
    return fitting.stretched(gaussian_filter(np.random.default_rng(seed).random(shape), sigma))


def draw(log_density, count, seed):
    """Fixations from a log density, (count, 2)."""
    values = np.exp(log_density).ravel()
    drawn = np.random.default_rng(seed).choice(values.size, count, p=values / values.sum())
    return np.column_stack(np.divmod(drawn, log_density.shape[1]))


# --- Maps as densities ------------------------------------------------------------------------------------------------


def test_default_density_is_the_maps_share_plus_a_floor():
    saliency = smooth_map(0) * 255
    log_density = density.default_log_density(saliency)
    assert abs(logsumexp(log_density)) < 1e-9
    shares = saliency / saliency.sum() + 1e-8
    np.testing.assert_allclose(np.exp(log_density), shares / shares.sum(), rtol=1e-9)
    np.testing.assert_allclose(density.default_log_density(np.zeros((4, 6))), -np.log(24))


@pytest.mark.parametrize("shape", [(128, 128), (60, 80), (1, 7), (300, 200)])
def test_interpolated_density_keeps_its_sum_and_its_shape(shape):
    grid = np.exp(-((np.arange(128)[:, None] / 128 - 0.4) ** 2 + (np.arange(128) / 128 - 0.6) ** 2) / 0.02)
    pixels = density.on_pixels(grid, shape)
    assert pixels.shape == shape and pixels.sum() == pytest.approx(1)
    rows, columns = ((np.arange(side) + 0.5) / side for side in shape)
    expected = np.exp(-((rows[:, None] - 0.4 - 0.5 / 128) ** 2 + (columns - 0.6 - 0.5 / 128) ** 2) / 0.02)
    np.testing.assert_allclose(pixels, expected / expected.sum(), atol=0.01 * pixels.max())


# --- Center bias and gold standard ------------------------------------------------------------------------------------


def simulated_positions(images=40, count=30, uniform=0.2, seed=0):
    """Fixations around the center of images, and some anywhere."""
    random = np.random.default_rng(seed)
    centered = np.clip(random.normal(0.5, 0.12, (images, count, 2)), 0, 0.999)
    anywhere = random.random((images, count, 1)) < uniform
    return list(np.where(anywhere, random.random((images, count, 2)), centered))


def test_center_bias_leaves_an_images_own_fixations_out():
    positions = simulated_positions()
    bias = density.fit_center_bias(positions)
    others = density.CenterBias(density.histogram(np.concatenate(positions[1:])), bias.bandwidth, bias.uniform)
    np.testing.assert_allclose(bias.grid(without=positions[0]), others.grid(), atol=1e-15)
    assert abs(bias.grid() - others.grid()).max() > 1e-7
    assert abs(logsumexp(bias.log_density((60, 80)))) < 1e-9


def test_center_bias_has_the_best_leave_one_image_out_likelihood():
    positions = simulated_positions()
    bias = density.fit_center_bias(positions)

    def likelihood(bandwidth, uniform):
        changed = density.CenterBias(bias.counts, bandwidth, uniform)
        return np.mean([np.log(changed.grid(without=p)[tuple(density.pixels_at(p).T)]).mean() for p in positions])

    best = likelihood(bias.bandwidth, bias.uniform)
    for factor in (0.7, 1.4):
        assert best > likelihood(bias.bandwidth * factor, bias.uniform)
        assert best > likelihood(bias.bandwidth, bias.uniform * factor)
    assert best > -np.log(density.CELLS**2) + 0.5  # Far better than uniform.
    assert 0.02 < bias.bandwidth < 0.12 and 0.01 < bias.uniform < 0.35


def test_center_bias_without_fixations_is_uniform():
    for positions in ([], [np.zeros((0, 2))] * 3, [np.full((5, 2), 0.5)]):
        log_density = density.fit_center_bias(positions).log_density((4, 6))
        np.testing.assert_allclose(log_density, -np.log(24))


def test_gold_standard_finds_the_width_of_common_targets():
    random, center = np.random.default_rng(0), np.full((density.CELLS,) * 2, 1 / density.CELLS**2)
    images = []
    for _ in range(30):
        targets = random.uniform(0.2, 0.8, (3, 2))
        # Round in pixels: the image is twice as wide as high.
        offsets = random.normal(0, 8, (60, 2)) / (100, 200)
        positions = np.clip(targets[random.integers(0, 3, 60)] + offsets, 0, 0.999)
        images.append((positions, np.repeat(np.arange(6), 10), (100, 200), center))
    gold = density.fit_gold_standard(images)
    # A kernel estimate of a Gaussian needs a narrower kernel than the Gaussian, of 8 / sqrt(100 * 200).
    assert 0.015 < gold.bandwidth < 0.057 and gold.center < 0.2
    grid = gold.grid(images[0][0], (100, 200), center)
    assert grid.sum() == pytest.approx(1) and grid.max() > 10 * center.max()


# --- Fitted densities -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_grid(monkeypatch):
    """Fit on as many cells as these maps have pixels, so no resizing hides a difference."""
    monkeypatch.setattr(fitting, "FIT_CELLS", 24)


@pytest.fixture
def truth():
    """A density with a curve, a blur and a center bias that are not the initial ones."""
    curve = 0.05 + fitting.CURVE_AT**2
    return fitting.FittedDensity(0.05, curve, -2 * np.linspace(0, 1, fitting.CENTER_KNOTS) ** 2, 1.5)


def test_loss_of_the_fit_is_the_likelihood_of_the_fitted_density(small_grid, truth):
    maps = [smooth_map(seed, (24, 24)) for seed in range(3)]
    fixations = [draw(truth.log_density(m), 50, seed) for seed, m in enumerate(maps)]
    loss, start = fitting.likelihood_loss(maps, [density.relative(f, (24, 24)) for f in fixations])
    parameters = start + np.random.default_rng(0).normal(0, 0.2, start.shape)
    fitted = fitting.unpack(parameters)
    likelihoods = [fitted.log_density(m)[tuple(f.T)] for m, f in zip(maps, fixations, strict=True)]
    assert loss(parameters)[0] == pytest.approx(-np.log(24**2) - np.mean(likelihoods), abs=1e-4)


def test_fit_recovers_known_parameters_and_gains_information_on_other_images(small_grid, truth):
    maps = [smooth_map(seed, (24, 24)) for seed in range(40)]
    fixations = [draw(truth.log_density(m), 300, seed) for seed, m in enumerate(maps)]
    positions = [density.relative(f, (24, 24)) for f in fixations]
    fitted, before, after = fitting.fit_density(maps[:30], positions[:30])
    assert after > before + 0.1
    assert fitted.blur == pytest.approx(truth.blur, rel=0.35)
    assert fitted.ratio == pytest.approx(truth.ratio, rel=0.35)
    # The scale of the curve and the offset of the center bias do not matter. Few pixels reach the ends of either.
    curves = [np.log(d.curve[6:17]) - np.log(d.curve[12]) for d in (fitted, truth)]
    np.testing.assert_allclose(*curves, atol=0.35)
    centers = [d.center[1:10] - d.center[5] for d in (fitted, truth)]
    np.testing.assert_allclose(*centers, atol=0.35)

    baseline = np.full((24, 24), -np.log(24**2))
    gains = []
    for log_density in (density.default_log_density, fitted.log_density, truth.log_density):
        held_out = zip(maps[30:], fixations[30:], strict=True)
        gains.append(np.mean([metrics.ig_tuebingen(log_density(m), baseline, f) for m, f in held_out]))
    default, received, best = gains
    assert default + 0.1 < received < best + 0.02 and received > best - 0.05


@pytest.mark.parametrize("draw_from", [lambda m: m, lambda m: m.max() - m, np.ones_like])
@pytest.mark.parametrize("form", [lambda m: 255 * m, lambda m: m**8, lambda m: 0.6 + 0.4 * m])
def test_fitted_likelihood_is_never_below_that_of_the_default_density(small_grid, form, draw_from):
    maps = [form(smooth_map(seed, (24, 24))) for seed in range(6)]
    fixations = [draw(density.default_log_density(draw_from(m)), 30, seed) for seed, m in enumerate(maps)]
    fitted, before, after = fitting.fit_density(maps, [density.relative(f, (24, 24)) for f in fixations])
    default, best = (
        np.mean([log_density(m)[tuple(f.T)] for m, f in zip(maps, fixations, strict=True)])
        for log_density in (density.default_log_density, fitted.log_density)
    )
    assert best > default and after >= before
    assert before > (default + np.log(24**2)) / np.log(2) - 0.01  # More for black pixels, which the bounds lift.


def test_fitted_density_is_monotone_normalized_at_any_size_and_restored_from_its_file(tmp_path, truth):
    truth.save(tmp_path / "density.json")
    loaded = fitting.FittedDensity.load(tmp_path / "density.json")
    for shape in ((48, 64), (30, 20)):
        log_density = truth.log_density(smooth_map(1, shape) * 255)
        assert abs(logsumexp(log_density)) < 1e-9
        np.testing.assert_array_equal(loaded.log_density(smooth_map(1, shape) * 255), log_density)
    assert (np.diff(fitting.unpack(np.random.default_rng(0).normal(size=34)).curve) > 0).all()


@pytest.mark.parametrize("contents", [None, "no JSON", "{}", '{"blur": 1, "curve": [1], "centre": [0], "ratio": 1}'])
def test_invalid_files_are_clear_errors(tmp_path, contents):
    path = tmp_path / "density.json"
    if contents is not None:
        path.write_text(contents, encoding="utf-8")
    with pytest.raises(UserError, match=r"density\.json.*--fit"):
        fitting.FittedDensity.load(path)


# --- Optimal maps -----------------------------------------------------------------------------------------------------


def test_similarity_map_beats_every_other_map_in_expected_similarity():
    values = np.exp(density.normalize(5 * smooth_map(4, (40, 60), sigma=4)))
    kernel, count = 4.0, 30

    def true_maps(seed, draws):
        drawn = np.random.default_rng(seed).multinomial(count, values.ravel(), draws).reshape(draws, 40, 60)
        return gaussian_filter(drawn.astype(float), (0, kernel, kernel))

    fresh = true_maps(99, 150)
    blurred = gaussian_filter(values, kernel)
    rivals = {
        "density": values,
        "blurred density": blurred,
        "mean true map": true_maps(1, 150).mean(0),
        "median true map": np.median(true_maps(1, 150), 0),
        "uniform": np.ones_like(values),
        "sharpened": blurred**1.5,
        "flattened": blurred**0.7,
        "one true map": true_maps(1, 1)[0],
    }
    best = density.similarity_map(values, kernel, count)
    assert best.sum() == pytest.approx(1) and best.min() >= 0
    expected = np.mean([metrics.sim_tuebingen(best, t) for t in fresh])
    for name, rival in rivals.items():
        assert expected > np.mean([metrics.sim_tuebingen(rival, t) for t in fresh]) + 1e-4, name
    random = np.random.default_rng(5)
    for _ in range(5):
        changed = best * np.exp(0.8 * (smooth_map(random.integers(1000), best.shape) - 0.5))
        assert expected > np.mean([metrics.sim_tuebingen(changed, t) for t in fresh])


def test_each_metric_scores_best_on_its_own_map():
    """On average over fixations drawn from the density."""
    random = np.random.default_rng(0)
    others = np.exp(density.normalize(3 * smooth_map(11, (40, 60), 5)))
    log_density = density.normalize(5 * smooth_map(12, (40, 60), 4))
    maps = density.metric_maps(log_density, others, kernel=4.0, count=40)
    scores = {name: {chosen: [] for chosen in maps} for name in maps}
    negatives = draw(np.log(others), 4000, 5)
    for _ in range(40):
        fixations = draw(log_density, 40, random.integers(1 << 30))
        truth = gaussian_filter(metrics.count_map(fixations, (40, 60)), 4.0)
        for chosen, saliency in maps.items():
            if chosen != "IG":
                scores["AUC"][chosen].append(metrics.auc_tuebingen(saliency, fixations))
                scores["sAUC"][chosen].append(metrics.sauc_tuebingen(saliency, fixations, negatives))
                scores["CC"][chosen].append(metrics.cc(saliency, truth))
                scores["SIM"][chosen].append(metrics.sim_tuebingen(saliency, truth))
                scores["KLD"][chosen].append(-metrics.kld(saliency, truth))
    for name in ("AUC", "sAUC", "CC", "SIM", "KLD"):
        means = {chosen: np.mean(values) for chosen, values in scores[name].items() if values}
        assert means[name] == pytest.approx(max(means.values()), abs=2e-3), name
    assert np.mean(scores["sAUC"]["sAUC"]) > np.mean(scores["sAUC"]["AUC"]) + 0.01
