"""MODEL.md: what an exported network is, what it was trained on, and how to use it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import checkpoint
from msinet import Network
from phases.formats.base import Format, fill
from utils import UserError, count

# The published files are called after their dataset.
PUBLISHED_FILE = re.compile(r"model_(\w+)_[cg]pu$")

TEXT = """# MSI-Net: {title}

Predicts where people look in a photograph. The network in {files} is {name}, with {bits} bits a weight.

- **Trained on**: {training}
- **Licence**: {licence}
- **Weights**: `{weights}`, SHA-256 `{sha256}`
- **Input** `input`: RGB, float32, 0 to 255, shape (batch, height, width, 3). {height}×{width} is the size for
  `-d {data}`. Nothing is subtracted: the network does that. Height and width should be divisible by 8; other sizes are
  not refused, but their maps have the next greater size that is (100×100 gives 104×104).
- **Output** `output`: float32, 0 to 1, shape (batch, height, width, 1). Every map reaches 0 and 1.

{use}

Paper: Kroner, Senden, Driessens, Goebel, *Contextual encoder–decoder network for visual saliency prediction*, Neural
Networks 129 (2020), doi 10.1016/j.neunet.2020.05.004.
"""

USE = """## Use with {runtime}

This needs {needs}:

```{language}
{example}```

The export was tested with just this program: from a photograph without loss, its map differs from MSI-Net's own by at
most {example_difference:.1e} (maps go from 0 to 1). Libraries decode JPEG files a little differently: read by Pillow
from the JPEG, the same photograph has a map that differs by up to {jpeg_difference:.1e}. The network alone, at two
sizes, differs by at most {difference:.1e}.

{notes}"""


@dataclass(frozen=True)
class Provenance:
    """What a network is and where it comes from.

    Attributes:
        name: of the network, for a sentence.
        training: the data it was trained on, as a sentence.
        licence: as a sentence.
        spdx: the licence as model repositories spell it.
        scores: metric to value, where they were measured, and `scored_on` names the images.
        card: the network's own model card, where it has one.
    """

    name: str
    training: str
    licence: str
    spdx: str = "other"
    scores: dict[str, float] = field(default_factory=dict)
    scored_on: str = ""
    card: str = ""


def provenance(network: Network) -> Provenance:
    """What is known of a network by the file that its weights came from."""
    path = network.weights.path
    if path.resolve() == checkpoint.LITE_PATH.resolve():
        return read_lite_card(checkpoint.WEIGHTS_FOLDER / "README.md")
    if published := PUBLISHED_FILE.match(path.stem):
        dataset = published[1]
        return Provenance(
            f"the published network for {dataset}",
            f"ImageNet (the encoder)"
            f"{', SALICON' if dataset != 'salicon' else ''} and {dataset.upper()}, by the authors of the paper.",
            "the published program is under the MIT licence; the terms of the datasets are those of their authors.",
            "mit",
        )
    trained_on = network.knowledge.datasets if network.knowledge else {}
    sets = [f"{name} ({count(len(images.train), 'image')})" for name, images in trained_on.items()]
    return Provenance(
        f"the {network.architecture.variant} network of `{path.name}`",
        f"{' and '.join(sets) or 'data that the file does not name: whoever trained it can say'}.",
        "that of whoever trained the file, and of the photographs it was trained on.",
    )


def read_lite_card(path: Path) -> Provenance:
    """The facts of the lite network, from its model card, so that they are written down once.

    Raises:
        UserError: the card does not say one of them.
    """
    card = path.read_text(encoding="utf-8")

    def find(pattern: str) -> str:
        found = re.search(pattern, card, re.DOTALL | re.MULTILINE)
        if found is None:
            raise UserError(f"{path} has no passage {pattern!r}, which the texts of exports are made of.")
        return found[1]

    training = " ".join(find(r"^- \*\*Data\*\*: (.+?)^- \*\*").split())
    if "SALICON" not in training:
        training += " It has never seen SALICON."
    scores = re.findall(r"^\| (\w+) [↑↓].*?\| ([\d.]+)", find(r"^(\| metric \| lite.*?)\n\n"), re.MULTILINE)
    return Provenance(
        "the lite network that comes with the MSI-Net program, a quarter as wide as the published one",
        training,
        f"{find('[|] Licence [|] (.+?) [|]')}.",
        "mit",
        {metric: float(value) for metric, value in scores},
        find(r"On (\S[^\n]+?), every metric"),
        card,
    )


def describe_use(form: Format, size: tuple[int, int], **measured: float) -> str:
    """How to use a network in one runtime: packages, a program, its measured differences, and notes.

    Args:
        form: the format.
        size: height and width of the network's input.
        measured: `difference` of the network alone, `example_difference` and `jpeg_difference`.
    """
    numbers = {"height": size[0], "width": size[1]}
    text = USE.format(
        runtime=form.runtime,
        needs=form.needs,
        language=form.language,
        example="{example}",
        notes="{notes}",
        **measured,
    )
    return fill(text, example=fill(form.example, **numbers), notes=fill(form.notes, **numbers))


def describe_export(title: str, files: list[str], network: Network, data: str, bits: int, use: str) -> str:
    """What an export is: its network, the data and licence of that, its input and output, and how to use it.

    Args:
        title: of the text.
        files: that hold the network.
        network: what was exported.
        data: the dataset whose input size it has.
        bits: of a weight.
        use: from `describe_use`.
    """
    origin = provenance(network)
    height, width = network.input_size
    return fill(
        TEXT,
        title=title,
        files=" and ".join(f"`{file}`" for file in files),
        name=origin.name,
        bits=bits,
        training=origin.training,
        licence=origin.licence,
        weights=network.weights.path.name,
        sha256=network.sha256,
        height=height,
        width=width,
        data=data,
        use=use,
    )
