"""Writing videos: H.264 in MP4, with exact times and the original sound; and maps as arrays."""

import contextlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..utils import whole_file
from .reading import BT709, LIMITED_RANGE, Clip, pyav

# Gray levels of maps stay within 2 of the original. Without B-frames, durations are exact, also that of the last frame
# with the flag. With its macroblock tree, libx264 encodes the same frames differently now and then.
ENCODER = {"preset": "veryfast", "crf": "8", "bf": "0", "flags": "+frame_duration", "mbtree": "0"}


@contextlib.contextmanager
def write_clip(path: Path, clip: Clip, sound: bool = False) -> Iterator["Writer"]:
    """Write a video of the same times as a clip; a complete file or none.

    Args:
        path: the MP4 file to create or replace.
        clip: what the frames come from. When the block ends, the last frame lasts until `clip.end`.
        sound: whether to copy the clip's sound unchanged.

    Yields:
        A writer to add frames to, at least one.

    Raises:
        OSError: the disk is full, for example.
    """
    av = pyav()
    try:
        with whole_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
            writer = Writer(container, clip, sound)
            yield writer
            writer.finish()
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class Writer:
    """A video that is being written; `write_clip` makes one.

    Attributes:
        note: why the sound is not copied, in a few words; empty if it is, or if there is none.
    """

    def __init__(self, container, clip: Clip, sound: bool):
        self.note = ""
        self._container, self._clip = container, clip
        self._stream = container.add_stream("libx264", rate=clip.rate, options=ENCODER)
        self._stream.time_base = self._stream.codec_context.time_base = clip.time_base
        self._waiting = None  # The last frame, until its duration is known.
        self._last = -1
        self._sound = self._copy_sound() if sound else iter(())
        self._next_sound = next(self._sound, None)

    def _copy_sound(self) -> Iterator[tuple[Fraction, Any]]:
        """Add a stream for the clip's sound, then yield its packets with their times; it opens the source once more."""
        av = pyav()
        if self._clip.live:
            self.note = "the sound of cameras and streams is not copied"
            return
        with contextlib.suppress(av.FFmpegError), av.open(self._clip.source) as source:
            stream = source.streams.best("audio")
            if stream is None:
                return
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            if codec not in self._container.supported_codecs:
                self.note = f"its sound ({codec}) cannot be copied into an MP4 file"
                return
            copy = self._container.add_stream_from_template(stream)
            start = round(self._clip.start / stream.time_base)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream, packet.pts, packet.dts = copy, packet.pts - start, packet.dts - start
                    yield packet.dts * stream.time_base, packet

    def add(self, pixels: np.ndarray, time: Fraction) -> None:
        """Add a frame.

        Args:
            pixels: RGB, uint8 (H, W, 3), or a saliency map, float32 (H, W), 0 to 255.
            time: when it is shown, in seconds, as the clip says.
        """
        image = self._image(pixels)
        # Two frames of one time would be an error.
        image.pts = self._last = max(round(time / self._clip.time_base), self._last + 1)
        image.time_base = self._clip.time_base
        self._encode(image.pts)
        self._waiting = image

    def finish(self) -> None:
        """Write what is left, after the last frame."""
        self._encode(max(round(self._clip.end / self._clip.time_base), self._last + 1))
        self._container.mux(self._stream.encode())
        self._mux_sound(None)

    def _encode(self, end: int) -> None:
        """Encode the waiting frame, which lasts until `end` in units of the time base, and the sound until then."""
        if self._waiting is not None:
            self._waiting.duration = end - self._waiting.pts
            self._container.mux(self._stream.encode(self._waiting))
            self._mux_sound(end * self._clip.time_base)

    def _mux_sound(self, until: Fraction | None) -> None:
        while self._next_sound is not None and (until is None or self._next_sound[0] <= until):
            self._container.mux(self._next_sound[1])
            self._next_sound = next(self._sound, None)

    def _image(self, pixels: np.ndarray):
        """FFmpeg's frame of some pixels, in limited range and the color matrix BT.709, as players expect."""
        av = pyav()
        height, width = pixels.shape[:2]
        # An odd side cannot be halved, so clips with one keep all three channels at full resolution.
        layout = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        if self._waiting is None:
            self._describe(width, height, layout)
        if pixels.ndim == 3:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            return image.reformat(format=layout, dst_colorspace=BT709, dst_color_range=LIMITED_RANGE)
        planes = np.full((3, height, width) if layout == "yuv444p" else (height * 3 // 2, width), 128, np.uint8)
        planes.reshape(-1, width)[:height] = np.round(pixels * np.float32(219 / 255) + 16)
        image = av.VideoFrame.from_ndarray(planes, layout)
        image.colorspace, image.color_range = BT709, LIMITED_RANGE
        return image

    def _describe(self, width: int, height: int, layout: str) -> None:
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, layout
        context.color_range = LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = BT709  # one number for all three
        if self._clip.pixel_aspect != 1:
            context.sample_aspect_ratio = self._clip.pixel_aspect


# --- Arrays -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def write_archive(path: Path) -> Iterator["Archive"]:
    """Write maps and their times as one `.npz` file, in constant memory; a complete file or none.

    Yields:
        An archive to add maps to, at least one. The file has `times`, float64 (N,), in seconds, and `maps`, float16
        (N, H, W), 0 to 1.
    """
    with whole_file(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as values:
        archive = Archive(values)
        yield archive
        values.flush()
        maps = np.memmap(values, np.float16, "r", shape=(len(archive.times), *archive.shape))
        with temporary.open("wb") as file:
            np.savez(file, times=np.array(archive.times), maps=maps)


class Archive:
    """Maps that are being written; `write_archive` makes one. They wait in a file without a name for their number."""

    def __init__(self, values: IO[bytes]):
        self.values = values
        self.times: list[float] = []
        self.shape: tuple[int, ...] = ()

    def add(self, saliency: np.ndarray, time: Fraction) -> None:
        """Add a saliency map, float32 (H, W), 0 to 255; all have the same size."""
        self.shape = saliency.shape
        self.times.append(float(time))
        self.values.write((saliency / np.float32(255)).astype(np.float16).tobytes())
