"""Maps of clips: one for every frame, or for some, smoothed over time on request."""

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from ..image_files import Unreadable
from ..utils import UserError, parallel_map
from .reading import Frame, named_clip

# Frames that are decoded before the network needs them.
AHEAD = 8

# A cut is where thumbnails of this size (width, height) differ by more than this many gray levels on average, and their
# color histograms by more than this share of the pixels. Noise and slow changes of light stay below the first limit,
# motion below the second.
THUMBNAIL, DIFFERENT_LEVELS, DIFFERENT_COLORS = (32, 18), 8, 0.2


def predict_video(
    network, source: str | Path, *, every: int = 1, fps: float | None = None, smooth: float = 0, batch_size: int = 1
) -> Iterator[tuple[float, np.ndarray]]:
    """The saliency maps of a clip's frames, or of some of them, in order and in constant memory.

    This is also a method of `network.Network`.

    Args:
        network: a `network.Network`.
        source: a file, or the address of a camera ("/dev/video0") or stream ("rtsp://...").
        every, fps: see `sample`; by default, all frames are predicted.
        smooth, batch_size: see `predict`.

    Yields:
        The time of each frame, in seconds from the start, and its map, float32 (H, W), 0 to 1.

    Raises:
        UserError: the source is not a clip, or is damaged; damage raises it after the last good frame.
    """
    with named_clip(source, network.max_pixels) as clip:
        frames = sample(clip.frames, every, fps)
        with contextlib.closing(predict(frames, network, batch_size=batch_size, smooth=smooth)) as rows:
            for frame, saliency in rows:
                yield float(frame.time), saliency / np.float32(255)
        if clip.error:
            raise Unreadable(clip.error)


def predict(
    frames: Iterable[Frame], network, *, batch_size: int = 1, smooth: float = 0
) -> Generator[tuple[Frame, np.ndarray], None, None]:
    """Predict frames, in order and in constant memory; they are decoded in a separate thread.

    The network sees each frame separately and ignores motion.

    Args:
        frames: of a clip, or some of them; see `sample`.
        network: a `network.Network`.
        batch_size: frames that go through the network together.
        smooth: see `smooth_maps`; 0 for no smoothing.

    Yields:
        Each frame with its saliency map, float32 (H, W), 0 to 255. Close this generator before the clip.
    """
    waiting: deque[Frame] = deque()

    def pixels(decoded: Iterator[Frame | None]) -> Iterator[np.ndarray]:
        for frame in iter(decoded.__next__, None):
            waiting.append(frame)
            yield frame.pixels

    def maps() -> Generator[tuple[Frame, np.ndarray], None, None]:
        with contextlib.closing(_ahead(frames)) as decoded:
            for prediction in network.predictions(pixels(decoded), batch_size):
                frame = waiting.popleft()
                if prediction.saliency is None:
                    raise UserError(f"The frame at {float(frame.time):.2f} s: {prediction.error}.")
                yield frame, prediction.saliency

    return smooth_maps(maps(), smooth) if smooth else maps()


def _ahead(frames: Iterable[Frame]) -> Generator[Frame | None, None, None]:
    """The same frames, decoded in another thread; after the last, None without end."""
    source = iter(frames)
    yield from parallel_map(lambda _: next(source, None), itertools.count(), workers=1, ahead=AHEAD)


def sample(frames: Iterable[Frame], every: int = 1, fps: float | None = None) -> Iterator[Frame]:
    """Some of a clip's frames.

    Args:
        frames: all of them.
        every: keep one frame of this many.
        fps: keep at most this many frames per second: the first of each 1/fps seconds.
    """
    last = None
    for frame in itertools.islice(frames, None, None, every):
        period = None if fps is None else math.floor(frame.time * Fraction(fps))
        if period is None or period != last:
            yield frame
        last = period


def smooth_maps(
    rows: Iterable[tuple[Frame, np.ndarray]], seconds: float
) -> Generator[tuple[Frame, np.ndarray], None, None]:
    """Smooth maps over time by an exponential moving average, which restarts at each cut.

    Normalized maps are averaged, and the mean is normalized again. Averaging the network's scores before their
    normalization flickers just as much.

    Args:
        rows: frames with their maps, float32 (H, W), 0 to 255.
        seconds: the time after which a frame's weight has dropped to 1/e.

    Yields:
        Frames with smoothed maps, float32 (H, W), 0 to 255.
    """
    last = None  # the previous frame: its time, thumbnail and mean
    for frame, saliency in rows:
        small, mean = thumbnail(frame.pixels), saliency
        if last is not None and not is_cut(last[1], small):
            mean = last[2] + (saliency - last[2]) * np.float32(1 - math.exp(-(frame.time - last[0]) / seconds))
        last = frame.time, small, mean
        shifted = mean - mean.min()
        yield frame, shifted * np.float32(255 / max(shifted.max(), 1e-7))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """A small picture of a frame, uint8 (H, W, 3), for `is_cut`."""
    return np.asarray(Image.fromarray(pixels).resize(THUMBNAIL, Image.Resampling.BOX), np.float32)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether there is a cut between two frames, given their thumbnails, float32 (h, w, 3), 0 to 255."""
    if np.abs(after - before).mean() <= DIFFERENT_LEVELS:
        return False
    differences = [np.abs(_histogram(before, color) - _histogram(after, color)).sum() for color in range(3)]
    return bool(np.mean(differences) / 2 > DIFFERENT_COLORS)


def _histogram(thumbnail: np.ndarray, color: int) -> np.ndarray:
    """Shares of the pixels in 16 ranges of one color's level."""
    return np.histogram(thumbnail[..., color], 16, (0, 256))[0] / thumbnail[..., color].size
