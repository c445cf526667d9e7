"""MSI-Net: predicts where people look in photographs. Run `python main.py --help`."""

import argparse
import dataclasses
import importlib
import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from acquisition import datasets
from config import EXPORTS, MAX_PIXELS, PARAMS, RECIPES, VARIANTS, VERSION
from utils import UserError, quiet_stderr

# What `--help` says of each key of `config.PARAMS`; every key is a flag of the phases that use it.
PARAM_HELP = {
    "epochs": "passes over the training set; the total, also when a run is continued",
    "batch_size": "images that go through the network together",
    "learning_rate": "learning rate of Adam",
    "warmup_steps": "training steps over which the learning rate rises from zero",
    "cosine_decay": "let the learning rate fall to zero along a cosine",
    "weight_decay": "weight decay of the kernels, decoupled from the gradient",
    "mirror": "swap left and right in half of the training images",
    "color": "greatest relative change of brightness, contrast and saturation in training",
    "crop": "greatest share of each side that is cut away in training",
    "scales": "factors on the network's input size, of which each training step draws one",
    "weight_average": "share that a running average of the weights keeps at each step, such as 0.998; unless it is 0, "
    "the average is what validates and what is saved as best",
    "cc_weight": "weight of 1 - CC, the correlation with the true map, in the loss beside the paper's KLD",
    "nss_weight": "weight of -NSS, with the true map in the place of fixations, in the loss beside the paper's KLD",
    "gpus": "GPUs of this machine that share each training step, or that batches of photographs are dealt out to; 0 "
    "for all that TensorFlow sees",
    "cache": "decode and resize images once and keep them on the disk, where training does not vary them",
    "tensorboard": "also write losses, learning rate, images a second and a few validation maps for TensorBoard",
    "precision": "that convolutions compute in: float32, as published; bfloat16 or, on GPUs, float16, which are faster "
    "and less exact",
    "device": "layout of the network: cpu (channels-last), gpu (channels-first), or auto for what TensorFlow finds",
    "seed": "seed of shuffling, augmentation and initial weights",
    "results": "folder that receives everything a run produces",
}
VALID_FRACTION = 0.2  # of one's own photographs
MOST_INPUT_PIXELS = 2**21  # of the network's input, such as 1448×1448
SHARED_PARAMS = ("device", "results", "batch_size")
SPEED_PARAMS = ("precision", "gpus")  # where many photographs are predicted


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    try:
        return options.handler(options) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}. Check the path, its permissions and the space on the disk.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="main.py", description="MSI-Net: visual saliency prediction.")
    parser.add_argument("--version", action="version", version=f"MSI-Net {VERSION}")
    phases = parser.add_subparsers(title="phases", required=True, metavar="PHASE")
    for add_flags, name, text in (
        (add_train, "train", "train on a dataset, or continue an interrupted run"),
        (add_download, "download", "fetch datasets or published weights"),
        (add_test, "test", "predict the saliency maps of photographs"),
        (add_evaluate, "evaluate", "score predictions against fixations"),
        (add_submit, "submit", "write the files that a benchmark takes"),
        (add_reproduce, "reproduce", "repeat the paper's experiments, and write a page of them"),
        (add_export, "export", "write the network for another runtime, and prove it there"),
        (add_demo, "demo", "show the network in the browser, on pictures and the webcam"),
    ):
        add_flags(phases.add_parser(name, help=text, description=f"{text.capitalize()}."))
    return parser.parse_args(arguments)


# --- Flags: one function a phase --------------------------------------------------------------------------------------


def add_train(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_train)
    phase.add_argument(
        "-d",
        "--data",
        nargs="+",
        choices=datasets.names(),
        default=["salicon"],
        metavar="DATA",
        help=f"{', '.join(datasets.names())}; several are trained on together (default: salicon)",
    )
    add_dataset_path(phase)
    phase.add_argument(
        "--init",
        metavar="{vgg16,scratch,lite,PATH}",
        help="initial weights (default: vgg16 for salicon, the best SALICON checkpoint for any other dataset)",
    )
    phase.add_argument(
        "--recipe",
        choices=RECIPES,
        default="paper",
        help="set of defaults: the paper's, or one for training without VGG16 weights (default: paper)",
    )
    phase.add_argument(
        "--variant", choices=VARIANTS, help="size of the network (default: full, or lite with --init lite)"
    )
    phase.add_argument(
        "--context",
        choices=("aspp", "plain"),
        default="aspp",
        help="the ASPP module, or the paper's ablation of it (default: aspp)",
    )
    phase.add_argument("--restart", action="store_true", help="begin anew where an earlier run exists")
    add_input_size(phase, auto=True)
    add_custom_flags(phase)
    add_params(phase, PARAMS)


def add_download(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_download)
    phase.add_argument(
        "-d",
        "--data",
        choices=(*datasets.DATASETS, "all"),
        default="salicon",
        metavar="DATA",
        help=f"{', '.join(datasets.DATASETS)}, or all (default: salicon)",
    )
    phase.add_argument(
        "-p", "--path", type=Path, help="folder that the datasets' folders go to (default: data; for weights: weights)"
    )
    phase.add_argument(
        "--weights", action="store_true", help="fetch the published network for DATA, and VGG16 for salicon, instead"
    )
    phase.add_argument(
        "--from",
        dest="source",
        metavar="PATH_OR_URL",
        help="archive that you have, folder of archives, or address of a mirror (default: where they were published)",
    )
    phase.add_argument("--list", action="store_true", help="only show the datasets, their terms and citations")


def add_test(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_test)
    add_network_flags(phase)
    phase.add_argument(
        "-p",
        "--path",
        type=path_or_address,
        help="photograph, or folder of photographs (default: the one that Matplotlib ships)",
    )
    phase.add_argument(
        "--format", choices=("jpeg", "png", "npy"), default="jpeg", help="format of the maps' files (default: jpeg)"
    )
    phase.add_argument("--overlay", action="store_true", help="also write the photographs blended with their maps")
    add_input_size(phase, auto=True)
    add_mirrored(phase)
    phase.add_argument(
        "--max-pixels",
        type=pixel_count,
        default=MAX_PIXELS,
        help=f"a photograph of more pixels is refused, as it would take too much memory (default: {MAX_PIXELS})",
    )
    add_params(phase, (*SHARED_PARAMS, *SPEED_PARAMS))
    add_cluster(phase)


def add_cluster(phase: argparse.ArgumentParser) -> None:
    group = phase.add_argument_group("many photographs, on many machines (docs/cluster.md)")
    group.add_argument(
        "--cluster",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="predict with Ray on all cores of this machine, or on the cluster at ADDRESS, such as ray-head:6379 or "
        "auto; --path may then be a list of photographs (.txt or .parquet) or, as --results, an address such as "
        "s3://bucket/folder; what an earlier run has done is not done again",
    )
    group.add_argument("--workers", type=counting, help="processes that predict (default: one a core, or one a GPU)")
    group.add_argument("--shards", action="store_true", help="write the maps into the index, not as files of their own")
    group.add_argument("--restart", action="store_true", help="begin anew where results of another run are")


def add_evaluate(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_evaluate)
    phase.add_argument(
        "-d",
        "--data",
        choices=datasets.names(),
        default="salicon",
        metavar="DATA",
        help=f"{', '.join(datasets.names())} (default: salicon)",
    )
    add_dataset_path(phase)
    phase.add_argument(
        "--split", choices=("valid", "train", "all"), default="valid", help="which images to score (default: valid)"
    )
    phase.add_argument(
        "--weights", nargs="+", metavar="{published,lite,PATH}", help="networks to score (default: the best there are)"
    )
    phase.add_argument(
        "--maps",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of existing maps to score, which have the images' names",
    )
    phase.add_argument(
        "--protocol",
        choices=("tuebingen", "mit"),
        default="tuebingen",
        help="whose definitions of the metrics: the MIT/Tübingen or the original MIT benchmark's (default: tuebingen)",
    )
    phase.add_argument(
        "--sigma",
        type=blur_width,
        metavar="PIXELS",
        help="standard deviation of the Gaussian that blurs fixations for CC, SIM and KLD "
        "(default: use the dataset's saliency maps)",
    )
    phase.add_argument("--baselines", action="store_true", help="also score uniform, centre bias and gold standard")
    phase.add_argument(
        "--metric-maps", action="store_true", help="score each metric on the map that is best for it, made of a density"
    )
    choice = phase.add_mutually_exclusive_group()
    choice.add_argument("--fit", action="store_true", help="fit the density to the training split, and save it")
    choice.add_argument("--density", type=Path, metavar="FILE", help="use the density that --fit saved")
    phase.add_argument(
        "--name", help="name of the run's folder in results/evaluation (default: made of the data and the flags)"
    )
    add_input_size(phase, auto=True)
    add_mirrored(phase)
    phase.add_argument(
        "--valid-fraction",
        type=fraction,
        help="share of your own images that validates (default: as the weights were trained, where their file says so, "
        f"or else {VALID_FRACTION})",
    )
    add_params(phase, (*SHARED_PARAMS, *SPEED_PARAMS, "seed"))


def add_submit(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_submit)
    phase.add_argument(
        "-d", "--data", choices=("mit300", "cat2000"), required=True, help="benchmark to write the files for"
    )
    phase.add_argument("-p", "--path", type=Path, required=True, help="folder of the benchmark's test photographs")
    phase.add_argument(
        "--weights", metavar="{published,lite,PATH}", help="weights to use (default: the best there are)"
    )
    phase.add_argument("--density", type=Path, metavar="FILE", help="use the density that 'evaluate --fit' saved")
    add_input_size(phase)
    add_params(phase, SHARED_PARAMS)


def add_export(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_export)
    phase.add_argument(
        "--format", choices=EXPORTS, required=True, help="format of the export; hub is a folder to push to Hugging Face"
    )
    add_network_flags(phase)
    phase.add_argument(
        "--bits",
        type=int,
        choices=(32, 16, 8),
        default=32,
        help="bits that store a weight; onnx, tflite and tfjs offer 16, tflite also 8 (default: 32)",
    )
    phase.add_argument("--output", type=Path, help="folder to write (default: one below results/exports)")
    phase.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="photograph, or folder of photographs, that 8 bits are calibrated on",
    )
    add_input_size(phase)
    add_params(phase, ("results",))


def add_demo(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_demo)
    add_network_flags(phase)
    phase.add_argument(
        "--port",
        type=port_number,
        default=8000,
        help="port of this computer that the page is served at; 0 for any free one (default: 8000)",
    )
    phase.add_argument("--static", type=Path, metavar="DIR", help="write the page as a folder, and do not serve it")
    phase.add_argument("--no-browser", action="store_true", help="do not open the browser")
    add_params(phase, ("results",))


def add_reproduce(phase: argparse.ArgumentParser) -> None:
    phase.set_defaults(handler=run_reproduce)
    phase.add_argument(
        "-d",
        "--data",
        nargs="+",
        choices=(*datasets.DATASETS, "all"),
        default=["all"],
        metavar="DATA",
        help=f"{', '.join(datasets.DATASETS)}, or all (default: all)",
    )
    phase.add_argument(
        "-p", "--path", type=Path, default=Path("data"), help="folder that the datasets' folders are in (default: data)"
    )
    phase.add_argument(
        "--weights",
        default="published",
        metavar="{published,lite,PATH}",
        help="network to score in the place of each dataset's published one; the page says so (default: published)",
    )
    phase.add_argument(
        "--train", action="store_true", help="also train: on SALICON, then from its best checkpoint on each dataset"
    )
    phase.add_argument(
        "--context",
        choices=("aspp", "plain"),
        default="aspp",
        help="plain also trains the paper's ablation of the ASPP module (default: aspp)",
    )
    phase.add_argument(
        "--seeds",
        type=counting,
        default=1,
        metavar="N",
        help="how often to train each network, with seeds that follow one another (default: 1)",
    )
    phase.add_argument(
        "--variant", choices=VARIANTS, default="full", help="size of the trained network (default: full)"
    )
    phase.add_argument(
        "--init",
        default="vgg16",
        metavar="{vgg16,scratch,lite,PATH}",
        help="initial weights of the training on SALICON (default: vgg16)",
    )
    phase.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help="numbers printed elsewhere, to show beside ours: a CSV file such as docs/reference.csv",
    )
    phase.add_argument("--dry-run", action="store_true", help="only print the plan, with what it will take")
    add_input_size(phase)
    add_params(phase, PARAMS)


def add_dataset_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--path",
        type=Path,
        default=Path("data"),
        help="folder of the dataset, or the folder it is in (default: data)",
    )


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose a trained network."""
    parser.add_argument(
        "-d",
        "--data",
        choices=datasets.names(),
        default="salicon",
        metavar="DATA",
        help=f"whose weights and input size to use: {', '.join(datasets.names())} (default: salicon)",
    )
    parser.add_argument(
        "--weights", metavar="{published,lite,PATH}", help="weights to use (default: the best there are)"
    )


class InputSize(argparse.Action):
    """The network's input size: two numbers, or "auto" where `const` is true."""

    def __call__(self, parser, namespace, values, option_string=None):
        if self.const and values == ["auto"]:
            setattr(namespace, self.dest, "auto")
            return
        if len(values) != 2:
            expected = "a height and a width" + (", or auto" if self.const else "")
            raise argparse.ArgumentError(self, f"received {' '.join(values)}, expected {expected}")
        try:
            sides = [network_side(value) for value in values]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        if sides[0] * sides[1] > MOST_INPUT_PIXELS:
            raise argparse.ArgumentError(
                self, f"received {sides[0]}×{sides[1]}, expected at most {MOST_INPUT_PIXELS} pixels, which need 10 GB"
            )
        setattr(namespace, self.dest, tuple(sides))


def add_input_size(parser, auto: bool = False) -> None:
    """The flag for the network's input size; `auto` offers to choose it by each photograph's shape."""
    choice = "; auto chooses, among sizes with as many pixels, the one that suits each photograph's shape"
    parser.add_argument(
        "--input-size",
        action=InputSize,
        const=auto,
        nargs="+",
        metavar="SIDE",
        help=f"height and width of the network's input{choice if auto else ''}",
    )


def add_mirrored(parser) -> None:
    parser.add_argument(
        "--mirrored",
        action="store_true",
        help="average each map with that of the mirrored photograph, which takes twice the time",
    )


def add_custom_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that only `-d custom` heeds."""
    group = parser.add_argument_group("your own data (-d custom)")
    group.add_argument(
        "--valid-fraction",
        type=fraction,
        help=f"share of the images that validates, where folders train and val do not say (default: {VALID_FRACTION})",
    )
    group.add_argument(
        "--sigma",
        type=blur_width,
        help="standard deviation of the Gaussian that makes saliency maps where only fixations exist, in pixels, or in "
        "degrees with --pixels-per-degree (default: 1 degree, or 2 %% of an image's longer side)",
    )
    group.add_argument(
        "--pixels-per-degree",
        type=blur_width,
        metavar="P",
        help="pixels of the images that one degree of visual angle spans",
    )


def add_params(parser: argparse.ArgumentParser, keys) -> None:
    """Flags for keys of `config.PARAMS`. They default to None, so that a recipe can tell them from the user's."""
    for key in keys:
        value, flag = PARAMS[key], "--" + key.replace("_", "-")
        text = f"{PARAM_HELP[key]} (default: {value})"
        if isinstance(value, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif isinstance(value, tuple):
            parser.add_argument(flag, type=PARAM_TYPES[key], nargs="+", metavar="FACTOR", help=text)
        elif key in PARAM_CHOICES:
            parser.add_argument(flag, choices=PARAM_CHOICES[key], help=text)
        else:
            parser.add_argument(flag, type=PARAM_TYPES.get(key, str), metavar=key.upper(), help=text)


def params_of(options: argparse.Namespace) -> dict:
    """`config.PARAMS`, changed by the recipe, changed by the user's flags."""
    recipe = RECIPES[getattr(options, "recipe", "paper")]
    flags = {key: getattr(options, key, None) for key in PARAMS}
    flags = {key: tuple(value) if isinstance(value, list) else value for key, value in flags.items()}
    return {**PARAMS, **recipe, **{key: value for key, value in flags.items() if value is not None}}


# --- Handlers: one a phase. They import what they need, so that help and errors come at once. ------------------------


def run_train(options: argparse.Namespace) -> None:
    import data
    from scoring import fixations

    params = params_of(options)
    if len(set(options.data)) < len(options.data):
        raise UserError(f"Received -d {' '.join(options.data)}, expected each dataset once.")
    if "custom" in options.data:
        if options.valid_fraction is None:
            options.valid_fraction = VALID_FRACTION
        # They decide what is learnt, and so belong to the run's settings.
        own = {key: getattr(options, key) for key in ("valid_fraction", "sigma", "pixels_per_degree")}
        params |= own
        folder = data.find_dataset("custom", options.path)
        if not options.restart:
            check_run(Path(params["results"]), "+".join(options.data), own)
        prepare_custom(folder, fixations.Blur(options.sigma, options.pixels_per_degree))
    else:
        for flag in ("valid_fraction", "sigma", "pixels_per_degree"):
            if getattr(options, flag) is not None:
                raise UserError(f"--{flag.replace('_', '-')} goes with -d custom; other datasets are as published.")
    fixed = None if options.input_size == "auto" else options.input_size
    sizes = {name: fixed or datasets.input_size(name) for name in options.data}
    groups = [
        data.load_groups(name, options.path, sizes[name], valid_fraction=options.valid_fraction)
        for name in options.data
    ]
    with quiet_stderr():
        from phases import train
    train.train(
        "+".join(options.data),
        groups,
        params,
        variant=options.variant or ("lite" if options.init == "lite" else "full"),
        context=options.context,
        init=options.init,
        restart=options.restart,
        fit_pixels=math.prod(sizes[options.data[0]]) if options.input_size == "auto" else None,
    )


def check_run(results: Path, name: str, settings: dict) -> None:
    """Refuse to continue a training run with other settings than these, before maps are made that it cannot use."""
    with quiet_stderr():
        from phases import train
    run = train.Run(results, name, settings)
    if run.exists():
        run.read()


def prepare_custom(folder: Path, blur=None) -> None:
    """Make the saliency maps of one's own data, where there are only fixations; see `fixations.make_saliency`."""
    from scoring import fixations

    if made := fixations.make_saliency(folder, blur):
        print(f"Made saliency maps from the fixations, with a sigma of {made}: {folder / 'saliency'}.")


def run_download(options: argparse.Namespace) -> int:
    import download

    if options.list:
        print(datasets.table())
        return 0
    names = list(datasets.DATASETS) if options.data == "all" else [options.data]
    tasks: list[tuple[Callable, str, Path]]
    tasks = [(download.dataset, name, options.path or Path("data")) for name in names]
    if options.weights:
        keys = [f"model_{name}_cpu" for name in names] + (["vgg16_hybrid"] if "salicon" in names else [])
        tasks = [(download.weights, key, options.path or download.WEIGHTS_FOLDER) for key in keys]
    failures = 0
    for fetch, name, folder in tasks:
        try:
            print(f"{name}: {fetch(name, folder, options.source)}", flush=True)
        except UserError as error:
            # One dead host must not keep the others from being used.
            print(f"error: {error}", file=sys.stderr, flush=True)
            failures += 1
    return 2 if failures else 0


def run_phase(name: str, options: argparse.Namespace) -> int:
    with quiet_stderr():
        phase = importlib.import_module(f"phases.{name}")
    flags = [field.name for field in dataclasses.fields(phase.Options) if field.name != "params"]
    return phase.run(phase.Options(params=params_of(options), **{flag: getattr(options, flag) for flag in flags}))


def run_test(options: argparse.Namespace) -> int:
    return run_phase("test", options)


def run_export(options: argparse.Namespace) -> int:
    return run_phase("export", options)


def run_demo(options: argparse.Namespace) -> int:
    return run_phase("demo", options)


def run_evaluate(options: argparse.Namespace) -> None:
    import data
    from scoring.protocols import PROTOCOLS

    if not PROTOCOLS[options.protocol].uses_density and (
        options.metric_maps or options.fit or options.density or options.sigma
    ):
        raise UserError("--metric-maps, --fit, --density and --sigma belong to --protocol tuebingen.")
    if options.fit and options.split != "valid":
        raise UserError(f"--fit learns from the training split, so it cannot be scored on --split {options.split}.")
    folder = data.find_dataset(options.data, options.path)
    if options.data == "custom":
        prepare_custom(folder)
    if options.valid_fraction is None:
        options.valid_fraction = VALID_FRACTION
        if options.data == "custom" and options.split != "all" and (options.weights or not options.maps):
            with quiet_stderr():
                from phases import evaluate
            known = evaluate.fraction_of_training("custom", options.weights, Path(params_of(options)["results"]))
            options.valid_fraction = VALID_FRACTION if known is None else known
    train = None
    samples: Sequence[data.Sample]
    if options.split == "all":
        samples = data.pair_files(folder)
    else:
        train, valid = data.load_groups(
            options.data, folder, datasets.input_size(options.data), valid_fraction=options.valid_fraction
        )
        samples = (train if options.split == "train" else valid).samples
    with quiet_stderr():
        from phases import evaluate
    evaluate.run(
        evaluate.Options(
            options.data,
            folder,
            samples,
            part=options.split,
            params=params_of(options),
            size=options.input_size,
            mirrored=options.mirrored,
            weights=options.weights,
            maps=options.maps,
            protocol=options.protocol,
            sigma=options.sigma,
            baselines=options.baselines,
            metric_maps=options.metric_maps,
            density_file=options.density,
            training=train.samples if train and options.fit else None,
            valid_fraction=options.valid_fraction if options.data == "custom" and train else None,
            name=options.name,
        )
    )


def run_submit(options: argparse.Namespace) -> None:
    if not options.path.is_dir():
        raise UserError(f"No such folder: {options.path}. Name the one of the test photographs with -p.")
    with quiet_stderr():
        from phases import submit
    submit.run(
        options.data,
        options.path,
        params_of(options),
        weights=options.weights,
        size=options.input_size,
        density_file=options.density,
    )


def run_reproduce(options: argparse.Namespace) -> int:
    names = list(dict.fromkeys(datasets.DATASETS if "all" in options.data else options.data))
    if not options.train and (options.context != "aspp" or options.seeds > 1):
        raise UserError("--context and --seeds belong to what is trained: add --train.")
    with quiet_stderr():
        from phases import reproduce
        from phases.reproduction.plan import Options
    return reproduce.run(
        Options(
            names,
            options.path,
            params_of(options),
            weights=options.weights,
            train=options.train,
            contexts=list(dict.fromkeys(("aspp", options.context))),
            variant=options.variant,
            init=options.init,
            seeds=options.seeds,
            size=options.input_size,
            reference=options.reference,
            dry_run=options.dry_run,
        )
    )


def sample_photograph() -> Path:
    """The photograph that Matplotlib ships: Grace Hopper."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


# --- Types of flags ---------------------------------------------------------------------------------------------------


def number(kind: type, holds: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """The type of a flag: a number of a kind for which a condition holds."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"received {text}, expected {expected}")
        return value

    return convert


counting = number(int, lambda value: 1 <= value <= 1_000_000, "a whole number from 1 to 1000000")
step_count = number(int, lambda value: 0 <= value <= 1_000_000, "a whole number from 0 to 1000000")
gpu_count = number(int, lambda value: 0 <= value <= 256, "a whole number from 0 to 256")
seed_number = number(int, lambda value: 0 <= value < 2**32, f"a whole number from 0 to {2**32 - 1}")
network_side = number(
    int,
    lambda value: 8 <= value <= 4096 and value % 8 == 0,
    "a multiple of 8, as the network works in eighths, and at most 4096",
)
port_number = number(int, lambda value: 0 <= value < 2**16, "a whole number from 0 to 65535")
pixel_count = number(int, lambda value: 1 <= value <= MAX_PIXELS, f"a whole number from 1 to {MAX_PIXELS}")
positive_float = number(float, lambda value: 0 < value < float("inf"), "a number above 0")
rate = number(float, lambda value: 1e-15 <= value <= 1000, "a number from 1e-15 to 1000")
scale_factor = number(float, lambda value: 0.05 <= value <= 8, "a number from 0.05 to 8")
loss_weight = number(float, lambda value: 0 <= value <= 1000, "a number from 0 to 1000")
blur_width = number(float, lambda value: 0.01 <= value <= 1000, "a number from 0.01 to 1000")
fraction = number(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def existing_name(text: str) -> Path:
    """The type of a path that must not be empty: an empty one would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("received an empty path, expected a file or folder")
    return Path(text)


def path_or_address(text: str) -> Path | str:
    """The type of a path, or of the address of something in an object store, which `Path` would damage."""
    return text if "://" in text else existing_name(text)


PARAM_TYPES = {
    "epochs": counting,
    "batch_size": counting,
    "learning_rate": rate,
    "warmup_steps": step_count,
    "weight_decay": fraction,
    "color": fraction,
    "crop": fraction,
    "scales": scale_factor,
    "weight_average": fraction,
    "cc_weight": loss_weight,
    "nss_weight": loss_weight,
    "gpus": gpu_count,
    "seed": seed_number,
}
PARAM_CHOICES = {"precision": ("float32", "bfloat16", "float16"), "device": ("auto", "cpu", "gpu")}


if __name__ == "__main__":
    # The name of a file that the terminal cannot show must not stop a run.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
