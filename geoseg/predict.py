"""Scene → probabilities → mask and footprints, one tile row in memory at a time."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from geoseg.dataset import normalise
from geoseg.errors import ConfigError, GridMismatchError, ModelFileError
from geoseg.grid import Grid
from geoseg.journal import check_output, claim_output
from geoseg.model_file import ModelSpec, load_model
from geoseg.models import build_model
from geoseg.models.unet import UNet
from geoseg.options import PredictOptions, VectorizeOptions
from geoseg.raster import Scene, SceneInfo, open_for_writing, read_info, write_cog
from geoseg.stitch import stitch_rows
from geoseg.tiling import Tile, TilePlan
from geoseg.vector import WRITABLE_SUFFIXES
from geoseg.vectorize import THRESHOLDS_TAG, vectorize

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# A scene whose pixels differ from the model's by more than this factor shows other things.
_MOST_SCALE = 4.0

# (quarter turns, mirrored) of each view of a tile. Two turns and a mirror make the other flip.
TTA_VIEWS = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}

_MASK_NODATA = 255
_MASK_COLOURS = {0: (0, 0, 0, 0), 1: (227, 74, 51, 255)}
_RASTER_SUFFIXES = (".tif", ".tiff")


class Predictor:
    """A network with all that its model file says, ready for scenes.

    Args:
        spec: The model's header.
        weights: Its state dict.
        device: `auto`, `cpu` or `gpu`.
        tta: `none`, `flips` or `d4`: the views of each tile that are averaged.

    Raises:
        ModelFileError: If the weights do not belong to the architecture.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: dict[str, Tensor],
        device: str = "auto",
        tta: str = "none",
    ) -> None:
        self.spec = spec
        self.views = TTA_VIEWS[tta]
        self.device = choose_device(device)
        network = build_model(
            spec.arch,
            spec.encoder,
            bands=spec.bands,
            outputs=len(spec.outputs),
            options=spec.options,
        )
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelFileError(
                f"the weights do not fit {spec.arch} on {spec.encoder}; the file is damaged or "
                "of another version of geoseg"
            ) from error
        network = network.eval().to(self.device)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)
        # Surroundings of a tile that the network wants to see, where they are known.
        self.margin = network.margin(spec.size) if isinstance(network, UNet) else 0
        self._mean = torch.tensor(spec.mean, device=self.device)
        self._std = torch.tensor(spec.std, device=self.device)

    @torch.inference_mode()
    def __call__(self, data: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Probabilities of a batch.

        Args:
            data: (N, C, H, W) in the scene's units; tiles of the model's size may show
                `margin` pixels more on every side.
            valid: (N, H, W) bool.

        Returns:
            float32 (N, outputs, H, W), without the margin.
        """
        image = torch.from_numpy(data.astype(np.float32, copy=False)).to(self.device)
        mask = torch.from_numpy(valid[:, None]).to(self.device)
        image = normalise(image, mask, self._mean, self._std)
        views = torch.stack([self._view(image, *view) for view in self.views])
        found: np.ndarray = views.mean(dim=0).cpu().numpy()
        return found

    def _view(self, image: Tensor, turns: int, mirrored: bool) -> Tensor:
        """Probabilities of the tiles seen turned and mirrored, turned back."""
        seen = torch.rot90(image.flip(-1) if mirrored else image, turns, (-2, -1))
        seen = seen.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=computes_bf16(self.device)):
            logits = self._logits(seen)
        prob = torch.rot90(logits.float().sigmoid(), -turns, (-2, -1))
        return prob.flip(-1) if mirrored else prob

    def _logits(self, image: Tensor) -> Tensor:
        size = self.spec.size
        if self.margin and image.shape[-1] == size + 2 * self.margin:
            logits: Tensor = self.network.valid_logits(image, (size, size))  # type: ignore[operator]
        else:
            logits = self.network(image)
        return logits


@dataclass(frozen=True)
class PredictPlan:
    """What `geoseg predict` will do, before it reads a pixel.

    Attributes:
        scene: The scene, its bands in the model's order.
        spec: The model's header.
        grid: The grid that tiles are predicted on.
        out_grid: The grid of the rasters.
        tiles: The tiles.
    """

    scene: SceneInfo
    spec: ModelSpec
    grid: Grid
    out_grid: Grid
    tiles: TilePlan


def plan_prediction(
    scene: str | Path, spec: ModelSpec, options: PredictOptions | None = None
) -> PredictPlan:
    """Plans the tiles of a scene for a model, reading no pixel.

    Raises:
        SceneReadError: If the scene cannot be read.
        GridMismatchError: If it lacks the model's bands, dtype or pixel size.
    """
    options = options or PredictOptions()
    info = _match_bands(scene, spec, options.bands)
    if info.dtype != spec.dtype:
        raise GridMismatchError(
            f"{scene}: holds {info.dtype} pixels, the model was trained on {spec.dtype}; convert "
            "the scene as the training scenes were (gdal_translate -ot ... -scale ...) or retrain"
        )
    scale = spec.gsd_m / info.grid.gsd_m
    if not 1 / _MOST_SCALE <= scale <= _MOST_SCALE:
        raise GridMismatchError(
            f"{scene}: its pixels measure {info.grid.gsd_m:.3g} m on the ground, the model wants "
            f"{spec.gsd_m:.3g} m, more than {_MOST_SCALE:g} times off; use a model trained near "
            "the scene's pixel size"
        )
    grid = info.grid.resampled(spec.gsd_m)
    overlap = spec.overlap if options.overlap is None else options.overlap
    tiles = TilePlan(grid.height, grid.width, spec.size, overlap)
    out_grid = grid if options.keep_model_grid else info.grid
    return PredictPlan(info, spec, grid, out_grid, tiles)


def predict(
    scene: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    options: PredictOptions | None = None,
    thresholds: VectorizeOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Predicts a scene.

    Args:
        scene: Any raster that GDAL opens.
        model: A model file that `geoseg train` wrote.
        output: A folder for `prob.tif`, `mask.tif` and `footprints.gpkg`; or one file: a
            `.tif` for probabilities, a vector format for footprints.
        options: How to predict.
        thresholds: Replace the model's.
        overwrite: Replace the output if it is there.
        progress: Told the finished and the total number of tiles.

    Returns:
        The files written.

    Raises:
        GeosegError: If scene, model and output do not work together; nothing is written then.
    """
    options = options or PredictOptions()
    inputs = (scene, model)
    output = check_output(output, overwrite=overwrite, inputs=inputs)
    suffix = _check_suffix(output)
    spec, weights = load_model(model)
    plan = plan_prediction(scene, spec, options)
    predictor = Predictor(spec, weights, options.device, options.tta)
    chosen = (thresholds or VectorizeOptions()).over(spec.thresholds)
    tags = {THRESHOLDS_TAG: chosen.model_dump_json(), "GEOSEG_SCALE": str(1 / 255)}
    if suffix in _RASTER_SUFFIXES:
        _write_prob(plan, predictor, output, tags, options.batch_size, progress)
        return [output]
    if suffix:
        with tempfile.TemporaryDirectory(prefix=".geoseg-", dir=_parent(output)) as folder:
            prob = Path(folder) / "prob.tif"
            _write_prob(plan, predictor, prob, tags, options.batch_size, progress)
            vectorize(prob, output, overwrite=overwrite)
        return [output]
    with claim_output(output, overwrite=overwrite, inputs=inputs) as folder:
        _write_prob(plan, predictor, folder / "prob.tif", tags, options.batch_size, progress)
        _write_mask(folder / "prob.tif", folder / "mask.tif", chosen.body, spec)
        vectorize(folder / "prob.tif", folder / "footprints.gpkg")
    return [output / name for name in ("prob.tif", "mask.tif", "footprints.gpkg")]


def iter_probs(
    scene: Scene,
    plan: TilePlan,
    predictor: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    size: int,
    batch_size: int,
    margin: int = 0,
    progress: Progress | None = None,
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Predicts the tiles of a plan in their order, all batches of one shape.

    Tiles without a valid pixel are left out. The last channel says where pixels are valid.

    Args:
        scene: The scene on the plan's grid.
        plan: The tiles.
        predictor: (N, C, S, S), (N, S, S) → (N, outputs, size, size), S = size + 2 margin.
        size: Tile side; smaller scenes are mirrored up to it.
        batch_size: Tiles per batch; the last batch is filled up by repeating a tile.
        margin: Pixels around each tile that the predictor sees besides, mirrored at the
            scene's edge (the overlap-tile strategy of U-Net, arXiv 1505.04597).
        progress: Told the finished and the total number of tiles.

    Yields:
        Tile and float32 (outputs + 1, h, w).
    """
    done = 0
    for batch in _batches(_read_tiles(scene, plan, size, margin), batch_size):
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        _, data, valid = (list(parts) for parts in zip(*filled, strict=True))
        probs = predictor(np.stack(data), np.stack(valid))
        for (tile, _, seen), prob in zip(batch, probs, strict=False):
            inside = tile_part(tile.window, margin)
            known = seen[inside][None]
            yield tile, np.concatenate([prob[:, : known.shape[1], : known.shape[2]], known])
        done = batch[-1][0].row * len(plan.columns) + batch[-1][0].column + 1
        if progress:
            progress(done, len(plan))
    if progress and done < len(plan):
        progress(len(plan), len(plan))


def read_tile(
    scene: Scene, window: Window, size: int, margin: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a window and what surrounds it, mirrored at the scene's edges.

    Args:
        scene: The scene.
        window: Inside the scene, no larger than `size`.
        size: Side of the result without its margin; a smaller window is mirrored up to it.
        margin: Pixels more on every side.

    Returns:
        Data (C, S, S) and valid (S, S), S = size + 2 margin; the window begins at (margin,
        margin).
    """
    near = _clip(window, margin, scene.grid)
    data, valid = scene.read(near)
    pads = []
    for start, begin, length in (
        (window.row_off, near.row_off, near.height),
        (window.col_off, near.col_off, near.width),
    ):
        before = margin - (start - begin)
        pads.append((before, size + 2 * margin - before - length))
    if not any(before or after for before, after in pads):
        return data, valid
    return (
        np.pad(data, [(0, 0), *pads], mode="symmetric"),
        np.pad(valid, pads, mode="symmetric"),
    )


def _clip(window: Window, margin: int, grid: Grid) -> Window:
    """The window with its margin, as far as the grid reaches."""
    top, left = max(0, window.row_off - margin), max(0, window.col_off - margin)
    bottom = min(grid.height, window.row_off + window.height + margin)
    right = min(grid.width, window.col_off + window.width + margin)
    return Window(left, top, right - left, bottom - top)


def tile_part(window: Window, margin: int) -> tuple[slice, slice]:
    """Where the window lies in what `read_tile` returns."""
    return (
        slice(margin, margin + int(window.height)),
        slice(margin, margin + int(window.width)),
    )


def quantise(prob: np.ndarray) -> np.ndarray:
    """Probabilities 0..1 to uint8 0..255, monotone, 0 → 0 and 1 → 255."""
    levels: np.ndarray = np.rint(np.clip(prob, 0, 1) * 255).astype(np.uint8)
    return levels


def choose_device(device: str) -> torch.device:
    """The device that a name means.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if device == "gpu" and not has_gpu:
        raise ConfigError("device: no CUDA GPU is visible; use device=cpu, or see nvidia-smi")
    return torch.device("cuda" if has_gpu and device != "cpu" else "cpu")


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 rather than imitate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def _match_bands(
    scene: str | Path, spec: ModelSpec, bands: tuple[int | str, ...] | None
) -> SceneInfo:
    info = read_info(scene, bands=bands)
    names, wanted = [n.lower() for n in info.bands], [n.lower() for n in spec.bands]
    if bands is None and names != wanted and set(wanted) <= set(names):
        return read_info(scene, bands=[info.indexes[names.index(name)] for name in wanted])
    unlike = len(names) != len(wanted)
    named = bands is None and not (_are_numbered(names) or _are_numbered(wanted))
    if unlike or (named and names != wanted):
        raise GridMismatchError(
            f"{scene}: has {len(names)} bands ({', '.join(info.bands)}), the model wants "
            f"{len(wanted)} ({', '.join(spec.bands)}); name the bands in the model's order "
            "with --bands"
        )
    if bands is None and names != wanted:
        logger.warning(
            "%s: its bands or the model's have no names; taken in order as %s, --bands says "
            "otherwise",
            scene,
            ", ".join(spec.bands),
        )
    return info


def _are_numbered(names: list[str]) -> bool:
    """Whether bands have no names of their own, so that only their order can tell."""
    return all(name.removeprefix("band").isdigit() for name in names)


def _check_suffix(output: Path) -> str:
    """The suffix of an output file, or nothing for a folder."""
    suffix = "" if output.is_dir() else output.suffix.lower()
    if suffix and suffix not in (*_RASTER_SUFFIXES, *WRITABLE_SUFFIXES):
        choices = ", ".join((*_RASTER_SUFFIXES[:1], *WRITABLE_SUFFIXES))
        raise ConfigError(
            f"{output}: cannot tell what to write by {suffix}; use a folder or one of {choices}"
        )
    return suffix


def _parent(output: Path) -> Path:
    output.parent.mkdir(parents=True, exist_ok=True)
    return output.parent


def _read_tiles(
    scene: Scene, plan: TilePlan, size: int, margin: int
) -> Iterator[tuple[Tile, np.ndarray, np.ndarray]]:
    for tile in plan:
        data, valid = read_tile(scene, tile.window, size, margin)
        if valid[tile_part(tile.window, margin)].any():
            yield tile, data, valid


def _batches(
    tiles: Iterable[tuple[Tile, np.ndarray, np.ndarray]], size: int
) -> Iterator[list[tuple[Tile, np.ndarray, np.ndarray]]]:
    batch = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_prob(
    plan: PredictPlan,
    predictor: Predictor,
    path: Path,
    tags: dict[str, str],
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Predicts into a plain GeoTIFF on the model's grid, then rewrites that as the COG."""
    with tempfile.TemporaryDirectory(prefix=".geoseg-", dir=_parent(path)) as folder:
        stitched, placed = Path(folder) / "stitched.tif", Path(folder) / "placed.tif"
        outputs = plan.spec.outputs
        with (
            Scene(plan.scene.path, bands=plan.scene.indexes, grid=plan.grid) as scene,
            _prob_raster(stitched, plan.grid, outputs, tags) as sink,
        ):
            tiles = iter_probs(
                scene,
                plan.tiles,
                predictor,
                size=plan.spec.size,
                batch_size=batch_size,
                margin=predictor.margin,
                progress=progress,
            )
            for row, block in stitch_rows(plan.tiles, tiles, len(outputs) + 1):
                window = Window(0, row, plan.grid.width, block.shape[1])
                valid = block[-1] > 0.5
                sink.write(quantise(block[:-1] * valid), window=window)
                sink.write_mask(valid, window=window)
        if plan.out_grid == plan.grid:
            placed = stitched
        else:
            _place(plan, stitched, placed, tags)
        write_cog(placed, path, resampling="average")


def _prob_raster(path: Path, grid: Grid, outputs: tuple[str, ...], tags: dict[str, str]) -> Any:
    return open_for_writing(
        path, grid, count=len(outputs), dtype="uint8", descriptions=outputs, tags=tags, zlevel=1
    )


def _place(plan: PredictPlan, stitched: Path, placed: Path, tags: dict[str, str]) -> None:
    """Brings probabilities back to the scene's own pixels, and its own nodata to them."""
    with (
        Scene(stitched, grid=plan.out_grid) as prob,
        Scene(plan.scene.path, bands=plan.scene.indexes) as scene,
        _prob_raster(placed, plan.out_grid, plan.spec.outputs, tags) as sink,
    ):
        for window in iter_row_windows(plan.out_grid, rows=512):
            data, seen = prob.read(window)
            _, valid = scene.read(window)
            data = _fill(data, seen) * valid
            sink.write(data, window=window)
            sink.write_mask(valid, window=window)


def _fill(data: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Gives pixels that the model's coarser grid missed, at edges, the nearest one's values."""
    if seen.all() or not seen.any():
        return data
    rows, columns = distance_transform_edt(~seen, return_distances=False, return_indices=True)
    filled: np.ndarray = data[:, rows, columns]
    return filled


def _write_mask(prob_path: Path, path: Path, threshold: float, spec: ModelSpec) -> None:
    plain = path.with_name(".mask.tif")
    with Scene(prob_path, bands=[1]) as prob, open_for_writing(
        plain, prob.grid, count=1, dtype="uint8", nodata=_MASK_NODATA, zlevel=1,
        descriptions=["class"], colormap=_MASK_COLOURS,
        tags={f"CLASS_{i}": name for i, name in enumerate(("background", *spec.classes))},
    ) as sink:  # fmt: skip
        for window in iter_row_windows(prob.grid, rows=512):
            data, valid = prob.read(window)
            mask = (data >= np.float32(threshold) * 255).astype(np.uint8)
            mask[:, ~valid] = _MASK_NODATA
            sink.write(mask, window=window)
    write_cog(plain, path, resampling="mode")
    plain.unlink()


def iter_row_windows(grid: Grid, *, rows: int) -> Iterator[Window]:
    """Windows of whole rows, from top to bottom."""
    for top in range(0, grid.height, rows):
        yield Window(0, top, grid.width, min(rows, grid.height - top))
