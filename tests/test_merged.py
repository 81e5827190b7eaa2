"""Labels that merge touching buildings: what is known of them, and what only that may influence."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rasterio.crs import CRS
from rasterio.windows import Window
from scipy.ndimage import label
from torch import nn

from geoseg.api.info import describe_file
from geoseg.api.tile import tile
from geoseg.cli.tile import command
from geoseg.data.label_report.findings import list_findings
from geoseg.data.labels import FootprintLabels, RasterLabels, rasterize_targets
from geoseg.data.labels.class_scheme import ClassScheme
from geoseg.data.labels.targets import border_radius_px
from geoseg.data.tiles import TilesInfo, find_other_settings, plan_tiles, tile_scenes, tile_window
from geoseg.detection.box_dataset import BoxDataset
from geoseg.detection.scoring import build_areas
from geoseg.errors import ConfigError
from geoseg.evaluation.metrics import Score
from geoseg.geo.grid import Grid
from geoseg.geo.raster import write_array
from geoseg.networks.losses import CompositeLoss
from geoseg.options import AugmentOptions, LossOptions, Thresholds, TileOptions, TrainOptions
from geoseg.training.augmentation import augment
from geoseg.training.dataset import TileDataset
from geoseg.training.finishing import finish
from geoseg.training.loading.mosaic import MosaicDataset, build_mosaic
from geoseg.training.loading.sampling import Draw
from geoseg.training.randomness import Randomness
from geoseg.training.segmenter import Segmenter
from geoseg.training.validation.areas import ValidationAreas
from geoseg.training.validation.merged_labels import count_buildings_in
from tests.conftest import write_scene

ALL = ("building", "border", "contact", "distance")
UNKNOWN = 255

# Borders are 1 pixel wide on each side of an edge here, and 2 in a grid of 0.4 m.
GRID = Grid(CRS.from_epsg(32645), Affine(0.7, 0, 500_000, 0, -0.7, 3e6), 24, 36)
FINE = Grid(CRS.from_epsg(32645), Affine(0.4, 0, 500_000, 0, -0.4, 3e6), 24, 36)


@dataclass
class ArrayLabels:
    """Labels given as building ids, without any beyond the array."""

    ids: np.ndarray
    grid: Grid = GRID
    scheme: ClassScheme = field(default_factory=ClassScheme)

    def read(self, window):
        margin = 40
        ids = np.pad(self.ids, margin)[
            window.row_off + margin : window.row_off + margin + window.height,
            window.col_off + margin : window.col_off + margin + window.width,
        ]
        return ids.astype(np.int32), (ids > 0).astype(np.uint8)


def rasterize(labels, *, merged, window=None):
    window = window or labels.grid.window
    valid = np.ones((int(window.height), int(window.width)), bool)
    return rasterize_targets(labels, window, valid, ALL, merged=merged)


def divide(boxes):
    """Houses (ids) of boxes, of which later ones cover earlier ones, and their pieces."""
    houses = np.zeros(GRID.shape, np.int32)
    for number, (top, left, height, width) in enumerate(boxes, start=1):
        houses[top : top + height, left : left + width] = number
    return houses, label(houses > 0)[0]


boxes = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 32), st.integers(1, 12), st.integers(1, 12)),
    max_size=9,
)


# Targets


@given(boxes=boxes, grid=st.sampled_from([GRID, FINE]))
def test_what_is_known_is_the_same_for_any_division_of_the_pieces(boxes, grid):
    houses, pieces = divide(boxes)
    merged = rasterize(ArrayLabels(pieces, grid), merged=True)
    apart = np.arange(1, pieces.size + 1).reshape(pieces.shape) * (pieces > 0)
    known = merged != UNKNOWN
    for ids in (houses, pieces, apart):
        true = rasterize(ArrayLabels(ids, grid), merged=False)
        np.testing.assert_array_equal(merged[known], true[known])
    assert known[0].all()
    # Of border and distance, everything is known on which all divisions agree.
    whole, finest = (rasterize(ArrayLabels(ids, grid), merged=False) for ids in (pieces, apart))
    for band in (1, 3):
        np.testing.assert_array_equal(known[band], whole[band] == finest[band])


def test_a_row_of_houses_by_hand():
    assert border_radius_px(GRID) == 1
    pieces = np.zeros(GRID.shape, np.int32)
    pieces[4:11, 3:15] = 1  # several houses, maybe
    pieces[4:11, 16:25] = 2  # one pixel beside them
    building, border, contact, distance = rasterize(ArrayLabels(pieces), merged=True)
    plain = rasterize(ArrayLabels(pieces), merged=False)
    np.testing.assert_array_equal(building, plain[0])

    expected = plain[1].copy()
    expected[5:10, 4:14], expected[5:10, 17:24] = UNKNOWN, UNKNOWN
    np.testing.assert_array_equal(border, expected)
    assert (border[4:11, 3] == 1).all()
    assert (border[0:3] == 0).all()

    expected = np.zeros(GRID.shape, np.uint8)
    expected[3:12, 2:26] = UNKNOWN  # up to a pixel around both, where a wall may end
    expected[3:12, 15] = 1  # between both
    np.testing.assert_array_equal(contact, expected)

    expected = plain[3].copy()
    expected[5:10, 4:14], expected[5:10, 17:24] = UNKNOWN, UNKNOWN
    np.testing.assert_array_equal(distance, expected)
    assert distance[6, 3] == 127 + 4
    assert distance[6, 2] == 127 - 4


def test_pieces_that_share_a_wall_have_it():
    pieces = np.zeros(GRID.shape, np.int32)
    pieces[4:12, 3:12], pieces[4:12, 12:22] = 1, 2
    _, border, contact, _ = rasterize(ArrayLabels(pieces), merged=True)
    for band in (border, contact):
        assert (band[5:11, 11:13] == 1).all()
        assert (band[5:11, 5:10] == UNKNOWN).all()


@given(
    top=st.integers(0, 23),
    left=st.integers(0, 35),
    height=st.integers(1, 24),
    width=st.integers(1, 36),
    boxes=boxes,
)
def test_a_window_equals_the_same_part_of_the_scene(top, left, height, width, boxes):
    labels = ArrayLabels(divide(boxes)[1])
    window = Window(left, top, min(width, 36 - left), min(height, 24 - top))
    whole = rasterize(labels, merged=True)
    np.testing.assert_array_equal(
        rasterize(labels, merged=True, window=window), whole[(..., *window.toslices())]
    )


def test_nodata_and_masks(tmp_path):
    pieces = np.zeros(GRID.shape, np.int32)
    pieces[4:11, 3:15], pieces[14:22, 8:30] = 1, 2
    path = tmp_path / "mask.tif"
    write_array(path, GRID, (pieces > 0)[None].astype(np.uint8))
    from_mask = rasterize(RasterLabels(GRID, str(path)), merged=True)
    expected = rasterize(ArrayLabels(pieces), merged=True)
    # Beyond the raster nothing is labelled, which does not reach a pixel of this scene.
    np.testing.assert_array_equal(from_mask, expected)
    valid = np.ones(GRID.shape, bool)
    valid[8:16, 10:20] = False
    holed = rasterize_targets(ArrayLabels(pieces), GRID.window, valid, ALL, merged=True)
    assert (holed[:, ~valid] == UNKNOWN).all()
    np.testing.assert_array_equal(holed[:, valid], expected[:, valid])


# Settings and tiles


def two_scenes(folder, **options):
    """A scene with separate buildings, one with the same kind of labels that are merged."""
    gap = {"origin": (500_500.0, 3_000_000.0)}
    made = [
        write_scene(folder, "good", height=96, width=320, buildings=HOUSES),
        write_scene(folder, "rows", height=96, width=320, buildings=HOUSES, seed=1, **gap),
    ]
    rows = gpd.read_file(made[1].labels)
    pieces = gpd.GeoDataFrame(geometry=list(rows.union_all().geoms), crs=rows.crs)
    assert 1 < len(pieces) < len(rows)
    pieces.to_file(made[1].labels)
    chosen = {"size": 32, "gap": 0, "fractions": (0.4, 0.5, 0.1), "targets": ALL[:3]} | options
    scenes, labels = [one.path for one in made], str(folder / "{}.gpkg")
    return scenes, labels, TileOptions(**chosen)


# Two houses that touch, again and again.
HOUSES = [
    (x + shift, y, x + shift + 12, y + 9)
    for y in range(6, 84, 22)
    for x in range(5, 290, 30)
    for shift in (0, 12)
]


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A folder of tiles whose scene `rows` has merged labels, and what `tile` reported."""
    folder = tmp_path_factory.mktemp("cut")
    scenes, labels, options = two_scenes(folder, merged=("rows*",))
    lines = []
    result = tile(scenes, labels, folder / "tiles", options=options, report=lines.append)
    return SimpleNamespace(
        folder=folder / "tiles", scenes=scenes, labels=labels, lines=lines, report=result.report
    )


def test_merged_scenes_are_named_and_recorded(cut):
    rows = str(cut.scenes[1])
    assert (
        "touching buildings are merged in the labels of rows.tif; unknown inside them: border, "
        "contact" in cut.lines
    )
    assert describe_file(cut.folder)["merged"] == [rows]
    assert cut.report.merged == (rows,)
    told = [
        one for one in list_findings(cut.report) if "merged in the labels of rows.tif" in one.text
    ]
    assert len(told) == 1
    page = (cut.folder / "labels.html").read_text()
    assert "merged in the labels of rows.tif" in page


def test_tiles_on_disk_and_in_the_mosaic_have_the_targets_of_the_scene(cut, tmp_path):
    unknown = {"good.tif": 0, "rows.tif": 0}
    for split in ("train", "val"):
        dataset = TileDataset(cut.folder, split)
        mosaic = build_mosaic(dataset, tmp_path / split)
        windows = MosaicDataset(mosaic, 48)
        for index, row in enumerate(dataset.tiles.itertuples()):
            name = row.scene.rpartition("/")[2]
            with rasterio.open(row.scene) as source:
                grid = Grid(source.crs, source.transform, source.height, source.width)
            frame = gpd.read_file(cut.labels.replace("{}", name.removesuffix(".tif")))
            window = tile_window(row)
            expected = rasterize_targets(
                FootprintLabels(grid, frame), window, np.ones((32, 32), bool), ALL[:3],
                merged=name == "rows.tif",
            )  # fmt: skip
            found = dataset[index]["target"].numpy()
            np.testing.assert_array_equal(found, expected)
            assert (found[0] != UNKNOWN).all()
            unknown[name] += (found[1] == UNKNOWN).sum()
            batch = windows.__getitems__([Draw(index)])
            np.testing.assert_array_equal(batch["target"][0, :, 8:-8, 8:-8], expected)
    assert unknown["good.tif"] == 0
    assert unknown["rows.tif"] > 1000


def test_counts_of_the_label_report_are_of_buildings(cut, tmp_path):
    scenes, labels, options = two_scenes(tmp_path)
    plain = tile(scenes, labels, tmp_path / "tiles", options=options).report
    assert plain.merged == ()
    same = ("total", "splits", "shift")
    assert plain.model_dump(include=same) == cut.report.model_dump(include=same)


def test_patterns_and_classes_are_checked(tmp_path, caplog):
    scenes, labels, options = two_scenes(tmp_path)
    wrong = options.model_copy(update={"merged": ("accra*",)})
    with pytest.raises(ConfigError, match=r"tile\.merged: accra\* matches none of the 2 scenes"):
        plan_tiles(scenes, labels, wrong)
    with pytest.raises(ValidationError, match="merged is for labels of buildings, but classes"):
        TileOptions(merged=("*",), classes={"values": {"house": 1, "road": 2}})
    plan_tiles(scenes, labels, options.model_copy(update={"merged": ("rows*",)}))
    assert "all training scenes" not in caplog.text
    every = plan_tiles(scenes, labels, options.model_copy(update={"merged": ("*",)}))
    assert every.merged == tuple(str(scene) for scene in scenes)
    assert "the labels of all training scenes merge touching buildings" in caplog.text


def test_the_header_lists_scenes_of_its_own_once(cut):
    info = TileDataset(cut.folder, "train").info
    assert info.merged == (str(cut.scenes[1]),)
    values = info.model_dump()
    for merged in (("other.tif",), info.merged * 2):
        with pytest.raises(ValidationError, match="merged must list some of the scenes"):
            TilesInfo.model_validate(values | {"merged": merged})
    classes = {"targets": ("class",), "classes": ("a", "b"), "colours": ("#000000", "#ffffff")}
    with pytest.raises(ValidationError, match="merged must be empty for exclusive classes"):
        TilesInfo.model_validate(values | classes)


def test_settings_that_contradict_the_tiles_are_found(cut):
    info = TileDataset(cut.folder, "train").info
    assert find_other_settings(info, TileOptions(merged=("rows.tif",))) == {}
    other = find_other_settings(info, TileOptions(merged=("*",)))
    assert other == {"tile.merged": ("good.tif, rows.tif", "rows.tif")}
    assert find_other_settings(info, TileOptions()) == {}


# Training


class Given(nn.Module):
    """Gives its parameter for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, image):
        return self.logits


LOSSES = [
    {"bce": 1},
    {"bce": {"pos_weight": [2, 1, 3]}},
    {"dice": 1},
    {"jaccard": 1},
    {"tversky": 1},
    {"lovasz_hinge": 1},
    {"lovasz_hinge": {"per_image": True}},
    {"focal": 1},
    {"focal": {"alpha": 0.25, "normalise": "positives"}},
    {"bce": 1, "dice": 0.5, "lovasz_hinge": 0.2, "focal": 0.1},
]


@pytest.mark.parametrize(
    ("loss", "weight_map"),
    [(loss, None) for loss in LOSSES]
    + [(loss, {"w0": 5}) for loss in LOSSES if {"bce", "focal"} & loss.keys()],
)
def test_ignored_pixels_of_a_target_have_no_influence(cut, loss, weight_map):
    dataset = TileDataset(cut.folder, "train", sigma_px=3.0)
    rows = dataset.tiles.index[dataset.tiles.scene.str.contains("rows")][:3].tolist()
    samples = [dataset[index] for index in rows]
    batch = {name: torch.stack([one[name] for one in samples]) for name in samples[0]}
    unknown = batch["target"] == UNKNOWN
    assert unknown[:, 1:].any(dim=(0, 2, 3)).all()
    assert not unknown[:, 0].any()
    options = TrainOptions(loss=loss, weight_map=weight_map, sampling="hard")

    def step(logits):
        module = Segmenter(Given(logits), dataset.info, options, building_share=0.3)
        image, target, _ = module._normalise(batch)
        found, _ = module._loss(image, target)
        return found.item(), torch.autograd.grad(found, module.network.logits)[0], module

    logits = torch.randn(unknown.shape, generator=torch.Generator().manual_seed(0)) * 2
    value, gradient, module = step(logits)
    for junk in (30.0, -30.0, torch.inf, torch.nan):
        other, gradient_too, same = step(torch.where(unknown, junk, logits))
        assert other == value
        assert torch.equal(gradient_too, gradient)
        assert torch.equal(same.tile_losses, module.tile_losses)
    assert (gradient[unknown] == 0).all()
    assert (gradient[~unknown] != 0).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_ignoring_pixels_of_a_target_leaves_the_other_targets_alone(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 20, 28, generator=generator)
    target = torch.randint(0, 2, logits.shape, generator=generator)
    known = torch.ones(logits.shape, dtype=torch.bool)
    less = known.clone()
    less[:, 1] = torch.rand(2, 20, 28, generator=generator) > 0.8
    gradients = []
    for valid in (known, less):
        leaf = logits.clone().requires_grad_()
        found = CompositeLoss(LossOptions(**loss), channels=3)(leaf, target, valid)
        gradients.append(torch.autograd.grad(found, leaf)[0])
    for channel in (0, 2):
        torch.testing.assert_close(gradients[0][:, channel], gradients[1][:, channel])
    assert not torch.equal(gradients[0][:, 1], gradients[1][:, 1])


@given(seed=st.integers(0, 1000), deform=st.booleans(), blank=st.booleans())
def test_resampling_never_turns_unknown_into_a_class(seed, deform, blank):
    generator = torch.Generator().manual_seed(seed)
    # The first band says what the second must be: 0, 1, or unknown, pixel by pixel.
    code = torch.randint(0, 3, (6, 1, 44, 60), generator=generator, dtype=torch.uint8)
    meaning = torch.tensor([0, 1, UNKNOWN], dtype=torch.uint8)
    target = torch.cat([code, meaning[code.long()]], dim=1)
    valid = torch.ones(6, 1, 44, 60, dtype=torch.bool)
    valid[:, :, :9] = False
    target[(~valid).expand_as(target)] = UNKNOWN
    options = AugmentOptions(
        free_share=1, turn_deg=45, scale=1.5, elastic_px=4 if deform else 0,
        blank_share=1 if blank else 0,
    )  # fmt: skip
    image, black = torch.zeros(6, 3, 44, 60), torch.full((3,), -2.0)
    background = torch.tensor([0, 0], dtype=torch.uint8)
    _, found, still = augment(
        image, target, valid, size=32, black=black, white=-black, ignore=UNKNOWN,
        background=background, options=options, random=Randomness(generator, 6),
    )  # fmt: skip
    seen = still[:, 0]
    assert (found[:, 1][~seen] == UNKNOWN).all()
    np.testing.assert_array_equal(found[:, 1][seen], meaning[found[:, 0][seen].long()])
    if not blank:
        assert (found[:, 1][seen] == UNKNOWN).any()


# Validation


def guess(data, _valid):
    """A network that finds every building pixel and every wall between houses."""
    body = (data[:, :1] > 79.5).astype(np.float32)
    wall = np.zeros_like(body)
    wall[..., 1:] = np.abs(np.diff(body, axis=3))
    return np.concatenate([body, 0 * wall, 0 * wall], axis=1)


def predicted(folder):
    areas = ValidationAreas(TileDataset(folder, "val"))
    areas.predict(guess)
    return areas


def test_buildings_of_merged_places_do_not_count_and_their_pixels_do(cut, tmp_path):
    areas, thresholds = predicted(cut.folder), Thresholds(regularize=False)
    good, rows = sorted(areas.areas(), key=lambda one: one.merged)
    assert (good.merged, rows.merged) == (False, True)
    ((buildings, pixels),) = areas.score_places(thresholds)
    alone = [one.evaluate(thresholds) for one in (good, rows)]
    # The network merges houses, which is wrong in one place and right in the other.
    assert alone[0].score.f1 < 0.3 < 0.9 < alone[1].score.f1
    assert buildings == alone[0].score
    assert pixels.tp == pytest.approx(
        sum(one.area.tp for one in alone) / good.grid.pixel_area, rel=1e-6
    )
    every, labels, options = two_scenes(tmp_path, merged=("*",))
    tile_scenes(plan_tiles(every, labels, options), tmp_path / "tiles")
    ((total, _),) = predicted(tmp_path / "tiles").score_places(thresholds)
    assert total == alone[0].score + alone[1].score


def test_the_sample_of_a_large_split_holds_both_kinds(cut):
    tiles = TileDataset(cut.folder, "val")
    areas = ValidationAreas(tiles, most_pixels=2 * 32**2)
    assert sorted(plan._merged for plan in areas._plans) == [False, True]
    assert areas.covered_mpx == 2 * 32**2 / 1e6
    # A single tile is one whose buildings count.
    (plan,) = ValidationAreas(tiles, most_pixels=2 * 32**2 - 1)._plans
    assert (plan._merged, len(plan.windows)) == (False, 1)


def test_places_without_buildings_do_not_hide_the_merged_ones():
    def place(merged, count):
        return SimpleNamespace(merged=merged, truth=[None] * count)

    assert count_buildings_in([place(True, 5), place(False, 2), place(False, 0)]) == [
        *(False, True, True)
    ]
    assert count_buildings_in([place(True, 5), place(False, 0)]) == [True, True]


@pytest.mark.parametrize("every", [False, True])
def test_a_run_ends_with_a_line_about_merged_places(cut, tmp_path, monkeypatch, every):
    folder = cut.folder
    if every:
        scenes, labels, options = two_scenes(tmp_path, merged=("*",))
        folder = tmp_path / "tiles"
        tile_scenes(plan_tiles(scenes, labels, options), folder)
    monkeypatch.setattr("geoseg.training.finishing.Predictor", lambda *_: guess)
    monkeypatch.setattr("geoseg.training.validation.tuning._CANDIDATES", {"body": (0.4,)})
    tuned = finish(SimpleNamespace(exclusive=False), {}, "cpu", TileDataset(folder, "val"))
    scores = [one.evaluate(tuned.thresholds).score for one in predicted(folder).areas()]
    (note,) = tuned.notes
    if every:
        assert tuned.f1 == sum(scores, Score(0, 0, 0)).f1
        assert tuned.merged_f1 is None
        assert note.startswith("all labelled buildings of the validation tiles are in scenes whose")
    else:
        assert (tuned.f1, tuned.merged_f1) == (scores[0].f1, scores[1].f1)
        assert note == (
            f"building F1 {scores[1].f1:.3f} where labels merge touching buildings; it neither "
            "counts nor chooses thresholds"
        )


def test_areas_of_boxes_know_merged_places(cut):
    assert [one.merged for one in build_areas(BoxDataset(cut.folder, "val"))] == [False, True]


def test_the_command_names_merged_scenes(tmp_path):
    scenes, labels, _ = two_scenes(tmp_path)
    words = [*map(str, scenes), "--labels", labels, "-o", str(tmp_path / "tiles")]
    words += ["--size", "32", "--gap", "0", "--fractions", "0.4,0.5,0.1"]
    found = CliRunner().invoke(command, [*words, "--merged", "good.tif", "--merged", "r*"])
    assert found.exit_code == 0, found.output
    line = "touching buildings are merged in the labels of good.tif, rows.tif; unknown inside them"
    assert f"{line}: border\n" in found.output
    info = TileDataset(tmp_path / "tiles", "val").info
    assert info.merged == info.scenes == tuple(map(str, scenes))
