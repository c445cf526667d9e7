"""Maps of clips: those of their frames as photographs, smoothed on request."""

import itertools
import threading
from fractions import Fraction

import numpy as np
import pytest
from clips import make_clip

import msinet
from msinet.videos import maps
from msinet.videos.reading import Frame, open_clip


@pytest.fixture(scope="module")
def network(narrow_weights):
    return msinet.load(narrow_weights, input_size=(48, 64))


def test_peak_of_the_bundled_networks_map_follows_a_bright_blob(tmp_path):
    network = msinet.load("lite")
    rows, columns = np.mgrid[:120, :160]
    noise = np.random.default_rng(0).integers(0, 121, (120, 160, 3))
    centers = range(24, 137, 16)
    frames = []
    for center in centers:
        blob = (columns - center) ** 2 + (rows - 60) ** 2 < 10**2
        frames.append(np.where(blob[..., None], 255, noise).astype(np.uint8))
    with open_clip(make_clip(tmp_path / "a.mp4", frames)) as clip:
        peaks = [np.argmax(saliency.max(axis=0)) for _, saliency in maps.predict(clip.frames, network)]
    np.testing.assert_allclose(peaks, centers, atol=0.05 * 160)


def test_sampling_keeps_every_nth_frame_or_so_many_a_second():
    frames = [Frame(np.zeros((1, 1, 3), np.uint8), Fraction(i, 25), Fraction(1, 25)) for i in range(50)]
    assert [frame.time * 25 for frame in maps.sample(frames, every=20)] == [0, 20, 40]
    assert [frame.time * 25 for frame in maps.sample(frames, fps=5)] == list(range(0, 50, 5))
    assert [frame.time * 25 for frame in maps.sample(frames, fps=2)] == [0, 13, 25, 38]
    assert list(maps.sample(frames, fps=100)) == frames


def noisy_scene(photograph, count, seed=0, sigma=10):
    scene, generator = photograph(seed=seed), np.random.default_rng(seed)
    for _ in range(count):
        yield np.clip(scene + generator.normal(0, sigma, scene.shape), 0, 255).astype(np.uint8)


def as_frames(pictures):
    return [Frame(pixels, Fraction(i, 25), Fraction(1, 25)) for i, pixels in enumerate(pictures)]


def flicker(rows) -> float:
    return float(np.mean([np.abs(b - a).mean() for (_, a), (_, b) in itertools.pairwise(rows)]))


def test_smoothing_lowers_flicker(network, photograph):
    frames = as_frames(noisy_scene(photograph, 20))
    plain = list(maps.predict(frames, network))
    smooth = list(maps.predict(frames, network, smooth=0.5))
    assert flicker(smooth[5:]) < 0.2 * flicker(plain[5:])
    for _, saliency in smooth:
        assert saliency.min() == 0 and saliency.max() == pytest.approx(255, abs=1e-3)


def test_smoothing_is_an_average_that_depends_on_time_alone():
    levels = [np.array([[0, 255, level]], np.float32) for level in (0, 100, 100, 100)]
    gray = np.zeros((1, 3, 3), np.uint8)
    rows = [
        (Frame(gray, time, Fraction(1)), level)
        for time, level in zip((Fraction(0), Fraction(1), Fraction(2), Fraction(5)), levels, strict=True)
    ]
    smooth = [saliency[0, 2] for _, saliency in maps.smooth_maps(rows, 2)]
    np.testing.assert_allclose(smooth, [100 * (1 - np.exp(-t / 2)) for t in (0, 1, 2, 5)], rtol=1e-5)


def test_smoothing_restarts_at_a_cut(network, photograph):
    # Random scenes have the same colors, unlike those of films.
    other = [pixels // np.uint8(3) for pixels in noisy_scene(photograph, 8, seed=2)]
    frames = as_frames([*noisy_scene(photograph, 8, seed=1), *other])
    plain = [saliency for _, saliency in maps.predict(frames, network)]
    smooth = [saliency for _, saliency in maps.predict(frames, network, smooth=5)]
    assert np.abs(smooth[7] - plain[7]).max() > 1
    alone = [saliency for _, saliency in maps.predict(frames[8:], network, smooth=5)]
    np.testing.assert_array_equal(smooth[8:], alone)


def test_cuts_are_found_and_motion_noise_and_light_are_not(photograph):
    def cut(before, after):
        return maps.is_cut(maps.thumbnail(before), maps.thumbnail(after))

    wide, other = photograph(96, 256, seed=1), photograph(96, 128, seed=2) // np.uint8(3)
    one = wide[:, :128]
    assert cut(one, other) and cut(other, one)
    assert cut(one // 2, other // 2)  # at night
    for pan in (1, 4, 12):
        assert not cut(one, wide[:, pan : 128 + pan])
    assert not cut(*noisy_scene(photograph, 2, sigma=30))
    assert not cut(one, np.clip(one * 1.1, 0, 255).astype(np.uint8))


def test_frames_are_decoded_only_as_they_are_needed_and_in_another_thread(network):
    decoded, threads = [], set()

    def frames():
        for i in range(2000):
            decoded.append(i)
            threads.add(threading.get_ident())
            yield Frame(np.full((48, 64, 3), i % 256, np.uint8), Fraction(i, 25), Fraction(1, 25))

    rows = maps.predict(frames(), network)
    next(rows)
    assert len(decoded) < 100
    rows.close()
    assert threading.get_ident() not in threads
