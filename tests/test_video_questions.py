"""Clips in `regions` and `crop`: shares of attention over time, and crops that follow attention."""

import csv
import json
from fractions import Fraction

import numpy as np
import pytest
from clips import av, cut_off, make_clip, noise, read, sound_of

from msinet import main
from msinet.attention.follow import follow
from msinet.attention.regions import regions

SPEED = 40.0
TIMES = np.arange(100) / 25


def speeds(path, times):
    return np.abs(np.diff(path, axis=0)) / np.diff(times)[:, None]


# --- The path ---------------------------------------------------------------------------------------------------------


def test_path_never_moves_faster_than_allowed():
    targets = np.random.default_rng(0).uniform(0, 300, (100, 2))
    targets[50:] += 500
    times = np.sort(np.random.default_rng(1).uniform(0, 4, 100))
    path = follow(targets, times, SPEED)
    assert speeds(path, times).max() <= SPEED * (1 + 1e-9)
    assert path.min() >= targets.min() and path.max() <= targets.max()


def test_path_follows_slow_targets_without_lag_and_smooths_jumps():
    slow = np.column_stack([TIMES * 20, 100 - TIMES * 10])
    np.testing.assert_allclose(follow(slow, TIMES, SPEED)[30:-30], slow[30:-30], atol=0.5)
    jitter = 100 + np.random.default_rng(0).normal(0, 10, (100, 1))
    assert follow(jitter, TIMES, SPEED).std() < 4


def test_path_restarts_at_a_cut():
    targets = np.repeat([[10.0], [250.0]], 50, axis=0)
    path = follow(targets, TIMES, SPEED, cuts=[50])
    np.testing.assert_allclose(path, targets)
    assert np.abs(follow(targets, TIMES, SPEED) - targets).max() > 50
    np.testing.assert_array_equal(follow(targets[:1], TIMES[:1], SPEED), targets[:1])


# --- Through the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bright(narrow_arrays, tmp_path_factory):
    """Weights whose maps are a photograph's brightness, blurred: positive, and without biases."""
    path = tmp_path_factory.mktemp("weights") / "bright.npz"
    np.savez(path, **{name: np.abs(values) * name.endswith("kernel") for name, values in narrow_arrays.items()})
    return path


@pytest.fixture
def run(bright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--weights", str(bright), "--input-size", "120", "160")
    return lambda phase, *more: main.main([phase, "-p", "a.mp4", *flags, *more])


@pytest.fixture
def moving(tmp_path):
    """A clip with sound of 50 frames, 96×128, in which a bright blob moves from the left to the right."""
    rows, columns = np.mgrid[:96, :128]
    frames = []
    for i, background in enumerate(noise(50, 96, 128)):
        blob = np.exp(-((columns - 24 - 80 * i / 49) ** 2 + (rows - 48) ** 2) / (2 * 10**2))[..., None]
        frames.append((background // 5 * (1 - blob) + 255 * blob).astype(np.uint8))
    return make_clip(tmp_path / "a.mp4", frames, sound="aac")


def table(path) -> list[dict]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_shares_of_areas_are_those_of_the_frames_maps_and_follow_the_blob(run, moving, tmp_path, capsys):
    assert run("regions", "--area", "left:0,0,64,96", "--area", "right:64,0,64,96", "--every", "7") == 0
    folder = tmp_path / "results" / "regions"
    rows = table(folder / "regions.csv")
    assert [float(row["time"]) for row in rows[::2]] == pytest.approx([i / 25 for i in range(0, 50, 7)])
    left, right = ([float(row["share_of_attention"]) for row in rows[first::2]] for first in (0, 1))
    assert [row["name"] for row in rows[:2]] == ["left", "right"]
    assert left[0] > 0.6 > 0.4 > left[-1] and np.all(np.diff(left) < 0.02)
    np.testing.assert_allclose(np.add(left, right), 1, atol=1e-3)
    assert (folder / "a.png").stat().st_size > 5000
    record = json.loads((folder / "regions.json").read_text(encoding="utf-8"))
    assert (record["every"], record["fps"], record["smooth"], record["failures"]) == (7, None, 0, [])
    assert "8 frames measured" in capsys.readouterr().out
    assert run("test", "--format", "npy", "--every", "7") == 0
    with np.load(tmp_path / "results" / "videos" / "a.npz") as archive:
        for share, saliency in zip(left, archive["maps"].astype(np.float32), strict=True):
            (expected,) = regions(saliency, {"left": (0, 0, 64, 96)})
            assert share == pytest.approx(expected.share_of_attention, abs=1e-3)


def test_crop_follows_the_blob_with_bounded_speed(run, moving, tmp_path):
    assert run("crop", "--ratio", "9:16", "--ratio", "1:1", "--speed", "0.4") == 0
    folder = tmp_path / "results" / "crops"
    assert sorted(file.name for file in folder.iterdir()) == ["a_1x1.mp4", "a_9x16.mp4", "crops.csv", "crops.json"]
    rows = [row for row in table(folder / "crops.csv") if row["ratio"] == "9:16"]
    assert {(row["width"], row["height"]) for row in rows} == {("54", "96")}
    x = np.array([float(row["x"]) for row in rows])
    assert x[0] < 20 and x[-1] > 50 and np.abs(x[10:] - x[:-10]).max() <= 0.4 * 128 * 10 / 25 + 1
    video = read(folder / "a_9x16.mp4")
    assert [frame.time for frame in video] == [Fraction(i, 25) for i in range(50)]
    assert {frame.pixels.shape for frame in video} == {(96, 54, 3)}
    original = read(moving)
    for i in (0, 25, 49):
        expected = original[i].pixels[:, int(x[i]) : int(x[i]) + 54].astype(int)
        assert np.abs(video[i].pixels - expected).mean() < 6
    np.testing.assert_array_equal(sound_of(folder / "a_9x16.mp4"), sound_of(moving))
    with av.open(str(folder / "a_1x1.mp4")) as square:
        assert square.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert run("crop", "--ratio", "9:16", "--speed", "0") == 0
    assert len({row["x"] for row in table(folder / "crops.csv")}) == 1


def test_damaged_clips_are_measured_and_cropped_up_to_the_damage(run, tmp_path, capsys):
    cut_off(tmp_path / "a.mp4")
    assert run("regions", "--area", "left:0,0,32,48") == run("crop") == 1
    assert capsys.readouterr().err.count("the frames before are used.") == 2
    assert 10 <= len(table(tmp_path / "results" / "crops" / "crops.csv")) < 20
    (tmp_path / "a.mp4").write_text("hello\n" * 100)
    assert run("regions", "--area", "left:0,0,32,48") == run("crop") == 2
    assert capsys.readouterr().err.count("not a video that can be read") == 2


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("regions", "a.mp4 is a clip: name areas with --area or --areas, and leave out --maps."),
        ("regions --area a:0,0,9,9 --maps .", "leave out --maps"),
        ("regions --area a:500,0,9,9", "'a'"),
        *((f"crop {flags}", "a.mp4 is a clip: --maps, --keep, --areas, --size and --min-scale are for")
          for flags in ("--size 9", "--keep a:0,0,9,9", "--min-scale 0.5", "--areas areas.csv --keep a", "--maps .")),
    ],
)  # fmt: skip
def test_flags_that_clips_do_not_have_are_one_line(run, moving, capsys, command, words):
    assert run(*command.split()) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize("phase", ["regions", "crop"])
@pytest.mark.parametrize("address", ["rtsp://camera/1", "http://camera/a.mp4", "/dev/video0"])
def test_streams_are_measured_and_cropped_from_a_recording_only(phase, address, capsys):
    assert main.main([phase, "-p", address]) == 2
    assert capsys.readouterr().err == (
        f"error: {address} is a camera or a stream, expected a file: record it, and name the recording.\n"
    )
