"""Writing videos: of the same size, times, colors and sound as a clip, complete or not at all."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import BT709, FULL, LIMITED, RAMP, av, copy, make_clip, noise, packets_of, read, sound_of, still

from msinet import utils
from msinet.videos.reading import open_clip
from msinet.videos.writing import write_clip


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (47, 63)])
@pytest.mark.parametrize("count", [1, 10])
def test_video_has_the_size_times_and_duration_of_its_clip(tmp_path, size, count):
    times = [0, 33, 70, 90, 400, 1000, 1001, 1100, 1300, 1340][:count]
    layout = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    source = make_clip(tmp_path / "a.mkv", still(count, *size), layout=layout, times=times, time_base=Fraction(1, 1000))
    clip, frames, _ = copy(source, tmp_path / "out" / "a.mp4")
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


def test_same_maps_give_the_same_video_each_time(tmp_path):
    source, (y, x) = make_clip(tmp_path / "a.mp4", still(9)), np.mgrid[:48, :64]
    blobs = [255 * np.exp(-((x - 20 - 3 * i) ** 2 + (y - 24) ** 2) / np.float32(300)) for i in range(9)]
    videos = set()
    for _ in range(25):  # With libx264's macroblock tree, one in twenty differed.
        with open_clip(source) as clip, write_clip(tmp_path / "b.mp4", clip) as writer:
            for frame, blob in zip(clip.frames, blobs, strict=True):
                writer.add(blob, frame.time)
        videos.add((tmp_path / "b.mp4").read_bytes())
    assert len(videos) == 1


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
    copy(source, tmp_path / "b.mp4")
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
    _, _, note = copy(source, tmp_path / "b.mp4", sound=True)
    assert not note
    original, copied = sound_of(source), sound_of(tmp_path / "b.mp4")
    if sound == "libopus":
        # Matroska's times are in milliseconds: the copy starts half a millisecond later. It ends with some silence.
        assert packets_of(tmp_path / "b.mp4") == packets_of(source)
        original, copied = original[:, 24 + 960 :], copied[:, 960 : 57_600 - 24]
        np.testing.assert_allclose(copied, original, atol=1e-3)
    else:
        np.testing.assert_array_equal(copied, original)
    copy(source, tmp_path / "c.mp4")
    with av.open(str(tmp_path / "c.mp4")) as silent:
        assert not silent.streams.audio


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
from msinet.videos.reading import open_clip
from msinet.videos.writing import write_clip
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
