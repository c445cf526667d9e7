"""Clips that tests write with PyAV, and what is in them."""

import contextlib
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from msinet.videos import reading
from msinet.videos.reading import Frame, open_clip
from msinet.videos.writing import write_clip

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
    transfer=UNSPECIFIED,
) -> Path:
    """Write a clip of RGB frames; `sound` is a codec's name, `times` are in units of the time base."""
    with usual_priority(), av.open(str(path), "w", options=dict(container)) as output:
        quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
        stream = output.add_stream(codec, rate=25, options={"crf": "10", **quiet, **dict(options)})
        context = stream.codec_context
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], layout
        stream.time_base = context.time_base = time_base
        context.color_range, context.colorspace, context.color_trc = color_range, matrix, transfer
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


@contextlib.contextmanager
def usual_priority():
    """Take back the priority that a block gives this thread, also when it fails.

    Run by root, SVT-AV1's encoder makes the thread real-time. All later threads and processes, browsers too, would
    inherit that, and leave no time for anything else.
    """
    try:
        yield
    finally:
        if sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def write_tone(output, stream, seconds):
    samples = np.sin(np.arange(int(48000 * seconds)) / 20).astype(np.float32)
    frame = av.AudioFrame.from_ndarray((samples * 20000).astype(np.int16)[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    output.mux(stream.encode(frame))
    output.mux(stream.encode())


def truncated(path: Path) -> Path:
    """Keep the first 60 % of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    return path


def cut_off(path: Path) -> Path:
    """Write a clip of 30 frames whose file ends after less than 20."""
    return truncated(make_clip(path, noise(30), container={"movflags": "faststart"}))


def copy(source: Path, target: Path, sound=False):
    """Write the frames of a clip with `write_clip`; returns the closed clip, its frames, and the writer's note."""
    with open_clip(source) as clip, write_clip(target, clip, sound) as writer:
        frames = list(clip.frames)
        for frame in frames:
            writer.add(frame.pixels, frame.time)
    return clip, frames, writer.note


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
