"""Vectorize a raster of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geoseg.api.results import VectorizeResult
from geoseg.errors import ConfigError, SceneReadError
from geoseg.geo.raster import THRESHOLDS_TAG, ProbInfo, list_files, read_prob
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.geo.vector import check_layer, check_suffix, count_features
from geoseg.jobs.journal import describe_job
from geoseg.jobs.output import Work, check_output, file_output
from geoseg.jobs.progress import Progress
from geoseg.jobs.workers import Workers
from geoseg.options import CRFOptions, Thresholds, VectorizeOptions, check_thresholds
from geoseg.vectorization.block_layout import BlockLayout, choose_layout
from geoseg.vectorization.layer import write_layer
from geoseg.vectorization.prob_sources import SceneProb
from geoseg.vectorization.prob_sources import prob_bands as check_bands
from geoseg.vectorization.tasks import LATE_MODULES, run_trace_task

# Rows that are read at a time to find the largest value.
_ROWS = 512

# Largest byte of percent, and of what looks like classes rather than percent.
_PERCENT, _MOST_CLASSES = 100, 20


@dataclass(frozen=True)
class VectorizePlan:
    """A vectorization with its output.

    Attributes:
        prob: Description of the raster of probabilities.
        output: The layer.
        thresholds: Thresholds of the footprints.
        scene: Scene whose colours refine the probabilities first, or None.
        crf: Settings of that refinement.
        block_px: Rows and columns that are processed at a time; None chooses by memory.
    """

    prob: ProbInfo
    output: Path
    thresholds: Thresholds
    scene: str | None
    crf: CRFOptions
    block_px: int | None

    @property
    def inputs(self) -> list[str]:
        """Files that the user named."""
        return [self.prob.path] if self.scene is None else [self.prob.path, self.scene]

    def list_input_files(self) -> list[str]:
        """Return all files that the layer depends on, sources of a VRT included."""
        return [*self.prob.files, *(list_files(self.scene) if self.scene else ())]

    def choose_layout(self, max_memory_gb: float) -> BlockLayout:
        """Return the blocks and windows in which the raster would be processed."""
        return choose_layout(self.prob.grid, max_memory_gb)


def vectorize(
    prob: str | Path,
    output: str | Path,
    *,
    options: VectorizeOptions | None = None,
    mask: bool = False,
    scene: str | Path | None = None,
    overwrite: bool = False,
    workers: Workers | None = None,
    progress: Progress | None = None,
) -> VectorizeResult:
    """Turn a raster of probabilities into a layer of footprints, or of polygons of each class.

    An interrupted job continues when it is started again.

    Args:
        prob: Raster of probabilities, such as the `prob.tif` of `geoseg.predict`.
        output: Layer in a format of `geoseg.geo.vector`, chosen by its suffix.
        options: Settings that replace those in the tags of the raster.
        mask: Whether `prob` is a mask instead: every value but 0 is building.
        scene: If given, the probabilities are first refined by its colours with a dense CRF.
        overwrite: Replace an existing output.
        workers: Where tasks run; the layer does not depend on it.
        progress: Called with the finished and the total number of CRF blocks, of blocks searched
            and of windows traced.

    Raises:
        ConfigError: If the suffix or the options are wrong.
        MemoryLimitError: If the memory does not suffice; with more the same call continues.
        OutputExistsError: If the output exists and may not be replaced.
        SceneReadError: If `prob` cannot be read or is not a raster of probabilities, but of percent
            or classes, for example.
        MissingCRSError: If `prob` has no georeferencing.
    """
    workers = workers or Workers()
    with limited_block_cache():
        plan = plan_vectorize(
            prob, output, options=options, mask=mask, scene=scene, overwrite=overwrite
        )
        _check_values(plan.prob, plan.thresholds.body)
        settings = (plan.thresholds.model_dump(), bool(scene) and plan.crf.model_dump())
        job = describe_job(
            "vectorize", mask, *settings, plan.output.suffix.lower(), files=plan.list_input_files()
        )
        with file_output(output, overwrite=overwrite, inputs=plan.inputs, job=job) as work:
            if not work.is_complete:
                _write(plan, work, workers, progress)
            recorded: int | None = work.journal.find("count", int)
        count = count_features(output) if recorded is None else recorded
    return VectorizeResult(Path(output), count)


def plan_vectorize(
    prob: str | Path,
    output: str | Path,
    *,
    options: VectorizeOptions | None = None,
    mask: bool = False,
    scene: str | Path | None = None,
    overwrite: bool = False,
) -> VectorizePlan:
    """Check raster, options and output, reading headers only; arguments as of `vectorize`."""
    options = options or VectorizeOptions()
    check_suffix(output)
    if options.crf is not None and scene is None:
        raise ConfigError("vectorize.crf: needs the colours of a scene; pass --crf SCENE")
    if mask and scene is not None:
        raise ConfigError("--crf: refines probabilities, which a mask does not have; remove it")
    info = read_prob(prob, mask=mask)
    check_layer(output, info.grid.crs)
    check_bands(info)
    if info.classes:
        check_thresholds(options, info.thresholds)
    thresholds = options.over(info.thresholds)
    if scene is not None:
        from geoseg.prediction.crf.refinement import check_colours  # slow to load

        check_colours(prob, scene)
    plan = VectorizePlan(
        info, Path(output), thresholds, None if scene is None else str(scene),
        options.crf or CRFOptions(), options.block_px,
    )  # fmt: skip
    check_output(output, overwrite=overwrite, inputs=plan.inputs, is_file=True)
    return plan


def _write(plan: VectorizePlan, work: Work, workers: Workers, progress: Progress | None) -> None:
    prob = plan.prob
    if plan.scene is not None:
        prob = read_prob(_refine(plan, plan.scene, work, progress))
    with workers.open(
        run_trace_task, preload=LATE_MODULES, inputs=plan.list_input_files(), folder=work.folder
    ) as pool:
        write_layer(
            prob, work.result, work, plan.thresholds,
            max_memory_gb=workers.max_memory_gb, block_px=plan.block_px, pool=pool,
            progress=progress,
        )  # fmt: skip


def _check_values(prob: ProbInfo, body: float) -> None:
    """Check that bytes that predict did not write are probabilities, not percent or classes.

    Reading ends at the first value that is none of these, or that is above the threshold.

    Args:
        prob: The raster.
        body: Lowest probability of a building.

    Raises:
        SceneReadError: If no value reaches the threshold, and all are from 0 to 100.
    """
    if prob.dtype != "uint8" or prob.is_mask or THRESHOLDS_TAG in prob.tags or prob.classes:
        return
    most = 0.0
    with SceneProb(prob) as source:
        for window in source.grid.row_windows(_ROWS):
            read = source.read(window)
            most = max(most, float(read.body.max(where=read.valid, initial=0)))
            if most >= body or round(most * 255) > _PERCENT:
                return
    if most > 0:
        raise SceneReadError(f"{prob.path}: {_describe_values(round(most * 255))}")


def _describe_values(most: int) -> str:
    if most == 1:
        return "its values are 0 and 1 of 255, so it looks like a mask; vectorize it with --mask"
    if most <= _MOST_CLASSES:
        return (
            f"its values are 0 to {most} of 255, so they look like classes, not probabilities; "
            "vectorize all values but 0 with --mask"
        )
    return (
        f"its values are 0 to {most} of 255, which reach no threshold; if they are percent, "
        "convert them with gdal_translate -scale 0 100 0 255 in.tif out.tif; if they are classes, "
        "vectorize all values but 0 with --mask"
    )


def _refine(plan: VectorizePlan, scene: str, work: Work, progress: Progress | None) -> Path:
    """Refine the probabilities into the working folder, unless an earlier run has done it."""
    from geoseg.prediction.crf.refinement import refine_raster  # slow to load

    refined = work.folder / "refined.tif"
    if "refined" not in work.journal.done:
        refine_raster(plan.prob.path, scene, refined, options=plan.crf, progress=progress)
        work.journal.add("refined", True)
    return refined
