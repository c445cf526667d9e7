"""Clips in the `test` phase: from videos, animations, cameras and streams to videos of their saliency maps."""

import contextlib
import itertools
import math
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from ..data import Unreadable, list_images
from ..photographs import Options, find_images, output_paths
from ..utils import count, list_files, only_python_on_stderr, parallel_map
from ..videos.maps import predict, sample
from ..videos.reading import CLIP_SUFFIXES, Clip, Frame, is_clip, is_live, open_clip, pyav
from ..videos.writing import Archive, Writer, write_archive, write_clip


class Source(NamedTuple):
    """A clip to predict: its file or address, and the files to write."""

    source: Path | str
    maps: Path
    overlay: Path


def find_sources(path: Path | str) -> tuple[list[Path], list[Path | str]]:
    """The photographs and the clips that `path` names: itself, or all below it.

    Raises:
        UserError: there is none, a folder cannot be read, or there are clips but no PyAV.
    """
    images: list[Path] = []
    clips: list[Path | str] = [path]
    if not is_live(path):
        path = Path(path)
        videos = list_files(path, CLIP_SUFFIXES) if path.is_dir() else []
        found = [] if videos and not list_images(path) else find_images(path)
        moving = {file for file in found if is_clip(file)}
        images = [file for file in found if file not in moving]
        clips = sorted({*videos, *moving})
    if clips:
        pyav()
    return images, clips


def without_password(source: Path | str) -> str:
    """A path, or an address without the name and password that it may contain."""
    if "://" not in str(source):
        return str(source)
    parts = urlsplit(str(source))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def predict_clips(network, clips: Sequence[Path | str], root: Path | str, options: Options) -> dict:
    """Predict clips into `results/videos/`, and with `--overlay` into `results/overlays/` too; print the outcome.

    Args:
        network: a `network.Network`.
        clips: see `find_sources`.
        root: the folder that contains them, or the only clip itself.
        options: which frames to predict, and how to write the maps.

    Returns:
        What the run's record says about clips; {} if there are none.
    """
    if not clips:
        return {}
    videos, failures = [], []
    for row in _name_files(clips, root, options):
        name = without_password(row.source)
        try:
            clip = predict_clip(network, row, options)
        except Unreadable as error:
            failures.append(f"{name}: {error}")
        else:
            videos.append({"path": name, "maps": str(row.maps), **clip})
            if clip["damage"]:
                failures.append(f"{name}: {clip['damage']}; the {count(clip['frames'], 'frame')} before are written")
            if clip["note"]:
                print(f"{name}: {clip['note']}.")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    print(f"{count(len(videos), 'clip')} written to {Path(options.params['results']) / 'videos'}.")
    if failures:
        print(f"{count(len(failures), 'clip')} failed.")
    settings = {"every": options.every, "fps": options.fps, "smooth": options.smooth}
    return {**settings, "clips": videos, "failed_clips": failures}


def _name_files(clips: Sequence[Path | str], root: Path | str, options: Options) -> list[Source]:
    """Name the files of clips like those of photographs; the file of a stream is called stream."""
    paths = {source: Path("stream" if "://" in str(source) else source) for source in clips}
    top = paths.get(root) or Path(root)
    results, files = Path(options.params["results"]), list(paths.values())
    maps = output_paths(files, top, results / "videos", ".npz" if options.format == "npy" else ".mp4")
    overlays = output_paths(files, top, results / "overlays", ".mp4")
    return [Source(source, maps[path], overlays[path]) for source, path in paths.items()]


def predict_clip(network, files: Source, options: Options) -> dict:
    """Predict one clip; decoding, the network and encoding run in threads of their own.

    Returns:
        What the run's record says about it: the numbers of frames and seconds, why frames are missing at the end, and
        why the overlay has no sound, both empty if it does not apply.

    Raises:
        Unreadable: it has no frame that can be read.
        OSError: a file cannot be written.
    """
    if not is_live(files.source) and not Path(files.source).is_file():
        raise Unreadable("not a regular file")
    with contextlib.ExitStack() as stack:  # Its contexts end in reverse: threads first, then files, then the clip.
        clip = stack.enter_context(open_clip(files.source, options.max_pixels))
        frames = stack.enter_context(_until_interrupted(clip.frames)) if clip.live else clip.frames
        chosen = sample(frames, options.every, options.fps)
        maps: Writer | Archive
        if options.format == "npy":
            maps = stack.enter_context(write_archive(files.maps))
        else:
            maps = stack.enter_context(write_clip(files.maps, clip))
        overlay = stack.enter_context(write_clip(files.overlay, clip, sound=True)) if options.overlay else None
        batch_size = options.params["batch_size"]
        predicted = predict(chosen, network, batch_size=batch_size, smooth=options.smooth)
        rows = stack.enter_context(contextlib.closing(predicted))
        written = stack.enter_context(contextlib.closing(_write(rows, maps, overlay)))
        stack.enter_context(only_python_on_stderr())
        name, total = Path(without_password(files.source)).name, _expected(clip, options)
        number = sum(1 for _ in tqdm(written, name, total, unit="frame", leave=False, disable=None))
        if not number:
            raise Unreadable(clip.error or "it has no frames")
    note = overlay.note if overlay else ""
    return {"frames": number, "seconds": float(clip.end), "damage": clip.error, "note": note}


def _write(
    rows: Iterator[tuple[Frame, np.ndarray]], maps: Writer | Archive, overlay: Writer | None
) -> Generator[None, None, None]:
    """Write frames' maps and overlays, in another thread; yields after each."""
    from ..images import blend  # It imports TensorFlow.

    def write(row: tuple[Frame, np.ndarray]) -> None:
        frame, saliency = row
        maps.add(saliency, frame.time)
        if overlay:
            overlay.add(blend(frame.pixels, saliency), frame.time)

    yield from parallel_map(write, rows, workers=1)


def _expected(clip: Clip, options: Options) -> int | None:
    """The number of frames to predict, as far as the file tells, for the time left."""
    if not clip.length:
        return None
    if options.fps:
        return min(clip.length, math.ceil(clip.length / clip.rate * options.fps))
    return math.ceil(clip.length / options.every)


@contextlib.contextmanager
def _until_interrupted(frames: Iterator[Frame]) -> Iterator[Iterator[Frame]]:
    """Frames of a camera or stream that end at Ctrl-C; a second Ctrl-C interrupts the program as usual."""
    stopped = threading.Event()

    def stop(number, frame):
        stopped.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield itertools.takewhile(lambda _: not stopped.is_set(), frames)
    finally:
        signal.signal(signal.SIGINT, before)
