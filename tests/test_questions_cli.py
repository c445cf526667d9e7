"""The phases `regions`, `compare` and `crop`: from photographs and maps to tables, pictures and exit statuses."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import exif
from PIL import Image

import msinet
from msinet import checkpoint, main, model
from msinet.attention import density
from msinet.attention.density import MEANING
from msinet.phases.questions import outlines
from msinet.scoring.fitted import CENTER_AT, CURVE_AT, FittedDensity

SHAPE = 40, 60
AREAS = {"sign": (5, 10, 20, 10), "face": (20, 5, 30, 20)}


def blob(x, y, shape=SHAPE, sigma=6.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) + 0.01


MAPS = {"a": blob(15.5, 15.5), "sub/b": blob(44.5, 30.5)}


@pytest.fixture
def work(tmp_path, monkeypatch, photograph):
    """A folder with two photographs and their maps, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    for i, (name, saliency) in enumerate(MAPS.items()):
        for folder, suffix in (("photos", "png"), ("maps", "npy")):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            if suffix == "npy":
                np.save(tmp_path / folder / f"{name}.npy", saliency)
            else:
                Image.fromarray(photograph(*SHAPE, seed=i)).save(tmp_path / folder / f"{name}.png")
    return tmp_path


@pytest.fixture
def areas(work):
    """A CSV file with the same areas for both photographs."""
    rows = [f"{name}.png,{area},{','.join(map(str, box))}" for name in MAPS for area, box in AREAS.items()]
    (work / "areas.csv").write_text("\n".join(["image,name,x,y,width,height", *rows]), encoding="utf-8")
    return "areas.csv"


def run(phase, *arguments):
    return main.main([phase, *map(str, arguments)])


def regions(*arguments):
    return run("regions", "-p", "photos", "--maps", "maps", *arguments)


def crop(*arguments):
    return run("crop", "-p", "photos", "--maps", "maps", *arguments)


def table(work, name):
    with (work / "results" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(work, name):
    return json.loads((work / "results" / name).read_text(encoding="utf-8"))


def share(saliency, box):
    x, y, width, height = box
    return saliency[y : y + height, x : x + width].sum() / saliency.sum()


def one_line(capsys, *words):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error


# --- regions ----------------------------------------------------------------------------------------------------------


def test_shares_of_areas_are_written_and_printed(work, areas, capsys):
    assert regions("--areas", areas) == 0
    rows = table(work, "regions/regions.csv")
    assert [(row["image"], row["name"]) for row in rows] == [(name, area) for name in MAPS for area in AREAS]
    for row in rows:
        saliency, box = MAPS[row["image"]], AREAS[row["name"]]
        expected = share(saliency, box)
        assert float(row["share_of_attention"]) == pytest.approx(expected, rel=1e-4)
        assert float(row["lift"]) == pytest.approx(expected / (box[2] * box[3] / saliency.size), rel=1e-4)
        assert float(row["low"]) <= expected <= float(row["high"])
    assert [row["rank"] for row in rows] == ["1", "2", "2", "1"]
    written = record(work, "regions/regions.json")
    assert written["domain"] == "photographs" and written["meaning"] == MEANING
    assert written["interval"]["coverage"] == 0.9 and written["interval"]["network"] == "medium"
    assert written["areas"][0]["share_of_attention"] == pytest.approx(share(MAPS["a"], AREAS["sign"]))
    (sign, _) = table(work, "regions/totals.csv")
    mean = np.mean([share(saliency, AREAS["sign"]) for saliency in MAPS.values()])
    assert sign["photographs"] == "2" and float(sign["share_of_attention"]) == pytest.approx(mean, rel=1e-4)
    assert written["totals"][0]["share_of_attention"] == pytest.approx(mean)
    output = capsys.readouterr().out
    assert MEANING in output and f"{share(MAPS['a'], AREAS['sign']):.1%}".replace("%", " %") in output
    assert "Some areas overlap" in output and "sign and face (50 pixels of a)" in output
    assert written["overlaps"][0] == {"image": "a", "area": "sign", "other": "face", "pixels": 50}


def test_areas_of_a_file_are_those_of_flags_and_photographs_without_areas_are_skipped(work, capsys):
    (work / "polygon.csv").write_text("image,name,polygon\na,sign,5 10 25 10 25 20 5 20\n", encoding="utf-8")
    assert regions("--area", "sign:5,10,20,10") == 0
    expected = table(work, "regions/regions.csv")[0]
    assert regions("--areas", "polygon.csv") == 0
    assert table(work, "regions/regions.csv") == [expected]
    assert "1 photograph without areas skipped." in capsys.readouterr().out
    assert not (work / "results" / "regions" / "pictures" / "sub").exists()


def test_hot_spots_are_found_without_areas(work, capsys):
    assert regions("--spots", "1") == 0
    rows = table(work, "regions/hot_spots.csv")
    found = [(row["image"], float(row["x"]), float(row["y"])) for row in rows]
    assert found == [("a", 15.5, 15.5), ("sub/b", 44.5, 30.5)]
    expected = msinet.hot_spots(MAPS["a"], 1)
    written = record(work, "regions/regions.json")
    assert written["hot_spots"][0]["share"] == pytest.approx(expected.spots[0].share)
    whole = table(work, "regions/photographs.csv")[0]
    for key in ("center_x", "center_y", "spread", "focus"):
        assert float(whole[key]) == pytest.approx(getattr(expected, key), rel=1e-4)
        assert written["photographs"][0][key] == pytest.approx(getattr(expected, key))
    assert MEANING in capsys.readouterr().out


def test_pictures_outline_areas_and_circle_hot_spots(work, areas):
    def bright(name):
        pixels = np.asarray(Image.open(work / "results" / "regions" / "pictures" / f"{name}.jpeg")).astype(int)
        assert pixels.shape == (*SHAPE, 3)
        return np.abs(pixels - outlines.INK).max(axis=2) < 100

    assert regions("--area", "box:10,20,40,18") == 0
    # The line is yellow between two dark ones.
    assert bright("sub/b")[36, 15:45].mean() > 0.9 and not bright("sub/b")[[35, 37, 39], 15:45].any()
    assert regions() == 0
    assert bright("a").any()


def test_a_fitted_density_makes_the_shares(work):
    fitted = FittedDensity(0.05, np.linspace(0.1, 1, len(CURVE_AT)), np.zeros(len(CENTER_AT)), 1.0)
    fitted.save(work / "density.json")
    assert regions("--area", "sign:5,10,20,10", "--density", "density.json") == 0
    row = table(work, "regions/regions.csv")[0]
    expected = np.exp(fitted.log_density(MAPS["a"]))[10:20, 5:25].sum()
    assert float(row["share_of_attention"]) == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(share(MAPS["a"], AREAS["sign"]), rel=0.05)
    assert record(work, "regions/regions.json")["density"] == "density.json"


def test_a_density_of_a_large_map_is_that_of_the_reduced_map(monkeypatch):
    fitted = FittedDensity(0.05, np.linspace(0.1, 1, len(CURVE_AT)), np.zeros(len(CENTER_AT)), 1.0)
    exact = density.attention(MAPS["a"], density.Reduced(fitted))
    np.testing.assert_array_equal(exact, np.exp(fitted.log_density(MAPS["a"])))
    monkeypatch.setattr(density, "DENSITY_CELLS", 30)
    reduced = density.attention(MAPS["a"], density.Reduced(fitted))
    assert reduced.sum() == pytest.approx(1) and not np.array_equal(reduced, exact)
    assert np.abs(reduced - exact).sum() < 0.03


@pytest.mark.parametrize("phase", ["regions", "crop"])
def test_a_network_gives_the_answers_of_its_maps(work, phase):
    np.savez(work / "narrow.npz", **checkpoint.arrays_of(model.build_model(width=0.25, seed=5)))
    network = ("--weights", "narrow.npz", "--input-size", "40", "64")
    assert run("test", "-p", "photos", "--format", "npy", *network) == 0
    file = {"regions": "regions/hot_spots.csv", "crop": "crops/crops.csv"}[phase]
    assert run(phase, "-p", "photos", *network) == 0
    predicted = table(work, file)
    assert len(record(work, file.replace("hot_spots.csv", "regions.json").replace(".csv", ".json"))["sha256"]) == 64
    assert run(phase, "-p", "photos", "--maps", "results/images") == 0
    assert table(work, file) == predicted


# --- Bad input --------------------------------------------------------------------------------------------------------

HEAD = "image,name,x,y,width,height"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("regions -p photos --maps maps --area sign:1,2,3", ["expected name:x,y,width,height"]),
        ("regions -p photos --maps maps --areas areas.csv", ["a.png", "'sign'", "outside the photograph of 60×40"]),
        ("regions -p photos/broken.png --maps maps/a.npy", ["photos/broken.png: not a readable image"]),
        ("regions -p nowhere", ["No such file or folder: nowhere"]),
        ("regions -p photos --maps nowhere", ["nowhere", "expected a folder"]),
        ("regions -p photos --maps maps/sub", ["has no map for 2 of 2 photographs: a, sub/b"]),
        ("regions -p photos --maps maps --weights lite", ["--weights"]),
        ("regions -p photos --maps maps --density nowhere.json", ["nowhere.json"]),
        ("crop -p photos --maps maps --ratio 0:1", ["'0:1'", "such as 16:9"]),
        ("crop -p photos --maps maps --keep face", ["--keep names the unknown area face"]),
        ("crop -p photos --maps maps --keep face:50,0,30,10", ["outside the photograph"]),
        (
            "crop -p photos/a.png --maps maps/a.npy --ratio 1:3 --keep face:2,2,50,20",
            ["does not fit into a crop of 1:3"],
        ),
        ("compare photos/a.png photos", ["expected two pictures or two folders"]),
        ("compare photos photos/sub", ["Only one of photos and photos/sub has a, b, sub/b"]),
        ("compare photos/a.png photos/a.png --area a:1,2,3,4 --fail-below b:3", ["--fail-below names the area b", "a"]),
    ],
)
def test_bad_flags_are_one_line_and_no_answer_is_written(work, capsys, command, words):
    if "broken" in command:
        (work / "photos" / "broken.png").write_bytes(b"broken")
    (work / "areas.csv").write_text(f"{HEAD}\na,sign,50,10,20,10", encoding="utf-8")
    assert main.main(command.split()) == 2
    one_line(capsys, *words)
    assert not [*(work / "results").glob("*/*")]


@pytest.mark.parametrize(
    "flags",
    ["regions --spots 0", "crop --size 0", "crop --min-scale 0", "crop --min-scale 1.1"]
    + [f"compare a b --fail-below {limit}" for limit in ("button", "button:101", "button:nan", ":10")],
)
def test_impossible_values_are_rejected_by_the_parser(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        main.parse(flags.split())
    assert stop.value.code == 2
    assert "received" in capsys.readouterr().err


@pytest.mark.parametrize(("phase", "file"), [(regions, "regions/regions.json"), (crop, "crops/crops.json")])
def test_a_photograph_that_fails_is_reported_and_the_others_are_written(work, capsys, phase, file):
    (work / "photos" / "broken.png").write_bytes(b"broken")
    np.save(work / "maps" / "broken.npy", MAPS["a"])
    Image.new("RGB", (30, 30)).save(work / "photos" / "other.png")
    np.save(work / "maps" / "other.npy", MAPS["a"])
    assert phase() == 1
    assert "map is 60×40 pixels, the photograph 30×30" in capsys.readouterr().err
    failures = record(work, file)["failures"]
    assert [failure.split(":")[0] for failure in failures] == ["photos/broken.png", "photos/other.png"]
    rows = record(work, file).get("hot_spots") or record(work, file)["crops"]
    assert {row["image"] for row in rows} == {"a", "sub/b"}


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="there every file's name is valid text")
@pytest.mark.parametrize(("phase", "file"), [(regions, "regions/hot_spots.csv"), (crop, "crops/crops.csv")])
def test_photographs_with_odd_names_and_of_one_pixel_are_answered(work, capsys, phase, file):
    odd, long = os.fsdecode(b"latin\xe9"), "l" * 251
    for name in (odd, long):
        Image.new("RGB", (1, 1)).save(work / "photos" / f"{name}.png")
    np.save(work / "maps" / f"{odd}.npy", np.ones((1, 1)))
    np.save(work / "maps" / f"{long}.npy", np.ones((1, 1)))
    assert phase() == 1
    assert "llll.png: its name is too long" in capsys.readouterr().err
    lines = (work / "results" / file).read_bytes().splitlines()
    assert sum(line.startswith(b"latin\xe9,") for line in lines) == 1 and len(lines) == 4


def test_a_folder_of_other_files_is_not_replaced(work, capsys):
    (work / "results" / "crops").mkdir(parents=True)
    (work / "results" / "crops" / "mine.txt").write_text("mine")
    assert crop() == 2
    one_line(capsys, "did not write")
    assert (work / "results" / "crops" / "mine.txt").exists()


def test_a_run_that_fails_keeps_the_answers_of_the_run_before(work):
    assert regions() == 0
    before = table(work, "regions/hot_spots.csv")
    for name in MAPS:
        (work / "photos" / f"{name}.png").write_bytes(b"broken")
    assert regions() == 2
    assert table(work, "regions/hot_spots.csv") == before


# --- compare ----------------------------------------------------------------------------------------------------------


def compare(*arguments):
    pair = ("photos/a.png", "photos/sub/b.png", "--maps", "maps/a.npy", "maps/sub/b.npy")
    return run("compare", *pair, *arguments)


def test_two_pictures_are_compared_by_area_grid_and_peak(work, capsys):
    assert compare("--area", "sign:5,10,20,10") == 0
    shares = [share(saliency, AREAS["sign"]) for saliency in MAPS.values()]
    (row,) = table(work, "compare/areas.csv")
    assert [float(row[key]) for key in ("first_share", "second_share")] == pytest.approx(shares, rel=1e-4)
    assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    assert float(row["difference"]) == pytest.approx(shares[1] - shares[0], rel=1e-4)
    grid = np.array([float(row["difference"]) for row in table(work, "compare/grid.csv")]).reshape(3, 3)
    assert grid.sum() == pytest.approx(0, abs=1e-4) and grid[1, 0] < -0.1 < 0.1 < grid[2, 2]
    written = record(work, "compare/compare.json")
    assert written["domain"] == "photographs" and written["maps"] == ["maps/a.npy", "maps/sub/b.npy"]
    # The peaks are in the pixels at 15.5, 15.5 and 44.5, 30.5.
    assert written["peaks"][0]["movement"] == pytest.approx(np.hypot(29, 15) / np.hypot(*SHAPE))
    with Image.open(work / "results" / "compare" / "pictures" / "a.jpeg") as picture:
        assert picture.height == SHAPE[0] and picture.width > 2 * SHAPE[1]
    output = capsys.readouterr().out
    assert MEANING in output and f"{100 * (shares[1] - shares[0]):+.1f}" in output


def test_an_area_below_its_limit_fails_the_command(work, capsys):
    area = ("--area", "sign:5,10,20,10")
    percent = 100 * share(MAPS["sub/b"], AREAS["sign"])
    assert compare(*area, "--fail-below", f"sign:{percent - 0.1}") == 0
    assert compare(*area, "--fail-below", f"sign:{percent + 0.1}") == 1
    assert f"failed: sign in a has {percent:.2f} % of the attention" in capsys.readouterr().err
    assert len(record(work, "compare/compare.json")["misses"]) == 1


def test_folders_are_compared_by_name_and_the_second_picture_may_have_its_own_areas(work, areas):
    (work / "new" / "sub").mkdir(parents=True)
    for name in MAPS:
        Image.new("RGB", SHAPE[::-1]).save(work / "new" / f"{name}.png")
    assert run("compare", "photos", "new", "--maps", "maps", "maps", "--areas", areas) == 0
    assert [float(row["difference"]) for row in table(work, "compare/areas.csv")] == [0] * 4
    (work / "own.csv").write_text(f"{HEAD}\na,sign,5,10,20,10\nb,sign,30,10,20,10\n", encoding="utf-8")
    assert compare("--areas", "own.csv") == 0
    (row,) = table(work, "compare/areas.csv")
    assert float(row["second_share"]) == pytest.approx(share(MAPS["sub/b"], (30, 10, 20, 10)), rel=1e-4)


# --- Python -----------------------------------------------------------------------------------------------------------


def test_questions_from_python_do_not_import_tensorflow():
    script = """
import sys
import numpy as np
import msinet
saliency = np.ones((40, 60))
(row,) = msinet.regions(saliency, {"left": (0, 0, 30, 40)})
assert abs(row.share_of_attention - 0.5) < 1e-9
assert msinet.crop(saliency, "1:1").width == 40
assert len(msinet.hot_spots(saliency).spots) == 1
assert not {"tensorflow", "keras", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_areas_fit_photographs_that_are_turned(work, photograph):
    pixels = photograph(*SHAPE)
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    turned.save("turned.jpg", quality=95, exif=exif(6))
    assert run("regions", "-p", "turned.jpg", "--maps", "maps/a.npy", "--area", "sign:38,5,20,30") == 0
    row = table(work, "regions/regions.csv")[0]
    assert float(row["share_of_attention"]) == pytest.approx(share(MAPS["a"], (38, 5, 20, 30)), rel=1e-4)
    picture = np.asarray(Image.open(work / "results" / "regions" / "pictures" / "turned.jpeg")).astype(int)
    assert np.abs(picture[24:, :30] - pixels[24:, :30]).mean() < 8
