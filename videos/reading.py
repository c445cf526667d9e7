"""Reading clips: frames in order, upright, as RGB, with the times at which they are shown."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ..config import MAX_PIXELS
from ..image_files import Unreadable
from ..utils import UserError

CLIP_SUFFIXES = (".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")
ANIMATION_SUFFIXES = (".apng", ".gif", ".png", ".webp")  # They may also hold a single photograph.

# Schemes of addresses that FFmpeg reads as streams; others are those of object stores.
STREAMS = ("http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")

# Browsers show frames of an animation without a duration for this long.
DEFAULT_DURATION = Fraction(1, 10)

# Matroska files record the video's duration. If more than this is missing, the file was cut off.
MISSING_SECONDS = Fraction(1, 4)

# A stream ends after this many seconds without data.
STREAM_TIMEOUT = 30

# FFmpeg's numbers. Older versions of PyAV have no names for them. The fast conversion (bilinear) is off by up to 1 gray
# level for 8 bits, and by up to 2 for 10; the precise one (bicubic, with accurate rounding and full chroma) is slower.
FAST, PRECISE = 2, 4 | 0x2000 | 0x40000
LIMITED_RANGE, FULL_RANGE = 1, 2
BT709, UNSPECIFIED = 1, 2  # color matrices
HIGH_RANGES = {16: "PQ", 18: "HLG"}  # transfer functions of high dynamic range


@dataclass(frozen=True)
class Frame:
    """One frame of a clip.

    Attributes:
        pixels: RGB, uint8 (H, W, 3), upright.
        time: when the frame is shown, in seconds from the start of the clip, exactly as in the file.
        duration: how long it is shown, in seconds.
    """

    pixels: np.ndarray
    time: Fraction
    duration: Fraction


@dataclass
class Clip:
    """An open clip; `open_clip` makes one.

    Attributes:
        source: its file, or the address of a camera or stream.
        rate: frames per second, on average.
        time_base: the file's unit of time, in seconds; times of frames are multiples of it.
        pixel_aspect: width of a pixel divided by its height.
        start: time in the file that counts as 0.
        live: whether it is a camera or stream, which has no end.
        high_range: the name of its high dynamic range, which is not converted; empty for others.
        length: the number of frames that the file declares, for a progress bar; 0 if unknown.
        frames: the frames, which can be read once.
        end: when the last frame that was read ends, in seconds.
        error: why the frames ended before the clip, in a few words; empty if they did not.
    """

    source: str
    rate: Fraction
    time_base: Fraction
    pixel_aspect: Fraction = Fraction(1)
    start: Fraction = Fraction(0)
    live: bool = False
    high_range: str = ""
    length: int = 0
    frames: Iterator[Frame] = field(default=iter(()), repr=False)
    end: Fraction = Fraction(0)
    error: str = ""


def pyav() -> ModuleType:
    """The package PyAV, which includes FFmpeg.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "Videos need the package av, which is not installed: run 'pip install -r requirements-video.txt'."
        ) from error
    av.logging.set_level(None)  # Silences FFmpeg's log; errors are raised anyway.
    return av


def is_live(source: str | Path) -> bool:
    """Whether a source is a camera or a stream, not a file."""
    return str(source).partition("://")[0] in STREAMS or str(source).startswith("/dev/video")


def is_clip(path: Path) -> bool:
    """Whether a file is a clip: by its name, or because it is an image with several frames."""
    suffix = path.suffix.lower()
    return suffix in CLIP_SUFFIXES or (suffix in ANIMATION_SUFFIXES and is_animation(path))


def is_animation(path: Path) -> bool:
    """Whether a file is a GIF, WebP or PNG with several frames."""
    if not path.is_file():  # Pipes and devices may never end.
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("GIF", "PNG", "WEBP")) as image:
                return getattr(image, "is_animated", False)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return False


@contextlib.contextmanager
def open_clip(source: str | Path, most_pixels: int = MAX_PIXELS) -> Iterator[Clip]:
    """Open a clip for reading.

    Args:
        source: a file, or the address of a camera ("/dev/video0") or stream ("rtsp://...").
        most_pixels: a clip with larger frames is rejected.

    Yields:
        The clip. Its `frames` must not be in use by another thread when the block ends.

    Raises:
        Unreadable: it is not a clip, or has no picture; the message gives the reason in a few words.
        UserError: PyAV is not installed.
    """
    if not is_live(source) and is_animation(Path(source)):
        with Image.open(source) as image:
            _check_size(image.size, most_pixels)
            clip = Clip(str(source), Fraction(0), Fraction(1, 1000), length=getattr(image, "n_frames", 1))
            clip.rate = 1 / _duration(image)
            clip.frames = _animation(clip, image)
            yield clip
        return
    av = pyav()
    options: dict[str, Any] = {"timeout": STREAM_TIMEOUT} if is_live(source) else {}
    if str(source).startswith("/dev/video"):
        options["format"] = "v4l2"
    try:
        container = av.open(str(source), **options)
    except av.FFmpegError as error:
        raise Unreadable(f"not a video that can be read ({error.strerror})") from error
    with container:
        # Cover art is a video stream, too.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise Unreadable("it has no picture" + (", only sound" if container.streams.audio else ""))
        stream = streams[0]
        stream.thread_type = "AUTO"
        if stream.codec_context is None:
            raise Unreadable("its picture has an unknown format")
        _check_size((stream.codec_context.width, stream.codec_context.height), most_pixels)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        starts = [
            each.start_time * each.time_base
            for each in (*container.streams.video, *container.streams.audio)
            if each.start_time is not None
        ]
        clip = Clip(
            str(source),
            rate,
            stream.time_base,
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
            start=max(min(starts, default=Fraction(0)), Fraction(0)),  # Audio may start before 0.
            live=is_live(source),
            high_range=HIGH_RANGES.get(stream.codec_context.color_trc, ""),
            length=stream.frames or round((container.duration or 0) / 1_000_000 * rate),
        )
        clip.frames = _frames(clip, container, stream)
        yield clip


@contextlib.contextmanager
def named_clip(source: str | Path, most_pixels: int = MAX_PIXELS) -> Iterator[Clip]:
    """Like `open_clip`, but what is `Unreadable`, in the block too, becomes a `UserError` that names the source."""
    try:
        with open_clip(source, most_pixels) as clip:
            yield clip
    except Unreadable as error:
        raise UserError(f"{source}: {error}.") from error


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if width * height > most_pixels:
        raise Unreadable(f"its frames have {width}×{height} pixels, expected at most {most_pixels}; see --max-pixels")


# --- Videos -----------------------------------------------------------------------------------------------------------


def _frames(clip: Clip, container, stream) -> Iterator[Frame]:
    av = pyav()
    size = None
    try:
        for image in _decoded(clip, container, stream):
            duration = image.duration * clip.time_base if image.duration else 1 / clip.rate
            time = clip.end if image.pts is None else image.pts * clip.time_base - clip.start
            if size is None:
                size = image.width, image.height
                if clip.live:  # Its clock may have started long ago.
                    clip.start, time = clip.start + time, Fraction(0)
            yield Frame(_turn(_rgb(image, size), image), time, duration)
            clip.end = time + duration
    except (av.FFmpegError, Unreadable):
        clip.error = f"damaged after {float(clip.end):.2f} s"
    if size is None:
        clip.error = "none of its frames can be read"
    elif not clip.error and clip.end < _promised(stream) - clip.start - MISSING_SECONDS:
        clip.error = f"cut off after {float(clip.end):.2f} s"


def _decoded(clip: Clip, container, stream) -> Iterator:
    """FFmpeg's frames up to the first damage, which is raised.

    Corrupt frames before the first good one are skipped, because recorded broadcasts start mid-stream. Live streams
    continue after damage.
    """
    av = pyav()
    started = False
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt and not clip.live:
                raise Unreadable("damaged")
            for frame in packet.decode():
                if not frame.is_corrupt:
                    started = True
                    yield frame
                elif started and not clip.live:
                    raise Unreadable("damaged")
    except (av.FFmpegError, Unreadable):
        with contextlib.suppress(av.FFmpegError):
            yield from (frame for frame in stream.decode(None) if not frame.is_corrupt)
        raise


def _promised(stream) -> Fraction:
    """The end of the video according to a Matroska file; 0 for other formats, where FFmpeg detects damage."""
    hours, minutes, seconds = (stream.metadata.get("DURATION") or "0:0:0").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def _rgb(image, size: tuple[int, int]) -> np.ndarray:
    """RGB of full range, (H, W, 3), from any format, range and color matrix; of the first frame's size."""
    width, height = size
    precise = max(component.bits for component in image.format.components) > 8
    # As players do: without a tag, FFmpeg would assume the standard-definition matrix at any size.
    untagged = image.colorspace == UNSPECIFIED and image.height >= 720
    return image.reformat(
        width,
        height,
        "rgb24",
        src_colorspace=BT709 if untagged else None,
        interpolation=PRECISE if precise else FAST,
    ).to_ndarray()


def _turn(pixels: np.ndarray, image) -> np.ndarray:
    """Apply the display matrix, in which phones record their orientation; it may also mirror."""
    matrix = image.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # A pixel of column p and row q goes to column a p + c q and row b p + d q.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


# --- Animated images --------------------------------------------------------------------------------------------------


def _animation(clip: Clip, image) -> Iterator[Frame]:
    """The frames of an animated GIF, WebP or PNG, by Pillow: FFmpeg cannot read WebP, and its GIF durations differ."""
    try:
        for number in range(image.n_frames):
            image.seek(number)
            frame = Frame(np.asarray(image.convert("RGB")), clip.end, _duration(image))
            yield frame
            clip.end += frame.duration
    except (OSError, ValueError, SyntaxError, EOFError):
        clip.error = f"damaged after {float(clip.end):.2f} s"


def _duration(image) -> Fraction:
    """How long an animation's current frame is shown. Pillow gives milliseconds, for WebP after the frame is loaded."""
    image.load()
    milliseconds = round(image.info.get("duration") or 0)
    return Fraction(milliseconds, 1000) if milliseconds else DEFAULT_DURATION
