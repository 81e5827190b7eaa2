"""Ground is separated before it is tiled, and the proof is a number."""

import geopandas as gpd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window
from shapely.geometry import box

from geoseg.errors import ConfigError
from geoseg.splits import (
    SPLITS,
    Region,
    count_shared_pixels,
    drop_shared,
    merge_regions,
    split_blocks,
    split_stripes,
)

UTM = "EPSG:32645"


def owners(regions, height, width):
    """(H, W) how many regions hold each pixel, and pixels per split."""
    hits = np.zeros((height, width), dtype=int)
    pixels = dict.fromkeys(SPLITS, 0)
    for region in regions:
        rows, columns = region.window.toslices()
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        hits[rows, columns] += 1
        pixels[region.split] += int(region.window.height * region.window.width)
    return hits, pixels


fractions = st.tuples(st.integers(1, 10), st.integers(0, 5), st.integers(0, 5)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(height=st.integers(1, 300), width=st.integers(1, 300), shares=fractions)
def test_stripes_partition_the_scene(height, width, shares):
    regions = split_stripes(height, width, fractions=shares)
    hits, pixels = owners(regions, height, width)
    assert (hits == 1).all()
    across, long = min(height, width), max(height, width)
    for split, share in zip(SPLITS, shares, strict=True):
        assert pixels[split] / across == pytest.approx(share * long, abs=1.01)


def test_stripes_lie_across_the_longer_side():
    assert split_stripes(100, 200, fractions=(0.5, 0.25, 0.25)) == [
        Region("train", Window(0, 0, 100, 100)),
        Region("val", Window(100, 0, 50, 100)),
        Region("test", Window(150, 0, 50, 100)),
    ]
    assert split_stripes(200, 100, fractions=(0.6, 0.4, 0)) == [
        Region("train", Window(0, 0, 100, 120)),
        Region("val", Window(0, 120, 100, 80)),
    ]


@given(
    height=st.integers(60, 300),
    width=st.integers(60, 300),
    seed=st.integers(0, 99),
    shares=fractions,
)
def test_blocks_partition_the_scene(height, width, seed, shares):
    try:
        regions = split_blocks(height, width, fractions=shares, block=20, seed=seed)
    except ConfigError:
        return
    hits, pixels = owners(regions, height, width)
    assert (hits == 1).all()
    for region in regions:
        assert 20 <= region.window.height < 40
        assert 20 <= region.window.width < 40
    assert {split for split in SPLITS if pixels[split]} == {
        split for split, share in zip(SPLITS, shares, strict=True) if share
    }


def test_blocks_are_dealt_by_the_seed():
    deal = {"fractions": (0.6, 0.2, 0.2), "block": 20}
    one, again, other = (split_blocks(100, 200, **deal, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    counts = [sum(region.split == split for region in one) for split in SPLITS]
    assert counts == [30, 10, 10]


def test_too_few_blocks_for_the_splits():
    with pytest.raises(ConfigError, match="only 2 blocks, too few for the splits; use smaller"):
        split_blocks(100, 250, fractions=(0.6, 0.2, 0.2), block=100, seed=0)


# Scenes that overlap


def squares(*parts):
    """Tiles of 10 m: (split, x)."""
    return gpd.GeoDataFrame(
        {"split": [split for split, _ in parts]},
        geometry=[box(x, 0, x + 10, 10) for _, x in parts],
        crs=UTM,
    )


def test_shared_pixels_are_counted():
    tiles = squares(("train", 0), ("val", 8), ("test", 30))
    # 2 m by 10 m in pixels of 0.5 m.
    assert count_shared_pixels(tiles, 0.25) == 80
    assert count_shared_pixels(squares(("train", 0), ("val", 10), ("test", 20)), 0.25) == 0
    assert count_shared_pixels(squares(("train", 0), ("train", 5)), 0.25) == 0


def test_test_ground_is_kept_before_validation_and_that_before_training():
    tiles = squares(("train", 0), ("val", 5), ("test", 12), ("train", 20), ("train", 30))
    kept = drop_shared(tiles, 0.25)
    # The tile of val meets test and goes; the first of train then meets nobody.
    assert list(kept.split) == ["train", "test", "train"]
    assert [round(g.bounds[0]) for g in kept.geometry] == [0, 12, 30]
    assert count_shared_pixels(kept, 0.25) == 0
    assert list(kept.index) == [0, 1, 2]


def test_tiles_that_touch_stay():
    tiles = squares(("train", 0), ("val", 10), ("test", 19.999))
    assert len(drop_shared(tiles, 0.25)) == 3
    assert len(drop_shared(squares(("train", 0), ("train", 3)), 0.25)) == 2


def test_the_ground_of_each_split_over_all_scenes():
    one, two = squares(("train", 0), ("val", 10)), squares(("train", 10_000)).to_crs(32644)
    ground = merge_regions([one, two])
    assert list(ground.split) == ["train", "val"]
    assert ground.crs.to_epsg() == 4326
    assert ground.to_crs(UTM).area.tolist() == pytest.approx([200, 100], rel=1e-3)
