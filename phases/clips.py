"""Clips in the `test` phase: from videos, animations, cameras and streams to videos of their saliency maps."""

import contextlib
import itertools
import math
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ..image_files import IMAGE_SUFFIXES, Unreadable
from ..photographs import Found, Options, Photograph, find_images, name_clips
from ..progress import ProgressBar
from ..utils import count, only_python_on_stderr, parallel_map
from ..videos.maps import predict, sample
from ..videos.reading import CLIP_SUFFIXES, Clip, Frame, is_clip, is_live, open_clip, pyav
from ..videos.writing import Archive, Writer, write_archive, write_clip


def find_sources(paths: Sequence[Path | str], results: Path) -> tuple[Found, dict[Path | str, Path]]:
    """The photographs and the clips that paths name.

    Args:
        paths: files, folders and patterns, see `photographs.find_images`; cameras, and addresses of streams.
        results: the folder of results, which is left out.

    Returns:
        The photographs; and for each clip the path that its maps keep. The first stream is called "stream".

    Raises:
        UserError: there is none, a folder cannot be read, or there are clips but no PyAV.
    """
    files = [path for path in paths if not is_live(path)]
    clips: dict[Path | str, Path] = {}
    for number, path in enumerate(path for path in paths if is_live(path)):
        name = f"stream-{number + 1}" if number else "stream"
        clips[path] = Path(name if "://" in str(path) else Path(path).name)
    found = find_images(files, results, (*IMAGE_SUFFIXES, *CLIP_SUFFIXES)) if files else Found({})
    clips |= {file: relative for file, relative in found.images.items() if is_clip(file)}
    if clips:
        pyav()
    return found._replace(images={file: name for file, name in found.images.items() if file not in clips}), clips


def name_sources(clips: Mapping[Path | str, Path], suffix: str) -> list[Photograph]:
    """Name the files of clips like those of photographs; `suffix` is that of photographs' maps."""
    named = name_clips([path.as_posix() for path in clips.values()], suffix)
    return [clip._replace(path=str(source)) for source, clip in zip(clips, named, strict=True)]


def without_password(source: Path | str) -> str:
    """A path, or an address without the name and password that it may contain."""
    if "://" not in str(source):
        return str(source)
    parts = urlsplit(str(source))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def predict_clips(network, clips: Sequence[Photograph], options: Options) -> dict:
    """Predict clips into `results/videos/`, and with `--overlay` into `results/overlays/` too; print the outcome.

    Returns what the run's record says about clips; {} if there are none.
    """
    if not clips:
        return {}
    videos, failures = [], []
    for row in clips:
        name = without_password(row.path)
        try:
            clip = predict_clip(network, row, options)
        except Unreadable as error:
            failures.append(f"{name}: {error}")
        else:
            videos.append({"path": name, "maps": row.map, **clip})
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


def predict_clip(network, files: Photograph, options: Options) -> dict:
    """Predict one clip; decoding, the network and encoding run in separate threads.

    Returns:
        What the run's record says about it: the numbers of frames and seconds, the frames' height and width, why
        frames are missing at the end, and remarks such as why the overlay has no sound; both may be empty.

    Raises:
        Unreadable: it has no frame that can be read.
        OSError: a file cannot be written.
    """
    results = Path(options.params["results"])
    if not is_live(files.path) and not Path(files.path).is_file():
        raise Unreadable("not a regular file")
    with contextlib.ExitStack() as stack:  # Its contexts end in reverse: threads first, then files, then the clip.
        clip = stack.enter_context(open_clip(files.path, options.max_pixels))
        frames = stack.enter_context(_until_interrupted(clip.frames)) if clip.live else clip.frames
        chosen = sample(frames, options.every, options.fps)
        maps: Writer | Archive
        overlay = None
        if options.format == "npy":
            maps = stack.enter_context(write_archive(results / files.map))
        else:
            maps = stack.enter_context(write_clip(results / files.map, clip))
        if options.overlay:
            overlay = stack.enter_context(write_clip(results / files.overlay, clip, sound=True))
        predicted = predict(chosen, network, batch_size=options.params["batch_size"], smooth=options.smooth)
        rows = stack.enter_context(contextlib.closing(predicted))
        written = stack.enter_context(contextlib.closing(_write(rows, maps, overlay)))
        stack.enter_context(only_python_on_stderr())
        name, total = Path(without_password(files.path)).name, _expected(clip, options)
        number, size = 0, (0, 0)
        for size in ProgressBar(written, name, total, unit="frame"):  # noqa: B007 - the last is used below
            number += 1
        if not number:
            raise Unreadable(clip.error or "it has no frames")
    found = {"frames": number, "seconds": float(clip.end), "height": size[0], "width": size[1]}
    notes = [f"its high dynamic range ({clip.high_range}) is not converted"] if clip.high_range else []
    notes += [overlay.note] if overlay and overlay.note else []
    return {**found, "damage": clip.error, "note": "; ".join(notes)}


def _write(
    rows: Iterator[tuple[Frame, np.ndarray]], maps: Writer | Archive, overlay: Writer | None
) -> Generator[tuple[int, int], None, None]:
    """Write frames' maps and overlays, in another thread; yields the size of each."""
    from ..images import blend  # It imports TensorFlow.

    def write(row: tuple[Frame, np.ndarray]) -> tuple[int, ...]:
        frame, saliency = row
        maps.add(saliency, frame.time)
        if overlay:
            overlay.add(blend(frame.pixels, saliency), frame.time)
        return saliency.shape

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
