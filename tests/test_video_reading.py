"""Reading clips: frames with exact times and colors, and clear words about damaged files."""

from fractions import Fraction

import numpy as np
import pytest
from clips import BT601, BT709, FULL, LIMITED, RAMP, UNSPECIFIED, av, make_clip, noise, read, still, truncated
from PIL import Image

from msinet.image_files import Unreadable
from msinet.videos import reading
from msinet.videos.reading import open_clip
from msinet.videos.writing import write_clip


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
        ("a.ts", "libx264", {}),
    ],
)
def test_truncated_clip_gives_the_frames_up_to_the_damage(tmp_path, name, codec, container):
    path = make_clip(tmp_path / name, noise(30), codec, container=container)
    whole = read(path)
    with open_clip(truncated(path)) as clip:
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
    with open_clip(truncated(path)) as clip:
        frames = list(clip.frames)
    assert 4 <= len(frames) <= 6 and clip.error.startswith("damaged after")


def test_missing_and_too_large_clips_are_one_clear_error(tmp_path):
    with pytest.raises(Unreadable, match="No such file"), open_clip(tmp_path / "missing.mp4"):
        pass
    with pytest.raises(Unreadable, match="64×48 pixels, expected at most 1000"):
        read(make_clip(tmp_path / "a.mp4", still(1)), most_pixels=1000)


def test_stream_starts_at_zero_and_has_no_sound_to_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "STREAMS", ("file",))
    path = make_clip(tmp_path / "a.ts", still(5), sound="aac")
    with open_clip(f"file://{path}") as clip:
        frames = list(clip.frames)
        with write_clip(tmp_path / "b.mp4", clip, sound=True) as writer:
            writer.add(frames[0].pixels, frames[0].time)
    assert writer.note == "the sound of cameras and streams is not copied"
    assert clip.live and [frame.time for frame in frames] == [Fraction(i, 25) for i in range(5)]


def test_cameras_and_streams_are_known_by_their_addresses():
    assert reading.is_live("/dev/video0") and reading.is_live("rtsp://camera/1")
    assert not reading.is_live("clip.mp4") and not reading.is_live("s3://bucket/photographs")
