"""Datasets and published weights: where they come from, and how they get onto the disk, whole or not at all."""

import contextlib
import errno
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout

from acquisition.archives import extract
from acquisition.convert import READERS, by_name, convert
from acquisition.transfer import GOOGLE_DRIVE, NoSpaceError, fetch, file_md5, unreachable
from utils import DownloadError, whole_file

WEIGHTS_FOLDER = Path(__file__).parent / "weights"

# Beside the datasets: archives on their way, datasets that are being made, and the checksums of earlier downloads.
WORKSHOP = ".downloads"


@dataclass(frozen=True)
class Archive:
    """A file to fetch, and what to take from it.

    Attributes:
        file: what it is called on the disk, and at a mirror.
        urls: where it is; tried in order.
        members: what is unpacked, and where it goes; see `archives.extract`. A dataset's photographs go to `stimuli`,
            ready maps to `saliency`, and what has to be converted to `raw`. Empty for a file that is no archive.
        md5: the published checksum, if there is one. Any other is recorded when the file is used for the first time.
        member_md5: published checksums of members, by where they go.
        certificate_is_invalid: whether the host is known for that; `md5` stands in for the certificate.
        result: for weights, the file or checkpoint prefix that comes of it.
    """

    file: str
    urls: tuple[str, ...]
    members: tuple[tuple[str, str], ...] = ()
    md5: str | None = None
    member_md5: Mapping[str, str] = field(default_factory=dict)
    certificate_is_invalid: bool = False
    result: str = ""


@dataclass(frozen=True)
class Source:
    """A dataset's row in the table.

    Attributes:
        title: the name that its authors gave it.
        archives: all are needed.
        images: the number of photographs with fixations.
        observers: how many people looked.
        terms: the licence or terms of use, as far as they are known.
        citation: the paper to cite.
        sigma: of the Gaussian in pixels that makes saliency maps of fixations; None where the archive has the maps.
        size: on the disk, if known.
    """

    title: str
    archives: tuple[Archive, ...]
    images: int
    observers: str
    terms: str
    citation: str
    sigma: float | None = None
    size: str = "not measured"


def _drive(file_id: str) -> tuple[str, ...]:
    return (GOOGLE_DRIVE + file_id,)


# A file's name inside an archive, without its suffix.
NAME = r"([^/.][^/]*)"

SOURCES = {
    "salicon": Source(
        "SALICON",
        (
            Archive(
                "salicon-stimuli.zip",
                _drive("1g8j-hTT-51IG1UFwP0xTGhLdgIUCW5e5"),
                ((rf"images/(train|val)/{NAME}\.jpg", r"stimuli/\1/\2.jpg"),),
                "eb2a1bb706633d1b31fc2e01422c5757",
            ),
            Archive(
                "salicon-fixations.zip",
                _drive("1P-jeZXCsjoKO79OhFUgnj6FGcyvmLDPj"),
                ((rf"(train|val)/{NAME}\.mat", r"raw/\1/\2.mat"),),
                "462b70f4f9e8ea446ac628e46cea8d3d",
            ),
            Archive(
                "salicon-maps.zip",
                _drive("1PnO7szbdub1559LfjYHMy65EDC4VhJC8"),
                ((rf"(train|val)/{NAME}\.png", r"saliency/\1/\2.png"),),
            ),
        ),
        images=15_000,
        observers="about 60 an image, by mouse",
        terms="not known, see salicon.net; the photographs are from MS COCO, under the terms of Flickr",
        citation="Jiang, Huang, Duan, Zhao: SALICON: Saliency in Context. CVPR 2015. doi:10.1109/CVPR.2015.7298710",
        size="2.3 GB of photographs",
    ),
    "mit1003": Source(
        "MIT1003",
        (
            Archive(
                "ALLSTIMULI.zip",
                ("https://people.csail.mit.edu/tjudd/WherePeopleLook/ALLSTIMULI.zip",),
                ((rf"{NAME}\.jpeg", r"stimuli/\1.jpeg"),),
                "0d7df8b954ecba69b6796e77b9afe4b6",
            ),
            Archive(
                "ALLFIXATIONMAPS.zip",
                ("https://people.csail.mit.edu/tjudd/WherePeopleLook/ALLFIXATIONMAPS.zip",),
                # A stray "...p1010764fixPts.jpg", without the underscore, is of no photograph.
                (
                    (rf"{NAME}_fixMap\.jpg", r"saliency/\1.jpg"),
                    (rf"{NAME}_fixPts\.jpg", r"raw/\1.jpg"),
                ),
            ),
        ),
        images=1_003,
        observers="15",
        terms="not known; the photographs are from Flickr and LabelMe",
        citation="Judd, Ehinger, Durand, Torralba: Learning to Predict Where Humans Look. ICCV 2009. "
        "doi:10.1109/ICCV.2009.5459462",
    ),
    "cat2000": Source(
        "CAT2000, training part",
        (
            Archive(
                "trainSet.zip",
                ("http://saliency.mit.edu/trainSet.zip",),
                # One level of folders: in each category there is a folder "Output" besides.
                (
                    (rf"Stimuli/{NAME}/{NAME}\.jpg", r"stimuli/\1/\2.jpg"),
                    (rf"FIXATIONLOCS/{NAME}/(?!allFixData){NAME}\.mat", r"raw/\1/\2.mat"),
                    (rf"FIXATIONMAPS/{NAME}/{NAME}\.(jpg|png)", r"saliency/\1/\2.\3"),
                ),
                "56ad5c77e6c8f72ed9ef2901628d6e48",
            ),
        ),
        images=2_000,
        observers="18 an image",
        terms="not known",
        citation="Borji, Itti: CAT2000: A Large Scale Fixation Dataset for Boosting Saliency Research. 2015. "
        "arXiv:1505.03581",
    ),
    "dutomron": Source(
        "DUT-OMRON",
        (
            Archive(
                "DUT-OMRON-image.zip",
                ("http://saliencydetection.net/dut-omron/download/DUT-OMRON-image.zip",),
                ((rf"{NAME}\.jpg", r"stimuli/\1.jpg"),),
            ),
            Archive(
                "DUT-OMRON-eye-fixations.zip",
                ("http://saliencydetection.net/dut-omron/download/DUT-OMRON-eye-fixations.zip",),
                ((rf"{NAME}\.mat", r"raw/\1.mat"),),
            ),
        ),
        images=5_168,
        observers="5",
        terms="not known",
        citation="Yang, Zhang, Lu, Ruan, Yang: Saliency Detection via Graph-Based Manifold Ranking. CVPR 2013. "
        "doi:10.1109/CVPR.2013.407",
        sigma=16,
    ),
    "pascals": Source(
        "PASCAL-S",
        (
            Archive(
                "salObj.zip",
                ("http://cbs.ic.gatech.edu/salobj/download/salObj.zip",),
                (
                    (r"[^/]*imgs/pascal/(\d+)\.jpg", r"stimuli/\1.jpg"),
                    (r"[^/]*pascal/humanFix/(\d+)\.png", r"saliency/\1.png"),
                    (r"(pascalFix|pascalSize)\.mat", r"raw/\1.mat"),
                ),
                "e48b4e5deac08bddcaec55ce56e4d420",
                certificate_is_invalid=True,
            ),
        ),
        images=850,
        observers="8",
        terms="not known; the photographs are from PASCAL VOC 2010, under the terms of Flickr",
        citation="Li, Hou, Koch, Rehg, Yuille: The Secrets of Salient Object Segmentation. CVPR 2014. "
        "doi:10.1109/CVPR.2014.43",
    ),
    "osie": Source(
        "OSIE",
        (
            Archive(
                "predicting-human-gaze-beyond-pixels-master.zip",
                ("https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels/archive/master.zip",),
                (
                    (rf"data/stimuli/{NAME}\.jpg", r"stimuli/\1.jpg"),
                    (r"data/eye/fixations\.mat", r"raw/fixations.mat"),
                ),
                member_md5={"raw/fixations.mat": "8efdf6fe66f38b6e70f854c7ff45aa70"},
            ),
        ),
        images=700,
        observers="15",
        terms="MIT licence",
        citation="Xu, Jiang, Wang, Kankanhalli, Zhao: Predicting Human Gaze Beyond Pixels. Journal of Vision 14(1), "
        "2014. doi:10.1167/14.1.28",
        sigma=16,
        size="73 MB",
    ),
    "fiwi": Source(
        "FIWI",
        (
            Archive(
                "webpage_dataset.zip",
                ("https://www.dropbox.com/s/30nxg2uwd1wpb80/webpage_dataset.zip?dl=1",),
                (
                    (rf"[^/]*stimuli/{NAME}\.png", r"stimuli/\1.png"),
                    (rf"[^/]*all5/{NAME}\.png", r"raw/\1.png"),
                ),
            ),
        ),
        images=149,
        observers="11",
        terms="not known; screenshots of web pages",
        citation="Shen, Zhao: Webpage Saliency. ECCV 2014. doi:10.1007/978-3-319-10584-0_3",
        sigma=30,
    ),
}


# --- Published weights ------------------------------------------------------------------------------------------------

# Google Drive's names for the zip archives of the networks' frozen graphs. Both layouts hold the same weights.
NETWORKS = {
    "salicon": {"cpu": "1Xy9C72pcA8DO4CY0rc6B7wsuE9L9DDZY", "gpu": "1Th7fqVYx25ePMZz4LYsjNQWgAu8tJqwL"},
    "mit1003": {"cpu": "1jsESjYtsTvkMqKftA4rdstfB7mSYw5Ec", "gpu": "1P_tWxBl3igZlzcHGp5H3T3kzsOskWeG6"},
    "cat2000": {"cpu": "1XxaEx7xxD6rHasQTa-VY7T7eVpGhMxuV", "gpu": "1T6ChEGB6Mf02gKXrENjdeD6XXJkE_jHh"},
    "dutomron": {"cpu": "14tuRZpKi8LMDKRHNVUylu6RuAaXLjHTa", "gpu": "15LG_M45fpYC1pTwnwmArNTZw_Z3BOIA-"},
    "pascals": {"cpu": "1af9IvBqFamKWx64Ror6ALivuKNioOVIf", "gpu": "1C-T-RQzX2SaiY9Nw1HmaSx6syyCt01Z0"},
    "osie": {"cpu": "1JD1tvAqZGxj_gEGmIfoxb9dTe5HOaHj1", "gpu": "1g8UPr1hGpUdOSWerRb751pZqiWBOZOCh"},
    "fiwi": {"cpu": "19qj9nAjd5gVHLB71oRn_YfYDw5n4Uf2X", "gpu": "12OpIMIi2IyDVaxkE2d37XO9uUsSYf1Ec"},
}

SALICON_ON_HUGGING_FACE = Archive(
    "saved_model.pb",
    ("https://huggingface.co/alexanderkroner/MSI-Net/resolve/main/saved_model.pb",),
    result="saved_model.pb",
)


# Keras' own, whose address and checksum are in keras/applications/vgg16.py.
KERAS_VGG16 = Archive(
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    (
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    md5="6d6bbae143d832006294945121d1f1fc",
    result="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
)


def _network(dataset: str, layout: str) -> Archive:
    key = f"model_{dataset}_{layout}"
    return Archive(f"{key}.zip", _drive(NETWORKS[dataset][layout]), ((rf"{key}\.pb", f"{key}.pb"),), result=f"{key}.pb")


def _networks(dataset: str, layout: str) -> tuple[Archive, ...]:
    """A network's weights, the best source first. As a quota may be used up, the other layout will do as well."""
    other = {"cpu": "gpu", "gpu": "cpu"}[layout]
    elsewhere = (SALICON_ON_HUGGING_FACE,) if dataset == "salicon" else ()
    return (*elsewhere, _network(dataset, layout), _network(dataset, other))


# For each key the files that serve, of which one is enough.
WEIGHTS = {
    "vgg16_hybrid": (
        Archive(
            "vgg16_hybrid.zip",
            _drive("1ff0va472Xs1bvidCwRlW3Ctf7Hbyyn7p"),
            tuple((rf"(vgg16_hybrid\.ckpt\.{suffix})", r"\1") for suffix in (r"data-\d{5}-of-\d{5}", "index")),
            result="vgg16_hybrid.ckpt",
        ),
        KERAS_VGG16,
    ),
    **{f"model_{dataset}_{layout}": _networks(dataset, layout) for dataset in NETWORKS for layout in ("cpu", "gpu")},
}


# --- What the rest of the program asks for ----------------------------------------------------------------------------


def dataset(name: str, folder: Path, source: str | None = None) -> Path:
    """Make a dataset's folder, unless it is there: download, unpack, convert and check it.

    Killed at any moment, it continues when it is called again. Of two processes one works, and the other waits.

    Args:
        name: a key of `SOURCES`.
        folder: where the dataset's folder `name` goes, with `stimuli`, `fixations` (binary PNG, 0 and 255), `saliency`
            and `fixations.csv` (image, x, y, observer; one row a fixation; -1 for an observer who is not known).
        source: a file or folder with the archives, or the http(s) address of a mirror; None for the published ones.

    Returns:
        The dataset's folder, complete.

    Raises:
        DownloadError: it says what failed and what to do.
    """
    row, target = SOURCES[name], folder / name
    if target.is_dir() and not incomplete(target, row.images):
        return target
    with _plain_errors(folder), _locked(folder, name) as workshop:
        if target.exists() and any(target.iterdir()):
            if complaint := incomplete(target, row.images):
                raise DownloadError(
                    f"{target} exists, but is not the complete dataset: {complaint}. Rename or remove it, and run the "
                    f"command again."
                )
            return target
        print(f"Making {target}: {row.images} photographs and their fixations ({row.title}).", flush=True)
        command = f"python main.py download -d {name} -p {folder} --from FOLDER"
        files = [_obtain(archive, workshop, source, row.archives, command) for archive in row.archives]
        complete = _make(name, row, files, workshop)
        for file in files:
            file.record()
        if target.exists():
            target.rmdir()
        complete.replace(target)
        shutil.rmtree(workshop)
        print(f"{target} is complete. Please cite: {row.citation}", flush=True)
    return target


def weights(key: str, folder: Path, source: str | None = None) -> Path:
    """Fetch published weights, unless they are there.

    Args:
        key: of `WEIGHTS`: "model_<dataset>_<cpu|gpu>" or "vgg16_hybrid".
        folder: where they go.
        source: see `dataset`.

    Returns:
        The file, or the prefix of the TensorFlow checkpoint. Of a network it may be the other layout's, or a
        SavedModel's, with the same weights; in place of "vgg16_hybrid", Keras' ImageNet VGG16.

    Raises:
        DownloadError: it says what failed and what to do. That there is no network is known within 5 seconds.
    """
    archives, failures = WEIGHTS[key], []
    # Looked for before the lock, as the folder may be one that only an administrator writes to.
    if there := _find_weights(folder, archives):
        return there
    with _plain_errors(folder), _locked(folder, key) as workshop:
        if there := _find_weights(folder, archives):
            return there
        urls = {url for archive in archives for url in archive.urls}
        dead = unreachable(list(urls)) if source is None else {}
        for archive in archives:
            if dead.keys() >= set(archive.urls):
                failures.append("; ".join(f"{url}: {dead[url]}" for url in archive.urls))
                continue
            try:
                file = _obtain(archive, workshop, source, archives)
                _install(archive, file, workshop, folder)
                file.record()
                shutil.rmtree(workshop)
                return folder / archive.result
            except NoSpaceError:
                raise
            except DownloadError as error:
                failures.append(str(error).rstrip("."))
                print(f"{archive.file} cannot be had ({failures[-1]}).", flush=True)
        hint = _by_hand(archives, _weights_command(key), one_is_enough=True)
        hosts = dict.fromkeys(urlsplit(url).hostname or url for archive in archives for url in archive.urls)
        brief = f"{' and '.join(hosts)} cannot be reached" if len(dead) == len(urls) else failures[0]
        raise DownloadError(f"The weights {key} cannot be had: {'; '.join(failures)}. {hint}", brief)


def incomplete(folder: Path, images: int) -> str:
    """What a dataset's folder lacks or has too much, in words; empty for a complete one."""
    names = {kind: set(by_name(folder / kind)) for kind in ("stimuli", "fixations", "saliency")}
    if len(names["stimuli"]) != images:
        return f"{len(names['stimuli'])} photographs, expected {images}"
    for kind in ("fixations", "saliency"):
        if odd := sorted(names[kind] ^ names["stimuli"]):
            return f"stimuli and {kind} differ in {len(odd)} names, {odd[0]} among them"
    return ""


def table() -> str:
    """The datasets as a table in Markdown, for people."""
    lines = ["| dataset | images | observers | size | licence or terms | citation |", "|---|---|---|---|---|---|"]
    for name, row in SOURCES.items():
        lines.append(
            f"| `{name}` ({row.title}) | {row.images} | {row.observers} | {row.size} | {row.terms} | {row.citation} |"
        )
    return "\n".join(lines)


# --- From an archive to a folder --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetched:
    """An archive on the disk: where, its MD5, whether it is the user's own, and where to record its checksum."""

    path: Path
    md5: str
    is_users: bool
    record_path: Path | None

    def record(self) -> None:
        """Keep the checksum, in the format of `md5sum`, for every later download."""
        if self.record_path:
            with whole_file(self.record_path) as temporary:
                temporary.write_text(f"{self.md5}  {self.path.name}\n", encoding="utf-8")


def _obtain(
    archive: Archive, workshop: Path, source: str | None, siblings: Sequence[Archive], command: str = ""
) -> Fetched:
    """Have an archive on the disk, with the right checksum."""
    record = None if archive.md5 else workshop.parent / f"{archive.file}.md5"
    recorded = record.read_text(encoding="utf-8").split()[0] if record and record.exists() else None
    expected = archive.md5 or recorded
    try:
        if source is not None and "://" not in source:
            path = _local(archive, Path(source), siblings)
            md5 = file_md5(path)
        else:
            path = workshop / archive.file
            urls = archive.urls if source is None else (_at_mirror(archive, source, siblings),)
            # An earlier run may have fetched it, and been stopped later.
            md5 = file_md5(path) if path.exists() else ""
            if not md5 or expected not in (None, md5):
                md5 = fetch(urls, path, expected, certificate_is_invalid=archive.certificate_is_invalid)
        if expected not in (None, md5):
            raise DownloadError(f"{path} has the wrong checksum: received MD5 {md5}, expected {expected}.")
    except NoSpaceError:
        raise
    except DownloadError as error:
        hint = _by_hand(siblings, command) if command else ""
        if recorded and "checksum" in str(error):
            hint = f"It was another file when it was first used; if its owners have changed it, remove {record}. {hint}"
        raise DownloadError(f"{error} {hint}".rstrip()) from error
    return Fetched(path, md5, path.parent != workshop, record)


def _local(archive: Archive, source: Path, siblings: Sequence[Archive]) -> Path:
    path = source / archive.file if source.is_dir() else source
    if path.is_file() and (len(siblings) == 1 or path.name == archive.file):
        return path
    if not source.exists():
        raise DownloadError(f"There is nothing at {source}.")
    raise DownloadError(f"{source} does not hold {archive.file}.")


def _at_mirror(archive: Archive, source: str, siblings: Sequence[Archive]) -> str:
    if len(siblings) == 1 and urlsplit(source).path.endswith(Path(archive.file).suffix):
        return source
    return f"{source.rstrip('/')}/{quote(archive.file)}"


def _make(name: str, row: Source, files: Sequence[Fetched], workshop: Path) -> Path:
    """From archives to the complete folder of a dataset, still in the workshop."""
    # Named after the archives, so that what an earlier run made of others is not mixed in.
    build = workshop / hashlib.sha256("".join(file.md5 for file in files).encode()).hexdigest()[:16]
    try:
        for archive, file in zip(row.archives, files, strict=True):
            extract(file.path, build, archive.members, archive.member_md5)
        stimuli = by_name(build / "stimuli")
        if len(stimuli) != row.images:
            raise DownloadError(f"The archive holds {len(stimuli)} photographs, expected {row.images}.")
        for note in convert(stimuli, build, build / "raw", READERS[name], row.sigma):
            print(note)
        shutil.rmtree(build / "raw")
        for leftover in [file for file in build.rglob(".*") if file.is_file()]:  # of a run that was killed
            leftover.unlink()
        if complaint := incomplete(build, row.images):
            raise DownloadError(f"The archives do not hold the complete dataset: {complaint}.")
    except NoSpaceError:
        raise
    except DownloadError as error:
        _discard(row.archives, files, build)
        raise DownloadError(f"{error} No dataset was made. Fetch another copy, and name it with --from.") from error
    return build


def _install(archive: Archive, file: Fetched, workshop: Path, folder: Path) -> None:
    """Put weights into their folder, the file by which they are found last."""
    if not archive.members:
        with whole_file(folder / archive.file) as temporary:
            shutil.copyfile(file.path, temporary)
        return
    unpacked = workshop / "unpacked"
    try:
        shutil.rmtree(unpacked, ignore_errors=True)
        extract(file.path, unpacked, archive.members)
    except NoSpaceError:
        raise
    except DownloadError:
        _discard([archive], [file], unpacked)
        raise
    for member in sorted(unpacked.iterdir(), key=lambda path: path.suffix == ".index"):
        member.replace(folder / member.name)


def _find_weights(folder: Path, archives: Sequence[Archive]) -> Path | None:
    for archive in archives:
        path = folder / archive.result
        if path.is_file() or path.with_name(f"{path.name}.index").is_file():
            return path
    return None


def _discard(archives: Sequence[Archive], files: Sequence[Fetched], build: Path) -> None:
    """Remove what cannot be used, so that the next run fetches it anew."""
    shutil.rmtree(build, ignore_errors=True)
    for archive, file in zip(archives, files, strict=True):
        if not file.is_users and not archive.md5:
            file.path.unlink(missing_ok=True)


def _by_hand(archives: Sequence[Archive], command: str, one_is_enough: bool = False) -> str:
    files = [f"{archive.urls[0]} as {archive.file}" for archive in archives]
    where = "in a folder of its own" if len(files) == 1 or one_is_enough else "in one folder"
    return f"By hand: save {(' or ' if one_is_enough else ' and ').join(files)} {where}, then run: {command}"


def _weights_command(key: str) -> str:
    data = key.split("_")[1] if key.startswith("model_") else "salicon"
    return f"python main.py download -d {data} --weights --from FOLDER"


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[Path]:
    """A folder to work in that no other process uses. The lock of a process that dies is free."""
    workshop = folder / WORKSHOP / name
    workshop.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workshop.with_name(f"{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Waiting for another process that is fetching {name} into {folder}.", flush=True)
        lock.acquire()
    try:
        # The process that was waited for has removed it.
        workshop.mkdir(parents=True, exist_ok=True)
        yield workshop
        with contextlib.suppress(OSError):
            workshop.rmdir()  # if nothing is left in it
    finally:
        lock.release()


@contextlib.contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise DownloadError(
                f"The disk of {folder} is full. What was fetched is kept: make room, and run the command again."
            ) from error
        raise DownloadError(f"{folder} cannot be written to ({error}). Choose another folder with -p.") from error
