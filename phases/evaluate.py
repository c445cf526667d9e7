"""The evaluation phase: from predictions, or existing maps, to scores with intervals and pictures."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

import msinet
from checkpoint import LITE_PATH, choose_weights, file_sha256, read_knowledge
from data import Sample
from msinet import Network
from scoring import contenders, pictures, report
from scoring.contenders import Contender
from scoring.fitted import FittedDensity
from scoring.fixations import blur_of_made_maps
from scoring.ground_truth import Case, GroundTruth, load_cases
from scoring.protocols import PROTOCOLS, Protocol, usable
from utils import UserError, check_writable, name_some, write_record

# Letters of a run's folder and of a contender's name, beyond which a file system may refuse the names of their files.
LONGEST_NAME = 100

# What of a network's record does not decide its maps: where the weights are, why it is these, how they came about, and
# what computes.
INCIDENTAL = ("weights", "reason", "layout", "gpus", "onednn", "knowledge", "images_that_trained")


@dataclass(frozen=True)
class Options:
    """What to score, and how.

    Attributes:
        data, folder, samples: the dataset's key, its folder, and the images of it to predict.
        part: which images they are, "valid", "train" or "all".
        params: `config.PARAMS` with the user's flags.
        size, mirrored: see `msinet.load`.
        weights: see `choose_weights`; None for the best there are, unless `maps` are given.
        maps: folders of existing maps.
        protocol: a key of `protocols.PROTOCOLS`.
        sigma: see `GroundTruth`.
        baselines: whether to score the baselines and the gold standard too.
        metric_maps: see `contenders.score_contender`.
        density_file: of a density that was fitted before, instead of the default one.
        training: fit each model's density to these.
        valid_fraction: of one's own images that validate, where it decided which the samples are.
        name: of the run's folder in `results/evaluation/`.
    """

    data: str
    folder: Path
    samples: Sequence[Sample]
    part: str
    params: Mapping
    size: tuple[int, int] | str | None = None
    mirrored: bool = False
    weights: Sequence[str] | None = None
    maps: Sequence[Path] = ()
    protocol: str = "tuebingen"
    sigma: float | None = None
    baselines: bool = False
    metric_maps: bool = False
    density_file: Path | None = None
    training: Sequence[Sample] | None = None
    valid_fraction: float | None = None
    name: str | None = None

    @property
    def folder_of_runs(self) -> Path:
        return Path(self.params["results"]) / "evaluation"


def run(options: Options) -> None:
    """Score networks and folders of maps, print one table, and write the run's files."""
    if not options.samples:
        raise UserError(f"The {options.part} part of {options.folder} holds no image; choose another --split.")
    check_name(options)
    check_writable(options.folder_of_runs)
    protocol, left_out = usable(PROTOCOLS[options.protocol])
    if left_out:
        print(left_out)
    fitted = None if options.density_file is None else FittedDensity.load(options.density_file)

    models = load_models(options)
    settings = settings_of(options, protocol, models)
    target = options.folder_of_runs / (options.name or default_name(options, models, settings))
    check_same_settings(target / "summary.json", settings)
    check_writable(target)

    truth = GroundTruth(load_cases(options.folder, options.samples), options.sigma, options.params["seed"])
    models = [with_density(model, fitted, options, target) for model in models]
    scores, records = score_all(models, truth, protocol, options)

    seed = options.params["seed"]
    columns = report.estimates(scores, seed)
    compared = report.differences({model.name: scores[model.name] for model in models}, seed)
    print(f"\n{title(options, models)}\n")
    print(report.table(columns, protocol))
    if compared:
        print(f"\nDifference from {models[0].name} on the same images\n")
        print(report.table(compared, protocol))

    report.write_per_image(target / "per_image.csv", [case.sample.name for case in truth.cases], scores)
    pictures.draw_distributions(target / "distributions.png", scores, protocol)
    metric = "NSS" if columns[models[0].name]["NSS"].images else "CC"
    for model in models:
        path = target / f"examples_{model.name}.png"
        pictures.draw_examples(path, model, truth, protocol, scores[model.name], metric)
        worst_by = "IG" if columns[model.name]["IG"].images else metric
        path = target / f"worst_{model.name}.jpeg"
        pictures.draw_worst(path, model, truth, protocol, scores[model.name], worst_by)
    summary = {
        **settings,
        "images": len(options.samples),
        "fixations": sum(len(case.fixations) for case in truth.cases),
        "centre_bias": {"bandwidth": truth.centre_bias.bandwidth, "uniform_share": truth.centre_bias.uniform},
        "contenders": records,
        "scores": report.as_json(columns),
        "differences_from_the_first": report.as_json(compared),
    }
    # The last: a folder without it is that of a run that was stopped, and may be replaced by any other.
    write_record(target / "summary.json", summary)
    print(f"\nScores of every image, the summary and pictures are in {target}.")


# --- Who predicts -----------------------------------------------------------------------------------------------------


def load_models(options: Options) -> list[Contender]:
    """The networks and folders to compare, each under a name of its own."""
    taken = {contenders.UNIFORM, contenders.CENTRE_BIAS, contenders.GOLD_STANDARD} if options.baselines else set()
    models = []
    if options.weights or not options.maps:
        chosen: Sequence[str | None] = options.weights or [None]
        for wanted in chosen:
            network = msinet.load(
                wanted,
                data=options.data,
                results=options.params["results"],
                input_size=options.size,
                device=options.params["device"],
                mirrored=options.mirrored,
                precision=options.params["precision"],
                gpus=options.params["gpus"],
            )
            print(network.summary())
            name = free_name(network.weights.path.name.split(".")[0], taken)
            # Nobody asked for it: whoever reads the table must not take it for the published network.
            note = network.weights.reason if wanted is None and network.weights.path == LITE_PATH else ""
            models.append(network_contender(name, network, options, note))
    for folder in options.maps:
        models.append(contenders.folder_contender(free_name(folder.resolve().name, taken), folder))
    return models


def fraction_of_training(data: str, weights: Sequence[str] | None, results: Path) -> float | None:
    """The share of one's own images that validated while the first of some weights was trained, where that is known."""
    choice = choose_weights(data, weights[0] if weights else None, results)
    knowledge = read_knowledge(choice.path)
    return knowledge.valid_fraction if knowledge else None


def free_name(wanted: str, taken: set[str]) -> str:
    """A name that no other contender has, also where upper and lower case count the same; it is taken from now on."""
    wanted = _shortened(wanted) or "model"
    candidates = itertools.chain([wanted], (f"{wanted}-{i}" for i in itertools.count(2)))
    name = next(candidate for candidate in candidates if candidate.lower() not in taken)
    taken.add(name.lower())
    return name


def network_contender(name: str, network: Network, options: Options, note: str = "") -> Contender:
    """A network that predicts; its note says too when it was trained on images that it is scored on."""

    def maps(cases: Sequence[Case]) -> Iterator:
        for prediction in network.predictions([case.sample.stimulus for case in cases], options.params["batch_size"]):
            if prediction.saliency is None:
                raise UserError(
                    f"{prediction.photograph}: {prediction.error}. Replace it, or take it out of the dataset."
                )
            yield prediction.saliency

    names = [sample.name for sample in options.samples]
    known = network.knowledge
    seen = len(known.trained_on(options.data, names)) if known and known.datasets else None
    if seen:
        note = "; ".join([*([note] if note else []), f"{seen} of {len(names)} images trained these weights"])
    record = {**network.record(), "images_that_trained": seen}
    settings = {key: value for key, value in record.items() if key not in INCIDENTAL}
    return Contender(name, maps, record=record, settings=settings, note=note)


def with_density(model: Contender, fitted: FittedDensity | None, options: Options, target: Path) -> Contender:
    """A model with the density that was asked for: one from a file, one fitted now, or the default."""
    if fitted is not None and options.density_file is not None:
        return model.with_density(fitted, options.density_file)
    if options.training is None:
        return model
    fitted, gained = contenders.fit_contender(model, load_cases(options.folder, options.training))
    path = target / f"density_{model.name}.json"
    fitted.save(path)
    print(f"{gained} It is in {path}.")
    return model.with_density(fitted, path)


# --- Scores -----------------------------------------------------------------------------------------------------------


def score_all(
    models: Sequence[Contender], truth: GroundTruth, protocol: Protocol, options: Options
) -> tuple[dict[str, list[dict[str, float]]], dict[str, dict]]:
    """By name, the scores of each contender's predictions in the order of the images, and what each contender is."""
    everyone = [*models, *(contenders.baselines(truth) if options.baselines else [])]
    records = {contender.name: contender.record for contender in everyone}
    # Every core has an image of its own; that products of matrices take several cores too would only hinder.
    with threadpool_limits(1, "blas"):
        scores = {
            contender.name: contenders.score_contender(contender, truth, protocol, options.metric_maps)
            for contender in everyone
        }
        if options.baselines and any(case.has_observers for case in truth.cases):
            gold = contenders.GOLD_STANDARD
            scores[gold], records[gold] = contenders.score_gold_standard(truth, protocol)
        elif options.baselines:
            print("No gold standard: it needs images with fixations of two known observers at least.")
    return scores, records


def title(options: Options, models: Sequence[Contender]) -> str:
    """What stands above the table."""
    line = (
        f"{len(options.samples)} images of {options.data} ({options.part}), protocol {options.protocol}; "
        f"mean [95 % interval over images]"
    )
    return "\n".join([line, *(f"{model.name}: {model.note}" for model in models if model.note)])


# --- The run's folder -------------------------------------------------------------------------------------------------


def settings_of(options: Options, protocol: Protocol, models: Sequence[Contender]) -> dict:
    """All that decides the result, as JSON has it."""
    density = "default" if options.training is None else "fitted to the training split"
    if options.density_file is not None:
        density = f"SHA-256 {file_sha256(options.density_file)}"
    return {
        "data": options.data,
        "folder": str(options.folder.resolve()),
        "saliency": blur_of_made_maps(options.folder),
        "split": options.part,
        "valid_fraction": options.valid_fraction,
        "protocol": protocol.name,
        "metrics": list(protocol.metrics),
        "sigma": options.sigma,
        "baselines": options.baselines,
        "metric_maps": options.metric_maps,
        "density": density,
        "seed": options.params["seed"],
        "bootstrap_samples": report.BOOTSTRAP_SAMPLES,
        "models": {model.name: model.settings for model in models},
    }


def default_name(options: Options, models: Sequence[Contender], settings: Mapping) -> str:
    """A name for the run's folder that says what is in it, and that only the same settings have."""
    flags = {
        "baselines": options.baselines,
        "metric-maps": options.metric_maps,
        "fit": options.training is not None,
        "density": options.density_file is not None,
        f"sigma-{options.sigma}": options.sigma is not None,
    }
    given = [flag for flag, given in flags.items() if given]
    words = [options.data, options.part, options.protocol, *given, *(model.name for model in models)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{_shortened('_'.join(words))}_{digest[:8]}"


def check_name(options: Options) -> None:
    """Check that `--name` is that of a folder, in the folder of all runs."""
    name = options.name
    if name is not None and (Path(name).name != name or name in ("", "..") or set(name) & set("/\\\0")):
        raise UserError(
            f"--name names a folder in {options.folder_of_runs}, and so is neither empty nor '..', and holds no "
            f"slash; received {name!r}."
        )


def check_same_settings(summary: Path, settings: Mapping) -> None:
    """Check that no run of other settings would be lost.

    Args:
        summary: where the run's will be.
        settings: see `settings_of`.

    Raises:
        UserError: there is one; it names what differs.
    """
    if not summary.exists():
        return
    try:
        before = json.loads(summary.read_text(encoding="utf-8"))
        changed = [
            f"{key} was {before.get(key)}, now {value}" for key, value in settings.items() if before.get(key) != value
        ]
    except (ValueError, AttributeError):
        changed = ["its summary cannot be read"]
    if changed:
        raise UserError(
            f"{summary.parent} holds a run with other settings: {name_some(changed, '; ', 3)}. Choose another --name, "
            f"or move that folder away."
        )


def _shortened(name: str) -> str:
    """The beginning of a name, which file systems count in bytes."""
    return os.fsencode(name)[:LONGEST_NAME].decode(errors="ignore")
