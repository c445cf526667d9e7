"""A folder in the layout of a Hugging Face model repository, ready to push; this program pushes nothing."""

import json
import re
import shutil
from pathlib import Path

from ... import bundled
from ...images import IMAGE_PADDING
from ...installation import PACKAGE
from ...network import Network
from . import keras, onnx
from .card import Provenance, provenance

# The formats in the repository.
PARTS = (keras.FORMAT, onnx.FORMAT)

# Hugging Face rejects files larger than 10 MB without this.
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("keras", "onnx"))


def write_repository(network: Network, folder: Path, text: str) -> None:
    """Write the model card, `text` with a header, and `config.json`, the license and Git's attributes."""
    origin = provenance(network)
    # The card of the bundled networks follows as a chapter.
    card = "\n" + bundled.CARD.read_text(encoding="utf-8") if origin.facts else ""
    card = re.sub("^(#+ [A-Z])", r"#\1", card, flags=re.MULTILINE)
    (folder / "README.md").write_text(front_matter(network, origin) + text + card, encoding="utf-8")
    config = {
        "model_type": "msinet",
        "variant": network.architecture.variant,
        "context": network.architecture.context,
        "input_size": list(network.input_size),
        "fit_shape": network.fit_shape,
        "divisible_by": 8,
        "channels": "RGB, 0 to 255",
        "padding": IMAGE_PADDING,
        "files": [part.file for part in PARTS],
        "weights_sha256": network.sha256,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
    if origin.spdx == "mit":
        shutil.copyfile(PACKAGE / "LICENSE", folder / "LICENSE")


def front_matter(network: Network, origin: Provenance) -> str:
    """What Hugging Face shows and indexes: license, tags, and scores with the images that they were measured on."""
    lines = ["---", f"license: {origin.spdx}", "library_name: keras", "pipeline_tag: image-to-image", "tags:"]
    lines += [f"- {tag}" for tag in ("saliency-prediction", "eye-tracking", "msi-net", "keras", "onnx")]
    if origin.facts:
        lines += ["model-index:", f"- name: MSI-Net {network.architecture.variant}", "  results:"]
        for dataset, inputs in origin.facts["scores"].items():
            name = json.dumps(bundled.scored_on(origin.facts, dataset))
            lines += ["  - task:", "      type: image-to-image", "      name: Saliency prediction", "    dataset:"]
            lines += [f"      name: {name}", f"      type: {dataset}", "    metrics:"]
            for metric, score in inputs[bundled.BY_SHAPE]["network"].items():
                lines += [f"    - type: {metric.lower()}", f"      name: {metric}", f"      value: {score['mean']:.3f}"]
    return "\n".join([*lines, "---", "", ""])
