"""Scene → probabilities → mask and footprints, one tile row in memory at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from geoseg.boxes.predict import predict_boxes
from geoseg.dataset import normalise
from geoseg.device import choose_device, computes_bf16
from geoseg.errors import ConfigError
from geoseg.grid import Grid
from geoseg.journal import check_output, claim_output
from geoseg.mask import write_mask
from geoseg.model_file import ModelSpec, load_model
from geoseg.models import load_network, task_of
from geoseg.models.unet import UNet
from geoseg.options import PredictOptions, VectorizeOptions
from geoseg.plan import PredictPlan, Progress, iter_batches, plan_prediction, tile_part
from geoseg.quantise import quantise
from geoseg.raster import Scene, open_for_writing, write_cog
from geoseg.refine import refine_raster
from geoseg.stitch import stitch_rows
from geoseg.tiling import Tile, TilePlan
from geoseg.vector import WRITABLE_SUFFIXES
from geoseg.vectorize import (
    CLASSES_TAG,
    THRESHOLDS_TAG,
    describe_classes,
    refuse_thresholds,
    vectorize,
)

# (quarter turns, mirrored) of each view of a tile. Two turns and a mirror make the other flip.
TTA_VIEWS = {
    "none": ((0, False),),
    "flips": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}

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
        network = load_network(spec, weights).eval().to(self.device)
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
        scores = logits.float()
        prob = scores.softmax(dim=1) if self.spec.exclusive else scores.sigmoid()
        prob = torch.rot90(prob, -turns, (-2, -1))
        return prob.flip(-1) if mirrored else prob

    def _logits(self, image: Tensor) -> Tensor:
        size = self.spec.size
        if self.margin and image.shape[-1] == size + 2 * self.margin:
            logits: Tensor = self.network.valid_logits(image, (size, size))  # type: ignore[operator]
        else:
            logits = self.network(image)
        return logits


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
            `.tif` for probabilities, a vector format for footprints. Of a model of boxes there
            are footprints alone.
        options: How to predict.
        thresholds: Replace the model's.
        overwrite: Replace the output if it is there.
        progress: Told the finished and the total number of tiles, then of the CRF's blocks.

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
    thresholds = thresholds or VectorizeOptions()
    if spec.exclusive:
        refuse_thresholds(thresholds)
    chosen = thresholds.over(spec.thresholds)
    if task_of(spec.arch) == "boxes":
        return predict_boxes(
            plan, weights, output, options, chosen, overwrite=overwrite, progress=progress
        )
    predictor = Predictor(spec, weights, options.device, options.tta)
    tags = {THRESHOLDS_TAG: chosen.model_dump_json(), "GEOSEG_SCALE": str(1 / 255)}
    if spec.exclusive:
        tags[CLASSES_TAG] = describe_classes(spec.classes, spec.background)
    if suffix in _RASTER_SUFFIXES:
        _write_prob(plan, predictor, output, tags, options, progress)
        return [output]
    if suffix:
        with tempfile.TemporaryDirectory(prefix=".geoseg-", dir=_parent(output)) as folder:
            prob = Path(folder) / "prob.tif"
            _write_prob(plan, predictor, prob, tags, options, progress)
            vectorize(prob, output, overwrite=overwrite)
        return [output]
    with claim_output(output, overwrite=overwrite, inputs=inputs) as folder:
        _write_prob(plan, predictor, folder / "prob.tif", tags, options, progress)
        write_mask(folder / "prob.tif", folder / "mask.tif", spec, chosen.body)
        vectorize(folder / "prob.tif", folder / "footprints.gpkg")
    return [output / name for name in ("prob.tif", "mask.tif", "footprints.gpkg")]


@dataclass(frozen=True)
class PredictTask:
    """One scene to predict: a recipe that any process can carry out; see `predict`."""

    scene: str | Path
    model: str | Path
    output: Path
    options: PredictOptions
    thresholds: VectorizeOptions


def predict_scenes(
    scenes: Sequence[str | Path],
    model: str | Path,
    output: str | Path,
    *,
    options: PredictOptions | None = None,
    thresholds: VectorizeOptions | None = None,
    run: Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]] = map,
) -> list[Path]:
    """Predicts scenes, each into a folder of its name; those that are there already stay.

    Args:
        scenes: The scenes.
        model: A model file that `geoseg train` wrote.
        output: Where the folders lie.
        options: How to predict.
        thresholds: Replace the model's.
        run: Calls a function on every task and yields the results in order, an exception for
            a task that was lost; `map` does so in this process.

    Returns:
        The folders.

    Raises:
        ConfigError: If two scenes have one name.
        GeosegError: As `predict` raises it.
    """
    folders = [Path(output) / Path(scene).stem for scene in scenes]
    repeated = next((folder for folder in folders if folders.count(folder) > 1), None)
    if repeated:
        raise ConfigError(
            f"two scenes have one name, {repeated.name}; their results would share a folder"
        )
    tasks = [
        PredictTask(
            scene, model, folder, options or PredictOptions(), thresholds or VectorizeOptions()
        )
        for scene, folder in zip(scenes, folders, strict=True)
        if not folder.exists()
    ]
    for lost in run(predict_task, tasks):
        if isinstance(lost, Exception):
            raise lost
    return folders


def predict_task(task: PredictTask) -> None:
    """Predicts one scene."""
    predict(task.scene, task.model, task.output, options=task.options, thresholds=task.thresholds)


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
    for batch in iter_batches(scene, plan, batch_size, size=size, margin=margin):
        filled = batch + [batch[-1]] * (batch_size - len(batch))
        _, data, valid = (list(parts) for parts in zip(*filled, strict=True))
        probs = predictor(np.stack(data), np.stack(valid))
        for (tile, _, seen), prob in zip(batch, probs, strict=False):
            inside = tile_part(tile.window, margin)
            known = seen[inside][None]
            yield tile, np.concatenate([prob[:, : known.shape[1], : known.shape[2]], known])
        done = batch[-1][0].row * len(plan.columns) + batch[-1][0].column + 1
        if progress:
            progress(done, len(plan), "tiles")
    if progress and done < len(plan):
        progress(len(plan), len(plan), "tiles")


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


def _write_prob(
    plan: PredictPlan,
    predictor: Predictor,
    path: Path,
    tags: dict[str, str],
    options: PredictOptions,
    progress: Progress | None,
) -> None:
    """Predicts into a plain GeoTIFF on the model's grid, then rewrites that as the COG."""
    with tempfile.TemporaryDirectory(prefix=".geoseg-", dir=_parent(path)) as folder:
        prob = Path(folder) / "stitched.tif"
        _stitch(plan, predictor, prob, tags, options.batch_size, progress)
        if options.crf:
            prob, raw = prob.with_name("refined.tif"), prob
            scene, bands, gsd_m = plan.scene.path, plan.scene.indexes, plan.scene.assume_gsd_m
            refine_raster(
                raw, scene, prob, options=options.crf, bands=bands, assume_gsd_m=gsd_m,
                progress=progress,
            )  # fmt: skip
        if plan.out_grid != plan.grid:
            prob, on_model_grid = prob.with_name("placed.tif"), prob
            _place(plan, on_model_grid, prob, tags)
        write_cog(prob, path, resampling="average")


def _stitch(
    plan: PredictPlan,
    predictor: Predictor,
    path: Path,
    tags: dict[str, str],
    batch_size: int,
    progress: Progress | None,
) -> None:
    """Predicts all tiles into one raster on the model's grid."""
    outputs = plan.spec.outputs
    with (
        plan.scene.open(plan.grid) as scene,
        _prob_raster(path, plan.grid, outputs, tags) as sink,
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


def _prob_raster(path: Path, grid: Grid, outputs: tuple[str, ...], tags: dict[str, str]) -> Any:
    return open_for_writing(
        path, grid, count=len(outputs), dtype="uint8", descriptions=outputs, tags=tags, zlevel=1
    )


def _place(plan: PredictPlan, stitched: Path, placed: Path, tags: dict[str, str]) -> None:
    """Brings probabilities back to the scene's own pixels, and its own nodata to them."""
    with (
        Scene(stitched, grid=plan.out_grid) as prob,
        plan.scene.open() as scene,
        _prob_raster(placed, plan.out_grid, plan.spec.outputs, tags) as sink,
    ):
        for window in plan.out_grid.row_windows(512):
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
