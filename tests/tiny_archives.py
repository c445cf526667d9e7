"""Tiny archives in the exact formats of the seven datasets, their fixations, and downloads of them that fail."""

import io
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from msinet import download
from msinet.utils import DownloadError

HEIGHT, WIDTH = 40, 56
COUNT = 4  # images of every dataset


def photograph(seed: int) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


def fixations(seed: int) -> list[np.ndarray]:
    """x, y for each of three observers; two observers share a pixel, and the third has no fixations."""
    random = np.random.default_rng(100 + seed)
    first, second = (np.column_stack([random.integers(1, WIDTH, n), random.integers(1, HEIGHT, n)]) for n in (4, 3))
    return [first, np.concatenate([second, first[:1]]), np.zeros((0, 2), int)]


def binary_map(seed: int) -> np.ndarray:
    """The fixations as uint8 (HEIGHT, WIDTH), 0 and 255."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for points in fixations(seed):
        pixels[points[:, 1], points[:, 0]] = 255
    return pixels


def encode(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def jpeg(seed: int) -> bytes:
    return encode(photograph(seed), "JPEG", quality=90)


def mat(**variables) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables)
    return buffer.getvalue()


def cell(values) -> np.ndarray:
    """A MATLAB cell array, (n, 1)."""
    cells = np.empty((len(values), 1), object)
    cells[:, 0] = values
    return cells


def salicon() -> list[dict[str, bytes]]:
    stimuli, tables, maps = {}, {}, {}
    for i in range(COUNT):
        name = f"{'train' if i < 2 else 'val'}/COCO_{i:012d}"
        gaze = np.zeros((3, 1), [("location", object), ("timestamp", object), ("fixations", object)])
        for observer, points in enumerate(fixations(i)):
            gaze[observer, 0] = (points + 0.5, np.arange(len(points)), (points + 1).astype(np.uint16))
        stimuli[f"images/{name}.jpg"] = jpeg(i)
        tables[f"{name}.mat"] = mat(gaze=gaze, resolution=[[HEIGHT, WIDTH]], image=name)
        maps[f"{name}.png"] = encode(photograph(i)[..., 0], "PNG")
    stimuli["images/test/COCO_test.jpg"] = jpeg(9)
    tables["test/COCO_test.mat"] = mat(resolution=[[HEIGHT, WIDTH]])
    return [stimuli, tables, maps]


def mit1003() -> list[dict[str, bytes]]:
    stimuli = {f"ALLSTIMULI/i{i}.jpeg": jpeg(i) for i in range(COUNT)}
    maps = {f"ALLFIXATIONMAPS/i{i}_fixMap.jpg": encode(photograph(i)[..., 0], "JPEG") for i in range(COUNT)}
    points = {f"ALLFIXATIONMAPS/i{i}_fixPts.jpg": encode(binary_map(i), "JPEG", quality=100) for i in range(COUNT)}
    stray = {"ALLFIXATIONMAPS/i05june05_static_street_boston_p1010764fixPts.jpg": encode(binary_map(9), "JPEG")}
    return [stimuli, maps | points | stray]


def cat2000() -> list[dict[str, bytes]]:
    """Two categories with the same names; the first photograph has a wrong EXIF rotation, like Pattern/134."""
    members = {}
    for i in range(COUNT):
        name = f"{('Action', 'Pattern')[i // 2]}/{i % 2 + 1:03d}"
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1
        members[f"trainSet/Stimuli/{name}.jpg"] = encode(photograph(i), "JPEG", exif=exif.tobytes())
        members[f"trainSet/FIXATIONLOCS/{name}.mat"] = mat(fixLocs=binary_map(i) // 255)
        members[f"trainSet/FIXATIONMAPS/{name}.jpg"] = encode(photograph(i)[..., 0], "JPEG")
        folder, _, number = name.partition("/")
        members[f"trainSet/Stimuli/{folder}/Output/{number}_SaliencyMap.jpg"] = jpeg(i)
        members[f"trainSet/FIXATIONMAPS/{folder}/Output/{number}.jpg"] = jpeg(i)
    members["trainSet/allFixData.mat"] = mat(allFixData=1)
    return [members]


def dutomron() -> list[dict[str, bytes]]:
    stimuli, tables = {}, {}
    for i in range(COUNT):
        observers = [np.column_stack([points, np.full(len(points), k + 1)]) for k, points in enumerate(fixations(i))]
        rows = np.concatenate([*observers[::-1], [[WIDTH, HEIGHT, 0]]])
        stimuli[f"DUT-OMRON-image/im{i}.jpg"] = jpeg(i)
        tables[f"DUT-OMRON-eye-fixations/mat/im{i}.mat"] = mat(s=rows.astype(np.uint16))
    stimuli["__MACOSX/DUT-OMRON-image/._im0.jpg"] = b"resource fork"
    tables["DUT-OMRON-eye-fixations/mat/._im0.mat"] = b"resource fork"
    return [stimuli, tables]


def pascals() -> list[dict[str, bytes]]:
    members = {}
    for i in range(COUNT):
        members[f"datasets/imgs/pascal/{i + 1}.jpg"] = jpeg(i)
        members[f"datasets/imgs/bruce/{i + 1}.jpg"] = jpeg(i)
        members[f"algmaps/pascal/humanFix/{i + 1}.png"] = encode(photograph(i)[..., 0], "PNG")
        members[f"algmaps/pascal/itti/{i + 1}.png"] = encode(photograph(i)[..., 0], "PNG")
    members["datasets/fixations/pascalFix.mat"] = _hdf5(_write_cells)
    members["datasets/fixations/pascalSize.mat"] = _hdf5(
        lambda file: file.create_dataset("sizeData", data=np.tile([[HEIGHT], [WIDTH]], COUNT).astype(float))
    )
    return [members]


def _write_cells(file: h5py.File) -> None:
    cells = file.create_dataset("fixCell", (1, COUNT), h5py.ref_dtype)
    for i in range(COUNT):
        observers = [np.column_stack([p[:, ::-1] + 1, np.full(len(p), k + 1)]) for k, p in enumerate(fixations(i))]
        cells[0, i] = file.create_dataset(f"#refs#/{i}", data=np.concatenate(observers).T.astype(float)).ref


def _hdf5(write) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.mat"
        with h5py.File(path, "w", userblock_size=512) as file:  # MATLAB starts with 512 bytes of text
            write(file)
        return path.read_bytes()


def osie() -> list[dict[str, bytes]]:
    root, members, images = "predicting-human-gaze-beyond-pixels-master/data", {}, []
    for i in range(COUNT):
        members[f"{root}/stimuli/{1001 + i}.jpg"] = jpeg(i)
        observers = [
            {"fix_x": points[:, :1].T + 0.6, "fix_y": points[:, 1:].T + 0.9, "fix_duration": points[:, :1].T}
            for points in fixations(i)
        ]
        images.append({"img": f"{1001 + i}.jpg", "subjects": cell(observers)})
    members[f"{root}/eye/fixations.mat"] = mat(fixations=cell(images))
    return [members]


def fiwi() -> list[dict[str, bytes]]:
    members = {}
    for i in range(COUNT):
        opaque = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        points = np.concatenate([np.repeat(binary_map(i)[..., None], 3, axis=2), opaque], axis=2)
        members[f"webpage_dataset/stimuli/page{i}.png"] = encode(photograph(i), "PNG")
        members[f"webpage_dataset/fixation/all5/page{i}.png"] = encode(points, "PNG")
        members[f"webpage_dataset/fixation/all1/page{i}.png"] = encode(points, "PNG")
    return [members]


MAKERS = {maker.__name__: maker for maker in (salicon, mit1003, cat2000, dutomron, pascals, osie, fiwi)}


def zip_of(members: dict, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A reproducible zip archive of members by name, or by `ZipInfo`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for member, contents in members.items():
            info = member if isinstance(member, zipfile.ZipInfo) else zipfile.ZipInfo(member)
            archive.writestr(info, contents, method)
    return buffer.getvalue()


# --- Changes and failures ---------------------------------------------------------------------------------------------


def add(member, contents=b"x"):
    return lambda members: members[0].update({member: contents})


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fails(name, folder, *words, source=None) -> str:
    """The download fails with these words, and leaves no folder of the dataset."""
    with pytest.raises(DownloadError) as error:
        download.dataset(name, folder, source)
    message = str(error.value)
    assert all(word in message for word in words), message
    first, *others = message.split("\n")
    assert len(first) < 400 and all(line.startswith("  ") for line in others)
    assert not (folder / name).exists()
    return message
