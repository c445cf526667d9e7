"""Clips: frames with exact times and colors in, videos of the same times out, and a map for every frame."""

import itertools
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import msinet
from msinet import checkpoint, model, utils
from msinet.data import Unreadable
from msinet.network.videos import maps, reading
from msinet.network.videos.reading import Frame, open_clip
from msinet.network.videos.writing import write_clip
from msinet.utils import UserError

av = pytest.importorskip("av", reason="Videos need PyAV.")

LIMITED, FULL = reading.LIMITED_RANGE, reading.FULL_RANGE
BT601, BT709, UNSPECIFIED = 6, reading.BT709, reading.UNSPECIFIED
RAMP = np.tile(np.arange(256, dtype=np.uint8), (48, 1))


def make_clip(
    path: Path,
    frames,
    codec="libx264",
    layout="yuv420p",
    color_range=LIMITED,
    matrix=BT709,
    times=None,
    time_base=Fraction(1, 25),
    options=(),
    container=(),
    rotate=None,
    sound=None,
) -> Path:
    """Write a clip of RGB frames; `sound` is a codec's name, `times` are in units of the time base."""
    with av.open(str(path), "w", options=dict(container)) as output:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = output.add_stream(codec, rate=25, options={"crf": "10", **quiet, **dict(options)})
        context = stream.codec_context
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], layout
        stream.time_base = context.time_base = time_base
        context.color_range, context.colorspace = color_range, matrix
        if rotate:
            stream.set_display_rotation(*rotate)
        audio = output.add_stream(sound, rate=48000) if sound else None
        for number, pixels in enumerate(frames):
            image = av.VideoFrame.from_ndarray(pixels, "rgb24")
            image = image.reformat(
                format=layout,
                dst_colorspace=1 if matrix == BT709 else 5,
                dst_color_range=color_range,
                interpolation=reading.PRECISE,
            )
            image.pts, image.time_base = times[number] if times else number, time_base
            output.mux(stream.encode(image))
        output.mux(stream.encode())
        if audio:
            write_tone(output, audio, len(frames) / 25)
    return path


def write_tone(output, stream, seconds):
    samples = np.sin(np.arange(int(48000 * seconds)) / 20).astype(np.float32)
    frame = av.AudioFrame.from_ndarray((samples * 20000).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    output.mux(stream.encode(frame))
    output.mux(stream.encode())


def noise(count=10, height=48, width=64):
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8))


def still(count=10, height=48, width=64, gray=100):
    """Frames of one color each, which changes from frame to frame."""
    return [np.full((height, width, 3), gray + 5 * i, np.uint8) for i in range(count)]


def read(path, **options) -> list[Frame]:
    with open_clip(path, **options) as clip:
        frames = list(clip.frames)
        assert not clip.error
    return frames


def sound_of(path) -> np.ndarray:
    with av.open(str(path)) as source:
        return np.concatenate([frame.to_ndarray() for frame in source.decode(audio=0)], axis=1)


def packets_of(path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "narrow.npz"
    np.savez(path, **checkpoint.arrays_of(model.build_model(width=0.125, seed=5)))
    return msinet.load(path, input_size=(48, 64))


# --- Reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [BT601, BT709])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mp4", "libsvtav1", "yuv420p10le"),
        ("a.mov", "libx265", "yuv420p10le"),
        ("a.mkv", "libx265", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mkv", "mpeg4", "yuv420p"),
        ("a.mp4", "libx264", "yuv444p"),
    ],
)
def test_gray_ramp_is_read_within_two_levels(tmp_path, name, codec, layout, color_range, matrix):
    ramp = np.dstack([RAMP] * 3)
    options = {"qscale": "1", "flags": "+qscale", "global_quality": "118"} if codec == "mpeg4" else {}
    path = make_clip(tmp_path / name, [ramp] * 3, codec, layout, color_range, matrix, options=options)
    frames = read(path)
    assert len(frames) == 3
    for frame in frames:
        assert frame.pixels.dtype == np.uint8 and frame.pixels.shape == (48, 256, 3)
        np.testing.assert_allclose(frame.pixels.astype(int), ramp, atol=2)


@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_colors_are_read_by_the_matrix_that_the_file_names(tmp_path, matrix):
    color = np.full((48, 64, 3), (40, 200, 90), np.uint8)
    frame = read(make_clip(tmp_path / "a.mp4", [color], matrix=matrix))[0]
    np.testing.assert_allclose(frame.pixels.astype(int), color, atol=3)


@pytest.mark.parametrize(("height", "matrix"), [(720, BT709), (480, BT601)])
def test_colors_of_a_file_that_names_no_matrix_are_those_of_its_definition(tmp_path, height, matrix):
    color = np.full((height, 64, 3), (40, 200, 90), np.uint8)
    named = read(make_clip(tmp_path / "a.mp4", [color], matrix=matrix))[0]
    path = tmp_path / "b.mp4"
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
        for image in source.decode(video=0):
            image.colorspace, image.color_range = UNSPECIFIED, 0
            output.mux(stream.encode(image))
        output.mux(stream.encode())
    np.testing.assert_allclose(read(path)[0].pixels.astype(int), named.pixels, atol=2)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animated_images_are_clips(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    pictures = [Image.fromarray(pixels) for pixels in still(5)]
    options = {"lossless": True} if suffix == ".webp" else {}
    durations = [40, 80, 120, 40, 100]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, **options)
    assert reading.is_clip(path)
    with open_clip(path) as clip:
        frames = list(clip.frames)
    assert [frame.time for frame in frames] == [Fraction(ms, 1000) for ms in (0, 40, 120, 240, 280)]
    assert clip.end == Fraction(380, 1000) and clip.length == 5
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.pixels, np.asarray(picture))
    pictures[0].save(path)
    assert not reading.is_clip(path)


def test_times_of_a_variable_frame_rate_are_exact(tmp_path):
    times = [0, 33, 70, 90, 400, 1000, 1001]
    path = make_clip(tmp_path / "a.mkv", still(7), times=times, time_base=Fraction(1, 1000))
    assert [frame.time for frame in read(path)] == [Fraction(t, 1000) for t in times]


def test_clip_that_starts_late_starts_at_zero(tmp_path):
    frames = read(make_clip(tmp_path / "a.ts", still(5)))  # MPEG-TS
    assert [frame.time for frame in frames] == [Fraction(i, 25) for i in range(5)]


@pytest.mark.parametrize(
    ("rotate", "turn"),
    [
        ((-90,), lambda x: np.rot90(x, -1)),
        ((90,), np.rot90),
        ((180,), lambda x: x[::-1, ::-1]),
        ((0, True), lambda x: x[:, ::-1]),
        ((0, False, True), lambda x: x[::-1]),
        ((-90, True), lambda x: np.rot90(x[:, ::-1], 1)),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_rotated_and_mirrored_clips_are_upright(tmp_path, photograph, rotate, turn, name):
    picture = photograph()
    if name == "a.mkv" and len(rotate) > 1:
        pytest.skip("Matroska records no mirror images.")
    plain = read(make_clip(tmp_path / "plain.mp4", [picture]))[0].pixels
    np.testing.assert_array_equal(read(make_clip(tmp_path / name, [picture], rotate=rotate))[0].pixels, turn(plain))


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mov", "libx265", {"movflags": "faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_truncated_clip_gives_the_frames_up_to_the_damage(tmp_path, name, codec, container):
    path = make_clip(tmp_path / name, noise(30), codec, container=container)
    whole = read(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with open_clip(path) as clip:
        frames = list(clip.frames)
    assert clip.error.startswith(("damaged after", "cut off after"))
    assert 10 <= len(frames) < 20
    for frame, expected in zip(frames, whole, strict=False):
        assert frame.time == expected.time
        np.testing.assert_array_equal(frame.pixels, expected.pixels)


def test_truncated_animation_gives_the_frames_up_to_the_damage(tmp_path):
    pictures = [Image.fromarray(pixels) for pixels in noise(10)]
    path = tmp_path / "a.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with open_clip(path) as clip:
        frames = list(clip.frames)
    assert 4 <= len(frames) <= 6 and clip.error.startswith("damaged after")


def test_files_without_frames_are_one_clear_error(tmp_path):
    text = tmp_path / "clip.mp4"
    text.write_text("hello\n" * 100)
    with pytest.raises(Unreadable, match=r"^not a video that can be read \(Invalid data"), open_clip(text):
        pass
    with pytest.raises(Unreadable, match="No such file"), open_clip(tmp_path / "missing.mp4"):
        pass
    song = tmp_path / "song.mp4"
    with av.open(str(song), "w") as output:
        write_tone(output, output.add_stream("aac", rate=48000), 0.2)
    with pytest.raises(Unreadable, match=r"^it has no picture, only sound$"), open_clip(song):
        pass
    empty = tmp_path / "empty.avi"
    with av.open(str(empty), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        output.start_encoding()
    with open_clip(empty) as clip:
        assert list(clip.frames) == [] and clip.error == "none of its frames can be read"
    with pytest.raises(Unreadable, match="64×48 pixels, expected at most 1000"):
        read(make_clip(tmp_path / "a.mp4", still(1)), most_pixels=1000)


def test_missing_pyav_is_one_clear_line(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", still(1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="need the package av, which is not installed"), open_clip(path):
        pass


def test_stream_starts_at_zero_and_has_no_sound_to_copy(tmp_path):
    path = make_clip(tmp_path / "a.ts", still(5), sound="aac")
    with open_clip(f"file://{path}") as clip:
        frames = list(clip.frames)
        with write_clip(tmp_path / "b.mp4", clip, sound=True) as writer:
            writer.add(frames[0].pixels, frames[0].time)
    assert writer.note == "the sound of cameras and streams is not copied"
    assert clip.live and [frame.time for frame in frames] == [Fraction(i, 25) for i in range(5)]
    assert reading.is_live("/dev/video0") and reading.is_live("rtsp://camera/1") and not reading.is_live(path)


# --- Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (47, 63)])
@pytest.mark.parametrize("count", [1, 10])
def test_video_has_the_size_times_and_duration_of_its_clip(tmp_path, size, count):
    times = [0, 33, 70, 90, 400, 1000, 1001, 1100, 1300, 1340][:count]
    layout = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    path = make_clip(
        tmp_path / "a.mkv", still(count, *size), "libx264", layout, times=times, time_base=Fraction(1, 1000)
    )
    with open_clip(path) as clip, write_clip(tmp_path / "out" / "a.mp4", clip) as writer:
        frames = list(clip.frames)
        for frame in frames:
            writer.add(frame.pixels, frame.time)
    written = read(tmp_path / "out" / "a.mp4")
    assert [frame.time for frame in written] == [frame.time for frame in frames]
    assert written[-1].time + written[-1].duration == clip.end
    for frame, original in zip(written, frames, strict=True):
        assert frame.pixels.shape == (*size, 3)
        np.testing.assert_allclose(frame.pixels.astype(int), original.pixels, atol=3)
    with av.open(str(tmp_path / "out" / "a.mp4")) as video:
        context = video.streams.video[0].codec_context
        assert (context.color_range, context.colorspace) == (LIMITED, BT709)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("width", [256, 255])
def test_map_is_written_as_gray_levels_within_two(tmp_path, width):
    source = make_clip(tmp_path / "a.mp4", still(10))
    # From black to white and back, in motion.
    waves = [np.abs((RAMP[:, :width] + np.float32(9 * i)) % 510 - 255) for i in range(10)]
    with open_clip(source) as clip, write_clip(tmp_path / "b.mp4", clip) as writer:
        for frame, wave in zip(clip.frames, waves, strict=True):
            writer.add(wave, frame.time)
    for frame, wave in zip(read(tmp_path / "b.mp4"), waves, strict=True):
        np.testing.assert_allclose(frame.pixels, np.dstack([wave] * 3), atol=2)


@pytest.mark.parametrize("layout", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_gray_ramp_survives_the_whole_path(tmp_path, layout, color_range):
    scale, dtype = (4, np.uint16) if layout == "yuv420p10le" else (1, np.uint8)
    white = 255 * scale + scale - 1
    levels = RAMP / 255 * white if color_range == FULL else (RAMP / 255 * 219 + 16) * scale
    planes = [np.round(levels).astype(dtype), *[np.full((24, 128), 128 * scale, dtype)] * 2]
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("libx265", rate=25, options={"x265-params": "lossless=1:log-level=none"})
        stream.height, stream.width, stream.pix_fmt = 48, 256, layout
        stream.codec_context.color_range, stream.codec_context.colorspace = color_range, BT709
        for number in range(5):
            image = av.VideoFrame(256, 48, layout)
            for plane, values in zip(image.planes, planes, strict=True):
                plane.update(values.tobytes())
            image.pts, image.color_range, image.colorspace = number, color_range, BT709
            output.mux(stream.encode(image))
        output.mux(stream.encode())
    with open_clip(source) as clip, write_clip(tmp_path / "b.mp4", clip) as writer:
        for frame in clip.frames:
            writer.add(frame.pixels, frame.time)
    for frame in read(tmp_path / "b.mp4"):
        np.testing.assert_allclose(frame.pixels.astype(int), np.dstack([RAMP] * 3), atol=2)


@pytest.mark.parametrize(
    ("name", "codec", "sound"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mkv", "libx264", "libopus"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.avi", "mpeg4", "libmp3lame"),
        ("a.mov", "libx264", "pcm_s16le"),
        ("a.ts", "libx264", "aac"),
    ],
)
def test_sound_is_copied_sample_by_sample(tmp_path, name, codec, sound):
    source = make_clip(tmp_path / name, still(30), codec, sound=sound)
    with open_clip(source) as clip, write_clip(tmp_path / "b.mp4", clip, sound=True) as writer:
        for frame in clip.frames:
            writer.add(frame.pixels, frame.time)
    assert not writer.note
    original, copied = sound_of(source), sound_of(tmp_path / "b.mp4")
    if sound == "libopus":
        # Matroska's times are in milliseconds: the copy starts half a millisecond later. It ends with some silence.
        assert packets_of(tmp_path / "b.mp4") == packets_of(source)
        original, copied = original[:, 24 + 960 :], copied[:, 960 : 57_600 - 24]
        np.testing.assert_allclose(copied, original, atol=1e-3)
    else:
        np.testing.assert_array_equal(copied, original)
    with open_clip(source) as clip, write_clip(tmp_path / "c.mp4", clip) as writer:
        for frame in clip.frames:
            writer.add(frame.pixels, frame.time)
    with av.open(str(tmp_path / "c.mp4")) as silent:
        assert not silent.streams.audio


def test_sound_that_mp4_cannot_hold_is_left_out_with_a_note(tmp_path):
    source = make_clip(tmp_path / "a.avi", still(10), "mpeg4", sound="adpcm_ima_wav")
    with open_clip(source) as clip, write_clip(tmp_path / "b.mp4", clip, sound=True) as writer:
        for frame in clip.frames:
            writer.add(frame.pixels, frame.time)
    assert writer.note == "its sound (adpcm_ima_wav) cannot be copied into an MP4 file"
    assert len(read(tmp_path / "b.mp4")) == 10


def test_pixels_that_are_not_square_stay_so(tmp_path):
    with open_clip(make_clip(tmp_path / "a.mp4", still(2))) as clip:
        clip.pixel_aspect = Fraction(16, 15)
        with write_clip(tmp_path / "b.mp4", clip) as writer:
            for frame in clip.frames:
                writer.add(frame.pixels, frame.time)
    with open_clip(tmp_path / "b.mp4") as clip:
        assert clip.pixel_aspect == Fraction(16, 15)


def test_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    source = make_clip(tmp_path / "a.mp4", noise(30, 96, 128))
    script = f"""
import resource, sys
from pathlib import Path
from msinet.network.videos.reading import open_clip
from msinet.network.videos.writing import write_clip
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with open_clip({str(source)!r}) as clip, write_clip(Path({str(tmp_path / "out" / "b.mp4")!r}), clip) as writer:
        for frame in clip.frames:
            writer.add(frame.pixels, frame.time)
except OSError as error:
    print(error.filename, error.strerror)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(utils.__file__).parent, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"{tmp_path / 'out' / 'b.mp4'} File too large\n" and not run.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_failure_leaves_the_former_video(tmp_path):
    source = make_clip(tmp_path / "a.mp4", still(10))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.mp4").write_bytes(b"former")
    with (
        pytest.raises(ZeroDivisionError),
        open_clip(source) as clip,
        write_clip(tmp_path / "out" / "b.mp4", clip) as writer,
    ):
        for frame in clip.frames:
            writer.add(frame.pixels, frame.time)
            if frame.time > 0:
                raise ZeroDivisionError
    assert [file.read_bytes() for file in (tmp_path / "out").iterdir()] == [b"former"]


# --- Maps -------------------------------------------------------------------------------------------------------------


def test_maps_of_a_clip_are_those_of_its_frames_as_photographs(tmp_path, network, photograph):
    source = make_clip(tmp_path / "a.mp4", [photograph(61, 83, seed=i) for i in range(6)], layout="yuv444p")
    with open_clip(source) as clip, write_clip(tmp_path / "b.mp4", clip) as writer:
        rows = list(maps.predict(clip.frames, network))
        for frame, saliency in rows:
            writer.add(saliency, frame.time)
    assert [frame.time for frame, _ in rows] == [Fraction(i, 25) for i in range(6)]
    for (frame, saliency), written in zip(rows, read(tmp_path / "b.mp4"), strict=True):
        png = tmp_path / "frame.png"
        Image.fromarray(frame.pixels).save(png)
        expected = network.predict(png)
        np.testing.assert_array_equal(saliency / np.float32(255), expected)
        assert np.abs(written.pixels[..., 0] - expected * 255).mean() < 2


def test_peak_of_the_map_follows_a_bright_blob(tmp_path, network):
    # With positive weights and no biases, a map is a photograph's brightness, blurred.
    arrays = {name: np.abs(values) * name.endswith("kernel") for name, values in network.arrays.items()}
    bright = msinet.network.from_arrays(arrays, (240, 320))
    rows, columns = np.mgrid[:120, :160]
    background = np.random.default_rng(0).integers(0, 100, (120, 160, 3))
    centers = [48 + 8 * i for i in range(11)]
    frames = []
    for center in centers:
        blob = np.exp(-((columns - center) ** 2 + (rows - 60) ** 2) / (2 * 8**2))[..., None]
        frames.append((background * (1 - blob) + 255 * blob).astype(np.uint8))
    with open_clip(make_clip(tmp_path / "a.mp4", frames)) as clip:
        peaks = [np.argmax(saliency.max(axis=0)) for _, saliency in maps.predict(clip.frames, bright)]
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


def test_smoothing_starts_anew_at_a_cut(network, photograph):
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
        return maps.is_cut(maps._thumbnail(before), maps._thumbnail(after))

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
