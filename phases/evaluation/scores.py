"""Scores of networks and maps, and the files of an evaluation."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from ...bundled import name_of
from ...checkpoint import file_sha256
from ...config import FEW
from ...network import Network, load
from ...scoring import contenders, pictures, report
from ...scoring.contenders import Contender
from ...scoring.fitted import FittedDensity
from ...scoring.fixations import blur_of_made_maps
from ...scoring.ground_truth import Case, GroundTruth, load_cases
from ...scoring.protocols import PROTOCOLS, Protocol, usable
from ...utils import UserError, check_writable, count, name_some, write_record
from ..introduce import introduce
from .options import Images, Options

# Maximum bytes of a run's folder name and of a contender's name. File systems may reject longer names.
LONGEST_NAME = 100

# Parts of a network's record that do not affect its maps.
INCIDENTAL = ("weights", "reason", "layout", "gpus", "onednn", "knowledge", "images_that_trained")


def evaluate(options: Options, images: Images) -> None:
    """Score networks and folders of maps, print one table, and write the run's files."""
    if not images.scored:
        raise UserError(
            f"The {options.split} split of {images.folder} has no image: choose another --split or --valid-fraction."
        )
    if len(images.scored) < FEW:
        print(f"Only {count(len(images.scored), 'image')} to score: the numbers say little. See --valid-fraction.")
    check_writable(options.folder_of_runs)
    protocol, left_out = usable(PROTOCOLS[options.protocol])
    if left_out:
        print(left_out)
    fitted = None if options.density is None else FittedDensity.load(options.density)

    models = load_models(options, images)
    settings = settings_of(options, images, protocol, models)
    target = options.folder_of_runs / (options.name or default_name(options, models, settings))
    check_same_settings(target / "summary.json", settings)
    check_writable(target)

    cases = load_cases(images.folder, images.scored, options.params["max_dropped"])
    truth = GroundTruth(cases, options.sigma, options.params["seed"])
    models = [with_density(model, fitted, options, images, target) for model in models]
    scores, records = score_all(models, truth, protocol, options)

    seed = options.params["seed"]
    columns = report.estimates(scores, seed)
    compared = report.differences({model.name: scores[model.name] for model in models}, seed)
    print(
        f"\n{count(len(images.scored), 'image')} of {options.data} ({options.split}), protocol {options.protocol}; "
        f"mean [95 % interval over images]"
    )
    print("".join(f"{model.name}: {model.note}\n" for model in models if model.note))
    print(report.table(columns, protocol))
    if compared:
        print(f"\nDifference from {models[0].name} on the same images\n")
        print(report.table(compared, protocol))

    report.write_per_image(target / "per_image.csv", [case.sample.name for case in truth.cases], scores)
    pictures.draw_distributions(target / "distributions.png", scores, protocol)
    metric = "NSS" if columns[models[0].name]["NSS"].images else "CC"
    for model in models:
        drawn = model, truth, protocol, scores[model.name]
        pictures.draw_examples(target / f"examples_{model.name}.png", *drawn, metric)
        worst_by = "IG" if columns[model.name]["IG"].images else metric
        pictures.draw_worst(target / f"worst_{model.name}.jpeg", *drawn, worst_by)
    summary = {
        **settings,
        "images": len(images.scored),
        "fixations": sum(len(case.fixations) for case in truth.cases),
        "centre_bias": {"bandwidth": truth.center_bias.bandwidth, "uniform_share": truth.center_bias.uniform},
        "contenders": records,
        "scores": report.as_json(columns),
        "differences_from_the_first": report.as_json(compared),
    }
    # Last, because a folder without it belongs to an interrupted run, and any other run may replace it.
    write_record(target / "summary.json", summary)
    print(f"\nScores of every image, the summary and pictures are in {target}.")


# --- Networks and maps ------------------------------------------------------------------------------------------------


def load_models(options: Options, images: Images) -> list[Contender]:
    """The networks and folders to compare, each with a unique name."""
    taken = {contenders.UNIFORM, contenders.CENTER_BIAS, contenders.GOLD_STANDARD} if options.baselines else set()
    models = []
    chosen: Sequence[str | None] = options.weights or ([] if options.maps else [None])
    for wanted in chosen:
        network = load(
            wanted,
            data=options.data,
            input_size=options.input_size,
            mirrored=options.mirrored,
            orientation=options.orientation,
            **{key: options.params[key] for key in ("results", "device", "precision", "gpus")},
        )
        introduce(network, options.data, options.input_size, options.verbose)
        name = free_name(network.weights.path.name.split(".")[0], taken)
        models.append(network_contender(name, network, options, images, is_chosen=wanted is not None))
    for folder in options.maps:
        models.append(contenders.folder_contender(free_name(folder.resolve().name, taken), folder))
    return models


def free_name(wanted: str, taken: set[str]) -> str:
    """A name that no other contender has, regardless of case. It is added to `taken`."""
    wanted = _shortened(wanted) or "model"
    name, number = wanted, 1
    while name.lower() in taken:
        number += 1
        name = f"{wanted}-{number}"
    taken.add(name.lower())
    return name


def network_contender(name: str, network: Network, options: Options, images: Images, is_chosen: bool) -> Contender:
    """A network as a contender. Its note says if it was trained on some of the images, and why it is a stand-in."""

    def maps(cases: Sequence[Case]) -> Iterator:
        for prediction in network.predictions([case.sample.stimulus for case in cases], options.params["batch_size"]):
            if prediction.saliency is None:
                raise UserError(
                    f"{prediction.photograph}: {prediction.error}. Replace it, or remove it from the dataset."
                )
            yield prediction.saliency

    names = [sample.name for sample in images.scored]
    known = network.knowledge
    seen = len(known.trained_on(options.data, names)) if known and known.datasets else None
    notes = [f"{seen} of {len(names)} images trained these weights"] if seen else []
    if not is_chosen and name_of(network.weights.path):
        # Readers of the table must not mistake it for the published network.
        notes.insert(0, network.weights.reason)
    record = {**network.record(), "images_that_trained": seen}
    settings = {key: value for key, value in record.items() if key not in INCIDENTAL}
    return Contender(name, maps, record=record, settings=settings, note="; ".join(notes))


def with_density(
    model: Contender, fitted: FittedDensity | None, options: Options, images: Images, target: Path
) -> Contender:
    """A model with the density from a file, a density that is fitted now, or the default."""
    path = options.density
    if options.fit:
        cases = load_cases(images.folder, images.training, options.params["max_dropped"])
        fitted, gained = contenders.fit_contender(model, cases, options.sigma)
        path = target / f"density_{model.name}.json"
        fitted.save(path)
        print(f"{gained} It was saved as {path}.")
    if fitted is None:
        return model
    record = {**model.record, "density": str(path)}
    return replace(model, log_density=fitted.log_density, plain=fitted.plain, record=record)


# --- Scores -----------------------------------------------------------------------------------------------------------


def score_all(
    models: Sequence[Contender], truth: GroundTruth, protocol: Protocol, options: Options
) -> tuple[dict[str, list[dict[str, float]]], dict[str, dict]]:
    """The scores of each contender for each image, and each contender's record, both by name."""
    everyone = [*models, *(contenders.baselines(truth) if options.baselines else [])]
    records = {contender.name: contender.record for contender in everyone}
    # Each core scores its own image, so matrix products must not use several cores.
    with threadpool_limits(1, "blas"):
        scores = {
            each.name: contenders.score_contender(each, truth, protocol, options.metric_maps) for each in everyone
        }
        if options.baselines and any(case.has_observers for case in truth.cases):
            gold = contenders.GOLD_STANDARD
            scores[gold], records[gold] = contenders.score_gold_standard(truth, protocol)
        elif options.baselines:
            print("No gold standard: it needs images with fixations of at least two known observers.")
    return scores, records


# --- The run's folder -------------------------------------------------------------------------------------------------


def settings_of(options: Options, images: Images, protocol: Protocol, models: Sequence[Contender]) -> dict:
    """Everything that determines the result, in JSON types."""
    density = "fitted to the training split" if options.fit else "default"
    if options.density is not None:
        density = f"SHA-256 {file_sha256(options.density)}"
    return {
        **{name: getattr(options, name) for name in ("data", "split", "protocol", "sigma", "baselines", "metric_maps")},
        "folder": str(images.folder.resolve()),
        "saliency": blur_of_made_maps(images.folder),
        "valid_fraction": images.valid_fraction,
        "metrics": list(protocol.metrics),
        "density": density,
        "seed": options.params["seed"],
        "bootstrap_samples": report.BOOTSTRAP_SAMPLES,
        "models": {model.name: model.settings for model in models},
    }


def default_name(options: Options, models: Sequence[Contender], settings: Mapping) -> str:
    """A name for the run's folder that describes it and that is unique to the settings."""
    flags = [name for name in ("baselines", "metric_maps", "fit", "density") if getattr(options, name)]
    words = [options.data, options.split, options.protocol, *(flag.replace("_", "-") for flag in flags)]
    words += [f"sigma-{options.sigma}"] if options.sigma is not None else []
    words += [model.name for model in models]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{_shortened('_'.join(words))}_{digest[:8]}"


def check_same_settings(summary: Path, settings: Mapping) -> None:
    """Raise if a run with other settings would be overwritten; its summary may be missing."""
    try:
        before = json.loads(summary.read_text(encoding="utf-8"))
        changed = [
            f"{key} was {before.get(key)}, now {value}" for key, value in settings.items() if before.get(key) != value
        ]
    except FileNotFoundError:
        return
    except (ValueError, AttributeError):
        changed = ["its summary is not readable"]
    if changed:
        raise UserError(
            f"{summary.parent} contains a run with other settings: {name_some(changed, '; ', 3)}. Choose another "
            f"--name, or move that folder."
        )


def _shortened(name: str) -> str:
    """The beginning of a name, in bytes because file systems limit bytes."""
    return os.fsencode(name)[:LONGEST_NAME].decode(errors="ignore")
