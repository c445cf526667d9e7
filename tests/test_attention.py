"""What maps say: shares of areas, hot spots, crops and comparisons, on arrays."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from msinet.attention import crops
from msinet.attention.areas import Union, find_pixels, overlaps
from msinet.attention.compare import compare, grid_shares
from msinet.attention.crops import crop
from msinet.attention.density import attention, center_bias
from msinet.attention.errors import KNOTS, difference_interval, interval
from msinet.attention.hot_spots import hot_spots
from msinet.attention.measured import MEASURED
from msinet.attention.regions import regions, totals
from msinet.utils import UserError

SHAPE = 48, 64


def smooth_map(seed=0, shape=SHAPE):
    values = gaussian_filter(np.random.default_rng(seed).random(shape) ** 8, 3)
    return (values - values.min()) / np.ptp(values)


def blob(x, y, shape=SHAPE, sigma=4.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


# --- Areas and their pixels -------------------------------------------------------------------------------------------


def test_a_pixel_belongs_to_an_area_if_its_center_does():
    found = find_pixels({"box": (1.5, 0.6, 2, 1.9), "triangle": [(0, 0), (4, 0), (0, 4)]}, (4, 5))
    assert found["box"].window == (slice(1, 2), slice(1, 3)) and found["box"].count == 2
    expected = [[True, True, True, False], [True, True, False, False], [True, False, False, False]]
    # The diagonal passes through centers, which lie on the right border and so outside.
    np.testing.assert_array_equal(found["triangle"].inside, np.array(expected)[:, :3])


def test_random_polygons_hold_the_pixels_whose_centers_a_winding_count_finds_inside():
    random = np.random.default_rng(3)
    for _ in range(20):
        angles = np.sort(random.uniform(0, 2 * np.pi, 9))
        radii = random.uniform(5, 22, 9)
        corners = np.column_stack([32 + radii * np.cos(angles), 24 + radii * np.sin(angles)])
        inside = find_pixels({"star": corners}, SHAPE)["star"]
        whole = np.zeros(SHAPE, bool)
        whole[inside.window] = inside.inside
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
        to = corners[:, :, None, None] - np.stack([x, y])  # (9, 2, H, W)
        after = np.roll(to, -1, axis=0)
        turn = np.arctan2(to[:, 0] * after[:, 1] - to[:, 1] * after[:, 0], (to * after).sum(1))
        np.testing.assert_array_equal(whole, np.abs(turn.sum(0)) > np.pi)


def test_a_union_counts_shared_pixels_once_and_overlaps_are_named():
    areas = {"both": Union([(0, 0, 4, 4), (2, 0, 4, 4)]), "left": (0, 0, 4, 4), "far": (20, 20, 3, 3)}
    found = find_pixels(areas, SHAPE)
    assert found["both"].count == 24
    assert overlaps(found) == [("both", "left", 16)]


@pytest.mark.parametrize(
    ("area", "message"),
    [
        ((60, 10, 10, 5), "outside the photograph of 64×48"),
        ((-5, 10, 10, 5), "outside the photograph"),
        ((1, 1, float("nan"), 5), "expected a width and a height above 0"),
        ((1, 1, 0, 5), "expected a width and a height above 0"),
        ((1.6, 1.6, 0.5, 0.5), "the center of no pixel"),
        ([(0, 0), (20, 20), (20, 0), (0, 20)], r"crosses itself \(sides 1 and 3\)"),
        ([(0, 0), (20, 20)], "has 2 corners"),
        ([(0, 0), (20, 20), (float("nan"), 5)], "outside the photograph"),
        (np.zeros(SHAPE, bool), "the center of no pixel"),
        (np.ones((4, 4), bool), "4×4 pixels, the photograph 64×48"),
        ("button", r"expected \(x, y, width, height\)"),
        (None, "expected at least one"),
    ],
)
def test_an_impossible_area_is_one_clear_line(area, message):
    with pytest.raises(UserError, match=message) as raised:
        regions(smooth_map(), {} if area is None else {"wrong": area})
    assert "\n" not in str(raised.value)


# --- Shares -----------------------------------------------------------------------------------------------------------


def test_shares_sum_to_one_over_a_partition_of_boxes_and_of_polygons():
    saliency, (height, width) = smooth_map(1), SHAPE
    boxes = {f"{i}{j}": (j * 64 / 3, i * 16, 64 / 3, 16) for i in range(3) for j in range(3)}
    middle, corners = (30.3, 20.7), [(0, 0), (width, 0), (width, height), (0, height)]
    triangles = {str(i): [corners[i], corners[(i + 1) % 4], middle] for i in range(4)}
    for areas in (boxes, triangles):
        rows = regions(saliency, areas)
        assert sum(row.pixels for row in rows) == saliency.size
        assert sum(row.share_of_attention for row in rows) == pytest.approx(1, abs=1e-12)
        assert sum(row.share_of_area for row in rows) == pytest.approx(1)


def test_numbers_of_a_region_follow_from_the_map():
    saliency = smooth_map(2) * 255
    row, other = regions(saliency, {"a": (8, 4, 20, 10), "b": (0, 0, 64, 48)})
    part = saliency[4:14, 8:28]
    assert row.share_of_attention == pytest.approx(part.sum() / saliency.sum())
    assert row.share_of_area == pytest.approx(200 / saliency.size)
    assert row.lift == pytest.approx(part.mean() / saliency.mean())
    assert row.lift_over_center_bias == pytest.approx(
        part.sum() / saliency.sum() / center_bias(SHAPE)[4:14, 8:28].sum()
    )
    assert row.peak == part.max() == saliency[row.peak_y, row.peak_x]
    assert (row.rank, other.rank, other.lift) == (2, 1, pytest.approx(1))
    assert row.low <= row.share_of_attention <= row.high
    (total, _) = totals([row, other, *regions(np.ones(SHAPE), {"a": (0, 0, 64, 24)})])
    assert (total.photographs, total.share_of_area) == (2, pytest.approx((row.share_of_area + 0.5) / 2))
    assert total.lift == pytest.approx((row.share_of_attention + 0.5) / (row.share_of_area + 0.5))


def test_mirrored_input_gives_mirrored_answers():
    saliency, width = smooth_map(3), SHAPE[1]
    mirrored = saliency[:, ::-1]
    (row,) = regions(saliency, {"a": (8.3, 4, 20, 10)})
    (other,) = regions(mirrored, {"a": (width - 28.3, 4, 20, 10)})
    assert other.share_of_attention == pytest.approx(row.share_of_attention)
    assert other.lift_over_center_bias == pytest.approx(row.lift_over_center_bias)
    assert (other.peak_x, other.peak_y) == (width - 1 - row.peak_x, row.peak_y)
    spots, others = hot_spots(saliency), hot_spots(mirrored)
    assert [(width - spot.x, spot.y) for spot in spots.spots] == [(spot.x, spot.y) for spot in others.spots]
    assert others.center_x == pytest.approx(width - spots.center_x)
    box, mirrored_box = crop(saliency, "4:5", 0.6), crop(mirrored, "4:5", 0.6)
    assert (width - box.x - box.width, box.y, box.width) == (mirrored_box.x, mirrored_box.y, mirrored_box.width)
    np.testing.assert_allclose(compare(saliency, mirrored).grid[:, ::-1], compare(mirrored, saliency).grid, atol=1e-12)


def test_a_fitted_density_takes_the_place_of_the_maps_sum():
    class Squared:
        def log_density(self, saliency):
            return np.log(saliency**2 / np.sum(saliency**2))

    saliency = smooth_map(4) + 0.1
    (row,) = regions(saliency, {"a": (0, 0, 20, 20)}, Squared())
    assert row.share_of_attention == pytest.approx(np.sum(saliency[:20, :20] ** 2) / np.sum(saliency**2))


@pytest.mark.parametrize("wrong", [np.zeros((0, 4)), np.zeros((2, 3, 3)), np.full((4, 4), np.nan), -np.ones((4, 4))])
def test_invalid_map_is_an_error(wrong):
    with pytest.raises(UserError, match=r"expected|negative"):
        regions(wrong, {"a": (0, 0, 1, 1)})


def test_a_black_map_spreads_attention_evenly():
    np.testing.assert_allclose(attention(np.zeros((4, 5))), 1 / 20)


# --- Intervals --------------------------------------------------------------------------------------------------------


def test_intervals_hold_the_share_and_stay_between_0_and_1():
    share = np.linspace(0, 1, 101)
    low, high = interval(share)
    assert np.all((low >= 0) & (low <= share) & (share <= high) & (high <= 1))
    flat = {"low": [-0.2] * len(KNOTS), "high": [0.4] * len(KNOTS)}
    low, high = interval(0.49, flat)  # A standard deviation of the square root of 0.5 · 0.52.
    assert (low, high) == (pytest.approx(0.49 - 0.2 * 0.26**0.5), pytest.approx(0.49 + 0.4 * 0.26**0.5))


def test_the_interval_of_a_difference_is_that_of_the_opposite_difference_turned_around():
    low, high = difference_interval(0.2, 0.5)
    other_low, other_high = difference_interval(0.5, 0.2)
    assert (low, high) == (pytest.approx(-other_high), pytest.approx(-other_low))
    assert low < 0.3 < high


# --- Hot spots --------------------------------------------------------------------------------------------------------


def test_hot_spots_are_where_attention_was_put():
    saliency = 2 * blob(15.5, 12.5) + blob(50.5, 36.5)
    found = hot_spots(saliency)
    assert [(spot.x, spot.y) for spot in found.spots] == [(15.5, 12.5), (50.5, 36.5)]
    shares = [spot.share for spot in found.spots]
    assert shares == [pytest.approx(2 / 3, abs=0.01), pytest.approx(1 / 3, abs=0.01)]
    # Half of a round Gaussian is within sqrt(2 ln 2) standard deviations.
    assert [spot.radius for spot in found.spots] == pytest.approx([4 * 1.177] * 2, abs=0.3)
    assert found.center_x == pytest.approx((2 * 15.5 + 50.5) / 3, abs=0.3)


def test_spread_and_focus_of_an_even_map_are_those_of_the_picture_itself():
    found = hot_spots(np.ones(SHAPE))
    assert found.focus == pytest.approx(0.1, abs=1e-3)
    assert len(found.spots) == 1 and found.spots[0].share == pytest.approx(1)
    assert found.spread == pytest.approx(12**-0.5, abs=1e-3)
    assert hot_spots(blob(30, 20, sigma=1)).focus == pytest.approx(1, abs=1e-3)


def test_hot_spots_of_a_large_map_have_its_coordinates():
    found = hot_spots(np.kron(blob(15.5, 12.5), np.ones((20, 20))))
    (spot,) = found.spots
    assert (spot.x, spot.y, spot.radius) == (
        pytest.approx(310, abs=10),
        pytest.approx(250, abs=10),
        pytest.approx(94, abs=8),
    )


# --- Crops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "number"), [("1:1", 1), ((4, 5), 4 / 5), (16 / 9, 16 / 9), ("1:3", 1 / 3)])
@pytest.mark.parametrize("min_scale", [1, 0.5])
def test_a_crop_equals_brute_force(ratio, number, min_scale):
    saliency = smooth_map(5, (20, 26))
    shares, (height, width) = saliency / saliency.sum(), saliency.shape
    best = (-np.inf, None)
    sizes = crops.crop_sizes(saliency.shape, number, min_scale)
    for h, w in sizes:
        for top in range(height - h + 1):
            for left in range(width - w + 1):
                away = abs(top + h / 2 - height / 2) / height + abs(left + w / 2 - width / 2) / width
                kept = shares[top : top + h, left : left + w].sum()
                score = kept - crops.TIGHTNESS * h * w / saliency.size - crops.PULL * away
                best = max(best, (score, (left, top, w, h, kept)), key=lambda row: row[0])
    found = crop(saliency, ratio, min_scale)
    assert (found.x, found.y, found.width, found.height) == best[1][:4]
    assert found.share == pytest.approx(best[1][4])
    top, left = (height - sizes[0][0]) // 2, (width - sizes[0][1]) // 2
    centered = shares[top : top + sizes[0][0], left : left + sizes[0][1]].sum()
    assert found.center_share == pytest.approx(centered)


def test_a_crop_does_not_move_for_a_negligible_gain():
    nearly_even = np.ones(SHAPE)
    nearly_even[:, -4:] += 0.05
    found = crop(nearly_even, "1:1")
    assert (found.x, found.width) == (8, 48)
    assert found.share == pytest.approx(found.center_share)
    subject = np.ones(SHAPE)
    subject[:, -4:] += 5
    assert crop(subject, "1:1").x == 16


def test_area_to_keep_is_never_cut():
    saliency = blob(55, 20)
    assert crop(saliency, "1:1").x > 8 and crop(saliency, "1:1", 0.4).width < 48
    found = crop(saliency, "1:1", 0.4, keep=(2, 5, 12, 12))
    assert found.x <= 2 and found.y <= 5 and found.x + found.width >= 14 and found.y + found.height >= 17
    with pytest.raises(UserError, match="does not fit into a crop of 1:3"):
        crop(saliency, "1:3", keep=(2, 5, 40, 12))


@pytest.mark.parametrize(
    ("ratio", "scale", "message"),
    [
        *((ratio, 1, "expected width:height above 0, such as 16:9")
          for ratio in ("0:1", "1:0", "-1:2", "wide", "1:2:3", "nan:1", "", None, 0, (1, 2, 3))),
        *(("1:1", scale, "smallest scale") for scale in (0, 1.1, -1)),
    ],
)  # fmt: skip
def test_impossible_ratios_and_scales_are_errors(ratio, scale, message):
    with pytest.raises(UserError, match=message):
        crop(smooth_map(), ratio, scale)


# --- Comparisons ------------------------------------------------------------------------------------------------------


def test_a_comparison_says_which_areas_gained_and_how_far_the_peak_moved():
    first, second = blob(12.5, 8.5), blob(52.5, 38.5, sigma=3)
    found = compare(first, second, {"top left": (0, 0, 32, 24)})
    (row,) = found.areas
    assert row.difference == pytest.approx(row.second_share - row.first_share)
    assert row.low <= row.difference <= row.high and row.difference < -0.9
    assert found.movement == pytest.approx(np.hypot(40, 30) / np.hypot(48, 64))
    assert found.grid.sum() == pytest.approx(0, abs=1e-12) and found.grid[0, 0] < -0.9 < 0.9 < found.grid[2, 2]


def test_pictures_of_different_sizes_are_compared_by_their_own_areas():
    first, second = smooth_map(6), np.kron(smooth_map(6), np.ones((2, 2)))
    found = compare(first, second, {"a": (4, 4, 10, 10)}, {"a": (8, 8, 20, 20)})
    assert found.areas[0].difference == pytest.approx(0, abs=1e-12) and found.movement == pytest.approx(0, abs=0.02)
    np.testing.assert_allclose(found.grid, 0, atol=1e-12)
    with pytest.raises(UserError, match="Only one of two pictures has the area a, b"):
        compare(first, second, {"a": (4, 4, 10, 10)}, {"b": (8, 8, 20, 20)})


def test_cells_of_the_grid_split_pixels_that_a_border_cuts():
    shares = smooth_map(7, (5, 7))
    fine = np.kron(shares, np.full((3, 3), 1 / 9))
    expected = fine.reshape(3, 5, 3, 7).sum((1, 3))
    np.testing.assert_allclose(grid_shares(shares), expected)


# --- What was measured against people ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["osie", "mit1003"])
def test_included_numbers_match_the_docs(name):
    shares, compared = MEASURED["shares"][name], MEASURED["compare"][name]
    assert 0.88 <= shares["coverage"] <= 0.92
    for kept in MEASURED["crops"][name].values():
        assert kept[MEASURED["network"]] > max(
            kept[other] for other in ("center crop", "libvips attention", "smartcrop")
        )
        assert kept[MEASURED["network"]] <= kept["knows the fixations"]
    assert compared["sign_agreement"] > 0.8
    assert len(MEASURED["interval"]["low"]) == len(MEASURED["interval"]["high"]) == len(KNOTS)
