"""MSI-Net: predicts where people look in photographs. Run `python main.py --help`."""

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
from pathlib import Path

if not __package__:
    # Run as a script from a clone: register the folder as the package msinet, whatever its name is (PEP 366).
    from importlib import util

    _root = Path(__file__).resolve().parent
    _spec = util.spec_from_file_location("msinet", _root / "__init__.py", submodule_search_locations=[str(_root)])
    assert _spec and _spec.loader
    sys.modules["msinet"] = util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["msinet"])
    # Python added the folder to sys.path, where our modules `data` and `utils` would shadow those of other packages.
    sys.path = [folder for folder in sys.path if Path(folder).resolve() != _root]
    __package__ = "msinet"

from .acquisition import datasets
from .arguments import (
    add_compare,
    add_crop,
    add_data,
    add_frames,
    add_input_size,
    add_mirrored,
    add_params,
    add_path,
    add_regions,
    add_verbose,
    add_weights,
    counting,
    params_of,
    path_or_address,
    pixel_count,
    port_number,
)
from .config import EXPORTS, MAX_PIXELS, VERSION
from .flags import add_evaluate, add_reproduce, add_train
from .installation import command
from .parser import Parser, image_format
from .terminal import quiet_stderr, run_with_streams
from .utils import UserError


def entry_point() -> int:
    """Run the command line from a shell; returns the exit status."""
    return run_with_streams(main)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    try:
        return run_phase(options) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"error: {error}. Check the path, its permissions and the free disk space.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_phase(options: argparse.Namespace) -> int | None:
    """Run a phase with its `Options`, whose fields have the names of the flags.

    Modules in `phases/`, except `demo`, import neither TensorFlow nor Keras at the top, so mistakes are reported at
    once. They check their options first, and then import the modules that need TensorFlow inside `run`.
    """
    with quiet_stderr() if options.phase == "demo" else contextlib.nullcontext():
        phase = importlib.import_module(f".phases.{options.phase}", __package__)
    values = vars(options) | {"params": params_of(options)}
    return phase.run(phase.Options(**{field.name: values[field.name] for field in dataclasses.fields(phase.Options)}))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog=command().removeprefix("python "), description="MSI-Net: visual saliency prediction.")
    parser.add_argument("--version", action="version", version=f"MSI-Net {VERSION}")
    phases = parser.add_subparsers(title="phases", dest="phase", required=True, metavar="PHASE")
    for name, (add_flags, text) in PHASES.items():
        phase = phases.add_parser(
            name, help=text, description=f"{text.capitalize()}.", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add_flags(phase)
    if "_ARGCOMPLETE" in os.environ:  # The shell requests completions.
        import argcomplete

        argcomplete.autocomplete(parser)
    parser.greet(arguments, PHASES)
    options, rest = parser.parse_known_args(arguments)
    # argparse accepts positional arguments only in a row; in 'test a.jpg --overlay b.jpg' it leaves b.jpg in `rest`.
    if rest and (options.phase != "test" or any(word.startswith("-") for word in rest)):
        parser.reject(rest, options.phase)
    if rest:
        options.photographs += [path_or_address(word) for word in rest]
    return options


# --- Flags: one function per phase ------------------------------------------------------------------------------------


def add_download(phase: argparse.ArgumentParser) -> None:
    add_data(phase, names=(*datasets.DATASETS, "all"))
    text = "folder for the datasets' folders, or for weights (default: data, or where other phases look for weights)"
    add_path(phase, text, default=None)
    text = "download the published network for DATA instead, and VGG16 too if DATA is salicon"
    phase.add_argument("--weights", action="store_true", help=text)
    text = "an archive, a folder of archives, or the address of a mirror (default: the published addresses)"
    phase.add_argument("--from", dest="source", metavar="PATH_OR_URL", help=text)
    phase.add_argument("--list", action="store_true", help="only show the datasets, their terms and citations")


def add_test(phase: argparse.ArgumentParser) -> None:
    add_data(phase, "dataset whose weights and input size are used: ")
    add_weights(phase)
    text = (
        "photographs, clips, folders of them, or patterns such as 'photos/*.jpg'; or a camera such as /dev/video0, or "
        "the address of a stream (default: the sample photograph of Matplotlib)"
    )
    phase.add_argument("photographs", nargs="*", type=path_or_address, metavar="PATH", help=text)
    text = "the same as PATH without a flag; may be repeated"
    phase.add_argument("-p", "--path", type=path_or_address, nargs="+", action="extend", default=[], help=text)
    text = "file format of the maps; those of clips become videos, or with npy one .npz file (default: jpeg)"
    phase.add_argument("--format", type=image_format, choices=("jpeg", "png", "npy"), default="jpeg", help=text)
    phase.add_argument("--overlay", action="store_true", help="also write the originals blended with their maps")
    add_input_size(phase, auto=True)
    add_mirrored(phase)
    text = (
        "litert starts in a second, without TensorFlow, on a processor, with --weights medium or lite; maps "
        "differ by at most one gray level (default: tensorflow; docs/performance.md)"
    )
    phase.add_argument("--engine", choices=("tensorflow", "litert"), default="tensorflow", help=text)
    add_verbose(phase)
    text = f"reject photographs with more pixels, which would take too much memory (default: {MAX_PIXELS})"
    phase.add_argument("--max-pixels", type=pixel_count, default=MAX_PIXELS, help=text)
    add_params(phase, "test")
    add_frames(phase)
    group = phase.add_argument_group("many photographs, on many machines (docs/cluster.md)")
    text = (
        "predict with Ray on all cores of this machine, or on the cluster at ADDRESS, such as ray-head:6379 or "
        "auto; --path may then be a list of photographs (.txt or .parquet), and both --path and --results may be "
        "addresses such as s3://bucket/folder; photographs that an earlier run finished are skipped"
    )
    group.add_argument("--cluster", nargs="?", const="local", metavar="ADDRESS", help=text)
    group.add_argument("--workers", type=counting, help="processes that predict (default: one per core or per GPU)")
    group.add_argument("--shards", action="store_true", help="write the maps into the index, not as separate files")
    group.add_argument("--restart", action="store_true", help="start over if results of another run exist")


def add_submit(phase: argparse.ArgumentParser) -> None:
    text = "benchmark to write the files for"
    phase.add_argument("-d", "--data", choices=datasets.BENCHMARKS, required=True, help=text)
    add_path(phase, "folder of the benchmark's test photographs", default=None, required=True)
    add_weights(phase)
    phase.add_argument("--density", type=Path, metavar="FILE", help="use a density that 'evaluate --fit' saved")
    text = "accept any number of photographs, and mark the files as a trial"
    phase.add_argument("--trial", action="store_true", help=text)
    add_input_size(phase)
    add_params(phase, "submit")


def add_export(phase: argparse.ArgumentParser) -> None:
    text = "format of the export; hub is a folder to push to Hugging Face"
    phase.add_argument("--format", choices=EXPORTS, required=True, help=text)
    add_data(phase, "dataset whose weights and input size are used: ")
    add_weights(phase)
    text = "bits per weight; onnx, tflite and tfjs offer 16, tflite also 8 (default: 32)"
    bits = sorted({bits for offered in EXPORTS.values() for bits in offered}, reverse=True)
    phase.add_argument("--bits", type=int, choices=bits, default=32, help=text)
    phase.add_argument("--output", type=Path, help="folder to write (default: one below results/exports)")
    text = "photograph, or folder of photographs, for calibrating 8 bits"
    phase.add_argument("--calibration", type=Path, metavar="PATH", help=text)
    add_input_size(phase)
    add_params(phase, "export")


def add_demo(phase: argparse.ArgumentParser) -> None:
    add_data(phase, "dataset whose weights are used: ")
    add_weights(phase)
    text = "port of this computer that serves the page; 0 for any free one (default: 8000)"
    phase.add_argument("--port", type=port_number, default=8000, help=text)
    phase.add_argument("--static", type=Path, metavar="DIR", help="write the page as a folder, and do not serve it")
    phase.add_argument("--no-browser", action="store_true", help="do not open the browser")
    add_params(phase, "demo")


PHASES = {
    "train": (add_train, "train on a dataset, or resume an interrupted run"),
    "download": (add_download, "download datasets or published weights"),
    "test": (add_test, "predict the saliency maps of photographs"),
    "evaluate": (add_evaluate, "score predictions against fixations"),
    "regions": (add_regions, "measure the share of attention that areas receive, or find hot spots"),
    "compare": (add_compare, "compare attention between two pictures"),
    "crop": (add_crop, "crop photographs to the part that keeps the most attention"),
    "submit": (add_submit, "write the files for a benchmark"),
    "reproduce": (add_reproduce, "repeat the paper's experiments, and write a page with the results"),
    "export": (add_export, "write the network for another runtime, and check it there"),
    "demo": (add_demo, "show the network in the browser, on pictures and the webcam"),
}


if __name__ == "__main__":
    sys.exit(entry_point())
