"""The `download` phase: datasets and published weights, by name."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import download
from ..acquisition import datasets
from ..utils import UserError, count


@dataclass(frozen=True)
class Options:
    """What to download.

    Attributes:
        data: a key of `datasets.DATASETS`, or "all".
        path: the target folder; None for the default.
        weights: whether to download weights instead of datasets.
        source: an archive, a folder of archives, or a mirror; see `download.dataset`.
        list: whether only to show the datasets.
        params: see `config.PARAMS`; not used.
    """

    data: str
    path: Path | None
    weights: bool
    source: str | None
    list: bool
    params: Mapping


def listing(width: int) -> str:
    """The datasets, their terms and citations as text, in lines of at most so many characters."""
    paragraphs = []
    for name, row in datasets.DATASETS.items():
        size = f"{row.bytes / 1e6:.0f} MB" if row.bytes else "size not measured"
        facts = f"{name:9} {row.title}: {count(row.images, 'image')}, {count(row.observers, 'observer')}"
        lines = [f"{facts}{' (mouse)' if row.mouse else ''}, {size}", f"Terms: {row.terms}", f"Cite: {row.citation}"]
        for indent, line in zip(("", " " * 10, " " * 10), lines, strict=True):
            paragraphs += textwrap.wrap(line, max(width, 40), initial_indent=indent, subsequent_indent=" " * 10)
    return "\n".join(paragraphs)


def run(options: Options) -> int:
    """Download everything that was asked for; returns 2 if something failed."""
    if options.list:
        print(listing(shutil.get_terminal_size().columns))
        return 0
    names = list(datasets.DATASETS) if options.data == "all" else [options.data]
    fetch: Callable = download.weights if options.weights else download.dataset
    if options.weights:
        names = [f"model_{name}_cpu" for name in names] + (["vgg16_hybrid"] if "salicon" in names else [])
    folder = options.path or (download.WEIGHTS_FOLDER if options.weights else Path("data"))
    failures = 0
    for name in names:
        try:
            print(f"{name}: {fetch(name, folder, options.source)}", flush=True)
        except UserError as error:
            # One dead host must not stop the downloads from others.
            print(f"error: {error}", file=sys.stderr, flush=True)
            failures += 1
    return 2 if failures else 0
