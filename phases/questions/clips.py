"""Clips in `regions` and `crop`: the share of attention of areas over time, and a crop that follows attention."""

import contextlib
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...attention.areas import Area, find_pixels, parse_ratio
from ...attention.crops import crop, crop_sizes
from ...attention.density import MEANING
from ...attention.follow import follow
from ...attention.regions import measure, totals
from ...image_files import Unreadable
from ...progress import ProgressBar
from ...utils import UserError, count, whole_folder, write_record
from ...videos.maps import is_cut, predict, sample, thumbnail
from ...videos.reading import Clip, Frame, is_clip, is_live, named_clip
from ...videos.writing import write_clip
from .maps import MapOptions, describe, load_density, load_network
from .tables import print_totals, write_csv


def names_clip(path: Path) -> bool:
    """Whether a path is that of a clip.

    Raises:
        UserError: it is a camera or a stream.
    """
    address = path.as_posix().replace(":/", "://", 1)  # as it was before it became a path
    if is_live(address):
        raise UserError(f"{address} is a camera or a stream, expected a file: record it, and name the recording.")
    return is_clip(path)


def regions_of_clip(path: Path, areas: Mapping[str, Area], options: Any, target: Path) -> int:
    """Measure areas, the same in all frames, in every frame of a clip; write tables, a plot over time and the record.

    Returns:
        The exit status: 1 if the clip is damaged, else 0.
    """
    density, network = load_density(options), load_network(options)
    table, rows = [], []
    with named_clip(path) as clip, contextlib.closing(_maps(clip, network, options)) as maps:
        pixels = None
        for frame, saliency in maps:
            pixels = pixels or find_pixels(areas, saliency.shape)
            found = measure(saliency / np.float32(255), pixels, density)
            rows += found
            table += [{"time": float(frame.time), **asdict(row)} for row in found]
    means = [asdict(mean) for mean in totals(rows)]
    with whole_folder(target) as folder:
        write_csv(folder / "regions.csv", table)
        write_csv(folder / "totals.csv", means)
        _plot(table, list(areas), folder / f"{path.stem}.png")
        settings = {"every": options.every, "fps": options.fps, "smooth": options.smooth, "totals": means}
        _write_record(folder / f"{target.name}.json", clip, network, options, settings)
    print_totals(means, "frames")
    print(f"{MEANING}\n{count(len(table) // len(areas), 'frame')} measured; see {target}.")
    return _report(clip)


def crop_clip(path: Path, ratios: Sequence[str], options: Any, target: Path) -> int:
    """Crop a clip so that the crop follows attention, and write videos with its sound, a table and the record.

    The clip is read twice.

    Returns:
        The exit status: 1 if the clip is damaged, else 0.
    """
    density, network = load_density(options), load_network(options)
    times, cuts, before = [], [], None
    corners: dict[str, list] = {ratio: [] for ratio in ratios}
    shape = (0, 0)
    with named_clip(path) as clip, contextlib.closing(_maps(clip, network, options)) as maps:
        for frame, saliency in maps:
            shape, after = saliency.shape, thumbnail(frame.pixels)
            if before is not None and is_cut(before, after):
                cuts.append(len(times))
            before = after
            times.append(float(frame.time))
            for ratio in ratios:
                best = crop(saliency, ratio, density=density)
                corners[ratio].append((best.x, best.y))
    table = []
    with whole_folder(target) as folder:
        for ratio in ratios:
            # Sides are even, because most players show no other videos.
            size = tuple(max(2, side - side % 2) for side in crop_sizes(shape, parse_ratio(ratio), 1)[0])
            moved = follow(np.array(corners[ratio]), np.array(times), options.speed * max(shape), cuts)
            boxes = np.round(np.clip(moved, 0, np.array(shape[::-1]) - size[::-1])).astype(int)
            _write_crop(path, boxes, size, folder / f"{path.stem}_{ratio.replace(':', 'x')}.mp4")
            for time, (x, y) in zip(times, boxes.tolist(), strict=True):
                table.append({"ratio": ratio, "time": time, "x": x, "y": y, "width": size[1], "height": size[0]})
        write_csv(folder / "crops.csv", table)
        settings = {"ratios": list(ratios), "speed": options.speed, "cuts": [times[cut] for cut in cuts]}
        _write_record(folder / f"{target.name}.json", clip, network, options, settings)
    print(f"{MEANING}\n{count(len(ratios), 'crop')} of {count(len(times), 'frame')} written to {target}.")
    return _report(clip)


def _maps(clip: Clip, network, options: MapOptions) -> Generator[tuple[Frame, np.ndarray], None, None]:
    """The frames that the options choose, by default all, with their maps, 0 to 255; at least one."""
    frames = sample(clip.frames, getattr(options, "every", 1), getattr(options, "fps", None))
    smooth = getattr(options, "smooth", 0)
    predicted = predict(frames, network, batch_size=options.params["batch_size"], smooth=smooth)
    last = None
    with contextlib.closing(predicted) as rows:
        for last in ProgressBar(rows, total=clip.length or None, unit="frame"):
            yield last
    if last is None:
        raise Unreadable(clip.error or "it has no frames")


def _write_crop(path: Path, boxes: np.ndarray, size: tuple[int, ...], target: Path) -> None:
    height, width = size
    with named_clip(path) as clip, write_clip(target, clip, sound=True) as writer:
        for frame, (x, y) in zip(clip.frames, boxes, strict=True):
            writer.add(frame.pixels[y : y + height, x : x + width], frame.time)


def _plot(table: Sequence[Mapping], areas: Sequence[str], file: Path) -> None:
    """Draw each area's share of attention over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name in areas:
        rows = [row for row in table if row["name"] == name]
        axes.plot([row["time"] for row in rows], [100 * row["share_of_attention"] for row in rows], label=name)
    axes.set(xlabel="seconds", ylabel="share of attention, %", ylim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=150)


def _write_record(file: Path, clip: Clip, network, options: MapOptions, settings: dict) -> None:
    content = describe(options, network.record(), [clip.error] if clip.error else [])
    write_record(file, {"path": clip.source, **content, **settings})


def _report(clip: Clip) -> int:
    if clip.error:
        print(f"error: {clip.source}: {clip.error}; the frames before are used.", file=sys.stderr)
    return 1 if clip.error else 0
