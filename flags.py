"""The flags of `train`, `evaluate` and `reproduce`, in groups."""

import argparse
from pathlib import Path

from .acquisition import datasets
from .arguments import (
    DATASET_PATH,
    add_data,
    add_input_size,
    add_mirrored,
    add_params,
    add_path,
    add_verbose,
    add_weights,
    blur_width,
    counting,
    fraction,
)
from .config import CONTEXTS, PROTOCOLS, RECIPES, VALID_FRACTION, VARIANTS
from .installation import command

EXAMPLES = {
    "train": (
        "train -d custom -p my_photos --init lite   your own data, from an included network",
        "train -d osie --init scratch --variant narrow --recipe scratch   OSIE only, from random weights",
    ),
    "evaluate": (
        "evaluate -d osie --weights medium --baselines   an included network, next to the baselines",
        "evaluate -d osie --maps my_maps/   maps that another program wrote",
    ),
    "reproduce": (
        "reproduce -d osie fiwi --dry-run   what two datasets would need",
        "reproduce -d osie --weights lite   an included network instead of the published ones",
    ),
}


def add_train(phase: argparse.ArgumentParser) -> None:
    add_examples(phase, "train")
    essentials = phase.add_argument_group("essentials")
    add_data(essentials, "one or more of ", default=["salicon"], nargs="+")
    add_path(essentials, DATASET_PATH)
    text = (
        "initial weights (default: vgg16 for salicon, the best SALICON checkpoint for any other dataset; medium and "
        "lite use the included network instead of vgg16 and the published one)"
    )
    essentials.add_argument("--init", metavar="{vgg16,scratch,medium,lite,PATH}", help=text)
    essentials.add_argument("--restart", action="store_true", help="start over if an earlier run exists")
    own = phase.add_argument_group("your own data (-d custom)")
    text = "share of the images used for validation, unless there are folders train and val"
    own.add_argument("--valid-fraction", type=fraction, help=f"{text} (default: {VALID_FRACTION})")
    text = (
        "standard deviation of the Gaussian that turns fixations into saliency maps where there are no maps, in "
        "pixels, or in degrees with --pixels-per-degree (default: 1 degree, or 2 %% of an image's longer side)"
    )
    own.add_argument("--sigma", type=blur_width, help=text)
    text = "pixels of the images per degree of visual angle"
    own.add_argument("--pixels-per-degree", type=blur_width, metavar="P", help=text)
    recipe = phase.add_argument_group("recipe")
    text = "set of defaults: those of the paper, or those for training without VGG16 weights (default: paper)"
    recipe.add_argument("--recipe", choices=RECIPES, default="paper", help=text)
    recipe.add_argument("--variant", choices=VARIANTS, help="size of the network (default: full, or that of --init)")
    text = "the ASPP module, or the paper's ablation without it (default: aspp)"
    recipe.add_argument("--context", choices=CONTEXTS, default="aspp", help=text)
    add_input_size(recipe, auto=True)
    speed = phase.add_argument_group("speed and files")
    add_params(phase, "train", own=own, recipe=recipe, speed=speed, files=essentials)


def add_evaluate(phase: argparse.ArgumentParser) -> None:
    add_examples(phase, "evaluate")
    essentials = phase.add_argument_group("essentials")
    add_data(essentials)
    add_path(essentials, DATASET_PATH)
    text = "images to score (default: valid)"
    essentials.add_argument("--split", choices=("valid", "train", "all"), default="valid", help=text)
    add_weights(essentials, nargs="+")
    text = "folders of existing maps to score; the maps must have the names of the images"
    essentials.add_argument("--maps", type=Path, nargs="+", default=[], metavar="DIR", help=text)
    text = "also score uniform, center bias and gold standard"
    essentials.add_argument("--baselines", action="store_true", help=text)
    text = "name of the run's folder in results/evaluation (default: derived from the data and the flags)"
    essentials.add_argument("--name", help=text)
    add_verbose(essentials)
    own = phase.add_argument_group("your own data (-d custom)")
    text = (
        "share of your own images used for validation (default: that of the training, if the weights' file records "
        f"it, else {VALID_FRACTION})"
    )
    own.add_argument("--valid-fraction", type=fraction, help=text)
    recipe = phase.add_argument_group("recipe: how maps are made and scored")
    text = "definitions of the metrics: those of the MIT/Tübingen or the original MIT benchmark (default: tuebingen)"
    recipe.add_argument("--protocol", choices=PROTOCOLS, default="tuebingen", help=text)
    text = (
        "standard deviation of the Gaussian that blurs fixations for CC, SIM and KLD (default: use the dataset's "
        "saliency maps)"
    )
    recipe.add_argument("--sigma", type=blur_width, metavar="PIXELS", help=text)
    text = "score each metric on its own map, computed from a density"
    recipe.add_argument("--metric-maps", action="store_true", help=text)
    choice = recipe.add_mutually_exclusive_group()
    choice.add_argument("--fit", action="store_true", help="fit the density to the training split, and save it")
    choice.add_argument("--density", type=Path, metavar="FILE", help="use a density that --fit saved")
    add_input_size(recipe, auto=True)
    add_mirrored(recipe)
    speed = phase.add_argument_group("speed and files")
    add_params(phase, "evaluate", own=own, recipe=recipe, speed=speed, files=essentials)


def add_reproduce(phase: argparse.ArgumentParser) -> None:
    add_examples(phase, "reproduce")
    essentials = phase.add_argument_group("essentials")
    add_data(essentials, names=(*datasets.DATASETS, "all"), default=["all"], nargs="+")
    add_path(essentials, "folder that contains the datasets' folders (default: data)")
    text = "network to score instead of each dataset's published one; the page says so (default: published)"
    essentials.add_argument("--weights", default="published", metavar="{published,medium,lite,PATH}", help=text)
    text = "only print the plan, with its downloads and disk space"
    essentials.add_argument("--dry-run", action="store_true", help=text)
    text = "also train: on SALICON, then from its best checkpoint on each dataset"
    essentials.add_argument("--train", action="store_true", help=text)
    text = "published numbers to show next to ours: a CSV file such as docs/reference.csv"
    essentials.add_argument("--reference", type=Path, metavar="FILE", help=text)
    recipe = phase.add_argument_group("recipe of the trainings, for --train")
    text = "plain also trains the paper's ablation without the ASPP module (default: aspp)"
    recipe.add_argument("--context", choices=CONTEXTS, default="aspp", help=text)
    text = "how often to train each network, with consecutive seeds (default: 1)"
    recipe.add_argument("--seeds", type=counting, default=1, metavar="N", help=text)
    text = "size of the trained network (default: full)"
    recipe.add_argument("--variant", choices=VARIANTS, default="full", help=text)
    text = "initial weights of the training on SALICON (default: vgg16, which suits only --variant full)"
    recipe.add_argument("--init", default="vgg16", metavar="{vgg16,scratch,medium,lite,PATH}", help=text)
    add_input_size(recipe)
    speed = phase.add_argument_group("speed and files")
    add_params(phase, "reproduce", own=recipe, recipe=recipe, speed=speed, files=essentials)


def add_examples(phase: argparse.ArgumentParser, name: str) -> None:
    """End the help with examples, and begin it without a list of all flags."""
    phase.usage = "%(prog)s [flags]"
    phase.epilog = "\n".join(["examples:", *(f"  {command()} {example}" for example in EXAMPLES[name])])
