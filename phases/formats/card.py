"""MODEL.md: what an exported network is, what it was trained on, and how to use it."""

import re
from dataclasses import dataclass

from ... import bundled
from ...geometry import candidate_sizes
from ...network import Network
from ...utils import count
from .base import Format, fill, fill_example

# Published files are named after their dataset.
PUBLISHED_FILE = re.compile(r"model_(\w+)_[cg]pu$")

TEXT = """# MSI-Net: {title}

Predicts where people look in a photograph. The network in {files} is {name}, with {bits} bits per weight.

- **Trained on**: {training}
- **License**: {license}
- **Weights**: `{weights}`, SHA-256 `{sha256}`
- **Input** `input`: RGB, float32, 0 to 255, shape (batch, height, width, 3). {size_rule} Do not subtract a mean; the
  network does that. Every height and width divisible by 8 works. Other sizes work too, but their maps are rounded up to
  the next such size (100×100 gives 104×104).
- **Output** `output`: float32, 0 to 1, shape (batch, height, width, 1). Every map reaches 0 and 1.

{use}

Paper: Kroner, Senden, Driessens, Goebel, *Contextual encoder–decoder network for visual saliency prediction*, Neural
Networks 129 (2020), doi 10.1016/j.neunet.2020.05.004.
"""

FITTED_SIZE = """Height and width
  follow the photograph's shape, with about as many pixels as {height}×{width}: {sizes}. The program below chooses the
  size that the photograph fills best, as MSI-Net's `test` does. If you use one fixed size instead, the maps are those
  of `test --input-size HEIGHT WIDTH`."""

FIXED_SIZE = """Height and width are
  {height}×{width} for every photograph, as in MSI-Net's `test -d {data}` or `--input-size {height} {width}`."""

USE = """## Use with {runtime}

This needs {needs}:

```{language}
{example}```

The export was tested with this exact program: for losslessly stored photographs, its maps differ from those of
MSI-Net's `test` by at most {example_difference} (maps go from 0 to 1): {photographs}. JPEG decoders differ slightly: if
Pillow decodes the JPEG file, the map of a photograph differs by up to {jpeg_difference}. The network alone differs by
at most {difference}.

{notes}"""


@dataclass(frozen=True)
class Provenance:
    """What a network is and where it comes from.

    Attributes:
        name: of the network, for a sentence.
        training: the data it was trained on, as a sentence.
        license: as a sentence.
        spdx: the license as model repositories spell it.
        facts: of a bundled network; see `bundled.facts`.
    """

    name: str
    training: str
    license: str
    spdx: str = "other"
    facts: dict | None = None


def provenance(network: Network) -> Provenance:
    """What the file of the weights tells about a network."""
    path = network.weights.path
    if name := bundled.name_of(path):
        facts = bundled.facts(name)
        sets = ["{images} images of {name} ({citation}; license: {license})".format(**row) for row in facts["data"]]
        training = f"{', '.join(sets)}."
        if "SALICON" not in training:
            training += " It has never seen SALICON."
        return Provenance(facts["description"], training, f"{facts['license']['text']}.", facts["license"]["id"], facts)
    if published := PUBLISHED_FILE.match(path.stem):
        dataset = published[1]
        return Provenance(
            f"the published network for {dataset}",
            f"ImageNet (the encoder)"
            f"{', SALICON' if dataset != 'salicon' else ''} and {dataset.upper()}, by the authors of the paper.",
            "MIT for the published program; the datasets have their authors' terms.",
            "mit",
        )
    trained_on = network.knowledge.datasets if network.knowledge else {}
    sets = [f"{name} ({count(len(images.train), 'image')})" for name, images in trained_on.items()]
    return Provenance(
        f"the {network.architecture.variant} network of `{path.name}`",
        f"{' and '.join(sets) or 'unknown data: the file does not name it, ask its author'}.",
        "ask the author of the weights file, and mind the terms of its training data.",
    )


def describe_use(form: Format, network: Network, row: dict) -> str:
    """How to use a network in one runtime: packages, a program, its differences (a row of `proof.prove`), and notes."""
    photographs = [
        f"{name} {found['difference']:.1e} (input {'×'.join(map(str, found['input_size']))})"
        for name, found in row["photographs"].items()
    ]
    text = fill(
        USE,
        runtime=form.runtime,
        needs=form.needs,
        language=form.language,
        example=form.example,
        notes=form.notes,
        photographs=", ".join(photographs),
        **{name: f"{value:.1e}" for name, value in row.items() if name != "photographs"},
    )
    return fill_example(text, network)


def describe_export(title: str, files: list[str], network: Network, data: str, bits: int, use: str) -> str:
    """The text of MODEL.md: the network, its training data and license, its input and output, and how to use it.

    `data` is the dataset whose input size the network has, `use` the text of `describe_use`.
    """
    origin = provenance(network)
    height, width = network.input_size
    return fill(
        TEXT,
        size_rule=FITTED_SIZE if network.fit_shape else FIXED_SIZE,
        sizes=", ".join("×".join(map(str, size)) for size in candidate_sizes(height * width)),
        title=title,
        files=" and ".join(f"`{file}`" for file in files),
        name=origin.name,
        bits=bits,
        training=origin.training,
        license=origin.license,
        weights=network.weights.path.name,
        sha256=network.sha256,
        height=height,
        width=width,
        data=data,
        use=use,
    )
