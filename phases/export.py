"""The `export` phase: write the network in the format of another runtime, and prove it there on a photograph."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..bundled import BUNDLED
from ..config import EXPORTS
from ..installation import install_command
from ..photographs import sample_photograph
from ..utils import UserError, check_replaceable, check_writable, quiet_stderr, whole_folder, write_record

# The greatest accepted difference from the program's maps, which go from 0 to 1, by the bits of a weight.
BOUNDS = {32: 1e-4, 16: 2e-3, 8: 0.15}

# Every export contains this file, which is written last. A folder without it is never replaced.
CHECK_FILE = "check.json"


@dataclass(frozen=True)
class Options:
    """The flags of `export`; `params` is `config.PARAMS` with the user's changes."""

    format: str
    params: dict
    data: str = "salicon"
    weights: str | None = None
    bits: int = 32
    output: Path | None = None
    calibration: Path | None = None
    input_size: tuple[int, int] | None = None


def run(options: Options) -> None:
    """Write an export, prove it, and keep it only if it is right.

    Raises:
        UserError: a package is missing, the folder contains other files or cannot be written, or the export differs too
            much.
    """
    name, bits, photograph = options.format, options.bits, sample_photograph()
    if bits not in EXPORTS[name]:
        offered = " or ".join(str(offered) for offered in EXPORTS[name])
        raise UserError(f"--format {name} has {offered} bits a weight, not {bits}.")
    with quiet_stderr():
        from ..network import load
        from .formats import FORMATS, hub, proof
        from .formats.card import describe_export, describe_use
        from .formats.node import install_node_packages
    parts = FORMATS[name]
    require_packages(name, (package for part in parts for package in part.packages))
    if name == "tfjs":
        install_node_packages()
    results = Path(options.params["results"])
    check_writable((options.output or results / "exports" / name).parent)
    network = load(options.weights, data=options.data, results=results, input_size=options.input_size, device="cpu")
    variant = network.architecture.variant.replace(" ", "")
    print(f"Network: {network.weights.path.name} ({network.weights.reason}).")
    source = options.data
    if options.weights and options.weights not in ("published", *BUNDLED):
        source = Path(options.weights).name.split(".")[0]
    output = options.output or results / "exports" / f"{source}_{variant}_{name}_{bits}"
    check_replaceable(output, CHECK_FILE)
    proof.require_space(len(parts), network, output.parent)
    calibrate = "Calibrate with about ten photographs like yours (--calibration FOLDER), use --bits 16 or"
    advice = f"{calibrate if bits == 8 else 'Use'} --bits 32, or report this with the output of 'python -m pip freeze'."
    with whole_folder(output) as folder, proof.named_failures(output):
        images = proof.read_calibration(options.calibration or photograph, network) if bits == 8 else ()
        for part in parts:
            part.write(network, folder, bits, images)
            part.accompany(folder)
        rows = proof.prove(parts, network, folder, photograph, BOUNDS[bits], advice)
        proven = list(zip(parts, rows, strict=True))
        use = "\n\n".join(describe_use(part, network, row) for part, row in proven)
        title = " and ".join(part.runtime for part in parts)
        text = describe_export(title, [part.file for part in parts], network, options.data, bits, use)
        if name == "hub":
            hub.write_repository(network, folder, text)
        else:
            (folder / "MODEL.md").write_text(text, encoding="utf-8")
        record = {"format": name, "bits": bits, "data": options.data, "bound": BOUNDS[bits]}
        write_record(folder / CHECK_FILE, record | proof.record(parts, network, photograph, rows))
    for part, row in proven:
        print(
            f"Greatest difference from the program's maps, run in {part.runtime}: {row['difference']:.1e} of the "
            f"network, {row['example_difference']:.1e} of the example in the text (at most {BOUNDS[bits]})."
        )
    print(f"The export is in {output}; {'README' if name == 'hub' else 'MODEL'}.md there says how to use it.")


def require_packages(name: str, packages: Iterable[str]) -> None:
    """Raise a `UserError` that names the first package of a format that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--format {name} needs the package {package}, which is not installed: run "
                f"'{install_command('export')}'."
            )
