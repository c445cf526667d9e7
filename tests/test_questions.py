"""What the phases that answer questions share: areas from files and flags, and outline pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from msinet.attention.areas import Pixels, find_pixels
from msinet.attention.hot_spots import HotSpot
from msinet.phases.questions import outlines
from msinet.phases.questions.area_files import decode_rle, parse_areas, read_areas
from msinet.utils import UserError

SHAPE = 40, 60
PHOTOGRAPHS = ["a", "folder/b"]
MASK = np.zeros(SHAPE, bool)
MASK[10:20, 5:25] = MASK[25:30, 40:50] = True


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def masks(areas):
    """Each area as a whole mask, by name."""
    result = {}
    for name, pixels in find_pixels(areas, SHAPE).items():
        result[name] = np.zeros(SHAPE, bool)
        result[name][pixels.window] = pixels.inside
    return result


def coco(annotations, categories=({"id": 3, "name": "sign"}, {"id": 4, "name": "face"})):
    images = [{"id": 7, "file_name": "a.jpg", "height": SHAPE[0], "width": SHAPE[1]}]
    rows = [{"image_id": 7, "category_id": 3, **row} for row in annotations]
    return json.dumps({"images": images, "categories": list(categories), "annotations": rows})


def run_lengths(mask):
    """Lengths down the columns, the pixels outside first, found another way than they are decoded."""
    values = mask.ravel(order="F").tolist()
    lengths, current = [0], False
    for value in values:
        if value != current:
            lengths.append(0)
            current = value
        lengths[-1] += 1
    return lengths


# --- CSV and flags ----------------------------------------------------------------------------------------------------


def test_boxes_and_polygons_are_read_from_csv(tmp_path):
    path = write(
        tmp_path / "areas.csv",
        "\ufeffimage,name,x,y,width,height,polygon\na.jpg,box,1,2,3,4,\nfolder\\b.PNG,sign,,,,,0 0 20 0 0 20\n",
    )
    found = read_areas(path, PHOTOGRAPHS)
    assert found["a"] == {"box": (1, 2, 3, 4)}
    np.testing.assert_array_equal(found["folder/b"]["sign"], [(0, 0), (20, 0), (0, 20)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the columns '', expected image,name,x,y,width,height"),
        ("image,name,x,y,width,height\n", "holds no area"),
        ("image,x,y,width,height\na,1,2,3,4\n", "expected image,name"),
        ("image,name,x,y,width,height\na,b,1,2,three,4\n", "line 2: expected numbers"),
        ("image,name,x,y,width,height\na,b,1,2\n", "line 2: expected numbers"),
        ("image,name,polygon\na,b,1 2 3\n", "line 2: expected numbers"),
        ("image,name,x,y,width,height\na,b,1,2,3,4\na.jpg,b,5,2,3,4\n", "line 3: received a second area 'b'"),
        ("image,name,x,y,width,height\na,,1,2,3,4\n", "line 2: received an area without a name"),
        ("image,name,x,y,width,height\nnowhere,b,1,2,3,4\n", "photographs that are not there: nowhere"),
    ],
)
def test_a_fault_in_a_csv_file_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as raised:
        read_areas(write(tmp_path / "areas.csv", text), PHOTOGRAPHS)
    assert "\n" not in str(raised.value)


def test_areas_are_read_from_flags():
    areas = {"button": (40, 60, 120, 32), "a:b": (1, 2, 3, 4)}
    assert parse_areas(["button:40,60,120,32", "a:b:1,2,3,4"]) == areas
    for wrong in ("button", "button:1,2,3", ":1,2,3,4", "button:1,2,3,x"):
        with pytest.raises(UserError, match="expected name:x,y,width,height"):
            parse_areas([wrong])
    with pytest.raises(UserError, match="Several areas have the name a"):
        parse_areas(["a:1,2,3,4", "a:5,6,7,8"])


def test_invalid_file_of_areas_is_an_error(tmp_path):
    with pytest.raises(UserError, match="No such file or folder"):
        read_areas(tmp_path / "missing.csv", PHOTOGRAPHS)
    with pytest.raises(UserError, match="expected a CSV file, a COCO JSON file"):
        read_areas(write(tmp_path / "areas.txt", "a"), PHOTOGRAPHS)


# --- COCO and label images --------------------------------------------------------------------------------------------


def test_boxes_polygons_and_run_lengths_of_coco_are_the_same_area(tmp_path):
    box = {"bbox": [5, 10, 20, 10]}
    polygon = {"segmentation": [[5, 10, 25, 10, 25, 20, 5, 20]]}
    second = {"segmentation": [[40, 25, 50, 25, 50, 30, 40, 30]]}
    lengths = {"segmentation": {"counts": run_lengths(MASK), "size": list(SHAPE)}}
    for rows in ([box, second], [polygon, second], [lengths], [lengths, box]):
        found = read_areas(write(tmp_path / "coco.json", coco(rows)), PHOTOGRAPHS)
        np.testing.assert_array_equal(masks(found["a"])["sign"], MASK)


def test_compressed_run_lengths_are_decoded_as_pycocotools_writes_them():
    # pycocotools.mask.encode of a mask of 6×8 pixels, true in [1:4, 2:5].
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(decode_rle("=33000a0", [6, 8]), expected)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        coco([{}]),
        coco([{"bbox": [1, 2, 3]}]),
        coco([{"bbox": [1, 2, 3, 4], "category_id": 9}]),
        coco([{"segmentation": {"counts": [3, 4], "size": list(SHAPE)}}]),
    ],
)
def test_invalid_coco_file_is_one_clear_line(tmp_path, text):
    with pytest.raises(UserError, match="is not a COCO file"):
        read_areas(write(tmp_path / "coco.json", text), PHOTOGRAPHS)


def test_each_gray_value_of_a_label_image_is_an_area(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[MASK], labels[:5] = 7, 200
    (tmp_path / "labels" / "folder").mkdir(parents=True)
    Image.fromarray(labels).save(tmp_path / "labels" / "folder" / "b.png")
    found = masks(read_areas(tmp_path / "labels", PHOTOGRAPHS)["folder/b"])
    assert list(found) == ["7", "200"]
    np.testing.assert_array_equal(found["7"], MASK)
    Image.new("RGB", (4, 4)).save(tmp_path / "labels" / "a.png")
    with pytest.raises(UserError, match="3 channels"):
        read_areas(tmp_path / "labels", PHOTOGRAPHS)
    Image.new("L", (4, 4)).save(tmp_path / "labels" / "a.png")
    with pytest.raises(UserError, match="holds no area"):
        read_areas(tmp_path / "labels", PHOTOGRAPHS)
    (tmp_path / "labels" / "a.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable image"):
        read_areas(tmp_path / "labels", PHOTOGRAPHS)


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [300, 3000])
@pytest.mark.parametrize("shade", [0, 255])
def test_outlines_and_names_contrast_with_dark_and_light_photographs(side, shade):
    photograph = Image.new("RGB", (side, side * 2 // 3), (shade,) * 3)
    areas = find_pixels({"box": (side * 0.3, side * 0.2, side * 0.4, side * 0.3)}, photograph.size[::-1])
    drawn = np.asarray(outlines.draw_areas(photograph, areas, {"box": 0.25})).astype(int)
    assert drawn.shape == (side * 2 // 3, side, 3)
    left = round(side * 0.3)
    across = drawn[round(side * 0.4), left - 1 : left + side // 40]
    # From outside to inside: the photograph, a dark line, a bright line, a dark line, the photograph.
    bright = np.all(across == outlines.INK, axis=1)
    dark = np.all(across == outlines.BORDER, axis=1)
    first = int(np.argmax(bright))
    assert bright.any() and dark[first - 1] and dark[first + bright.sum()]
    np.testing.assert_array_equal(across[-1], (shade,) * 3)
    label = drawn[round(side * 0.2) :, left:][: side // 30, : side // 8].reshape(-1, 3)
    assert np.mean(np.all(label == outlines.BORDER, axis=1)) > 0.3
    assert np.mean(label[:, 0] > 200) > 0.05


def test_labels_of_areas_in_one_place_do_not_cover_each_other():
    image = Image.new("RGB", (600, 400), "gray")
    inside = np.ones((50, 50), bool)
    areas = {name: Pixels(100, 100, inside) for name in "abc"}
    one = outlines.draw_areas(image, {"a": areas["a"]}, {"a": 0.5})
    three = outlines.draw_areas(image, areas, dict.fromkeys(areas, 0.5))
    plates = [int(np.all(np.asarray(drawn)[:, 110] == outlines.BORDER, axis=1).sum()) for drawn in (one, three)]
    assert plates[1] > 2 * plates[0]


def test_hot_spots_and_pairs_are_drawn_inside_the_picture():
    image = Image.new("RGB", (300, 200), "white")
    spots = outlines.draw_spots(image, [HotSpot(150, 100, 40, 0.5), HotSpot(295, 195, 30, 0.1)])
    row = np.asarray(spots)[100]
    assert np.any(np.all(row[108:114] == outlines.INK, axis=1))
    both = outlines.side_by_side(image, Image.new("L", (600, 800)))
    assert both.height == 200 and both.width > 300 + 150
