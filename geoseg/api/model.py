"""A model in memory: arrays in, probabilities and footprints out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from geoseg.errors import ConfigError, GridMismatchError, InputShapeError, counted
from geoseg.geo.grid import Grid
from geoseg.geo.raster.block_cache import limited_block_cache
from geoseg.jobs.output import check_output
from geoseg.networks.model_file import ModelSpec, find_model, load_spec
from geoseg.options import PredictOptions, Thresholds, VectorizeOptions

if TYPE_CHECKING:
    import geopandas as gpd


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of an area.

    Attributes:
        data: Float (C, H, W) in 0..1, or uint8 where 255 stands for 1.
        grid: CRS, transform and shape of the pixels.
        bands: Name of each channel: `building`, and perhaps `border` and `contact`; or the classes.
        valid: Boolean (H, W), False on nodata; all valid when None.
        thresholds: Thresholds of the footprints; the defaults when None.
        exclusive: Whether each pixel belongs to exactly one of the classes.
        background: Class of the area between the others, of which no polygons are made.
        colours: Colour (#rrggbb) of each exclusive class; from a palette when empty.
    """

    data: np.ndarray
    grid: Grid
    bands: tuple[str, ...] = ("building",)
    valid: np.ndarray | None = None
    thresholds: Thresholds | None = None
    exclusive: bool = False
    background: str | None = None
    colours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = (len(self.bands), self.grid.height, self.grid.width)
        if self.data.shape != shape:
            raise InputShapeError(
                f"probabilities have shape {self.data.shape}, but {len(self.bands)} bands on this "
                f"grid need {shape}"
            )
        if self.valid is not None and self.valid.shape != shape[1:]:
            raise InputShapeError(f"valid has shape {self.valid.shape}, but must be {shape[1:]}")

    def band(self, name: str) -> np.ndarray:
        """Return one channel (H, W) by its name.

        Raises:
            KeyError: If there is no such channel.
        """
        if name not in self.bands:
            raise KeyError(f"no band {name!r}; the bands are {', '.join(self.bands)}")
        channel: np.ndarray = self.data[self.bands.index(name)]
        return channel

    def footprints(self, options: VectorizeOptions | None = None) -> gpd.GeoDataFrame:
        """Return footprints, or the polygons of each class, as `geoseg.vectorize` finds them.

        Args:
            options: Settings that replace `thresholds`.
        """
        from geoseg.api.results import read_layer
        from geoseg.api.vectorize import vectorize
        from geoseg.vectorization.layer import vectorize_arrays

        options = options or VectorizeOptions()
        if options.crf is not None:
            raise ConfigError(
                "vectorize.crf: needs the colours of a scene; use geoseg.vectorize with scene="
            )
        thresholds = options.over(self.thresholds or Thresholds())
        if not self.exclusive:
            valid = np.ones(self.grid.shape, bool) if self.valid is None else self.valid
            separators = {
                name: self.band(name) if name in self.bands else None
                for name in ("border", "contact")
            }
            return vectorize_arrays(
                self.band("building"), separators["border"], valid, self.grid, thresholds,
                contact=separators["contact"],
            )  # fmt: skip
        with TemporaryDirectory() as folder:
            prob, layer = Path(folder) / "prob.tif", Path(folder) / "layer.parquet"
            self.save(prob)
            return read_layer(vectorize(prob, layer, options=options).path)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the probabilities as a GeoTIFF that `geoseg.vectorize` reads, with a QGIS style.

        Args:
            path: The file.
            overwrite: Replace an existing file.

        Raises:
            OutputExistsError: If it exists and may not be replaced.
        """
        from geoseg.geo.raster import ExclusiveClasses, write_array
        from geoseg.geo.raster.prob import make_prob_tags
        from geoseg.geo.styles import prob_style, write_raster_style

        classes = None
        if self.exclusive:
            classes = ExclusiveClasses(self.bands, self.background, self.colours)
        tags = make_prob_tags(self.thresholds or Thresholds(), classes)
        data = self.data
        if data.dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
            data = data.astype(np.float32)
        check_output(path, overwrite=overwrite, is_file=True)
        scale = 1 / 255 if data.dtype == np.uint8 else 1.0
        write_array(
            path, self.grid, data, valid=self.valid, descriptions=self.bands, tags=tags,
            scales=(scale,) * len(data),
        )  # fmt: skip
        write_raster_style(Path(path), prob_style(self.bands, self.background))


class Model:
    """A loaded model, applied to arrays in memory.

    Args:
        path: A model file, or the name of a shipped model; None for the default model.
        device: `auto`, `cpu` or `gpu`.

    Attributes:
        path: The model file.
        spec: Its header: bands, pixel size, classes, thresholds, provenance.

    Raises:
        ModelFileError: If the file cannot be read or does not contain a model of pixels.
    """

    def __init__(self, path: str | Path | None = None, *, device: str = "auto") -> None:
        from geoseg.errors import ModelFileError
        from geoseg.networks.architectures import task_of

        self.path = find_model(path).absolute()
        self.spec: ModelSpec = load_spec(self.path)
        if task_of(self.spec.arch) == "boxes":
            raise ModelFileError(
                f"{self.path}: finds boxes, not probabilities; use geoseg.predict with a file"
            )
        self._device = device
        self._predictor: Any = None

    def __repr__(self) -> str:
        bands = ", ".join(self.spec.bands)
        return f"Model({str(self.path)!r}: {self.spec.arch}, {self.spec.gsd_m:g} m, bands {bands})"

    def predict(
        self,
        image: np.ndarray,
        grid: Grid,
        *,
        valid: np.ndarray | None = None,
        options: PredictOptions | None = None,
    ) -> Probabilities:
        """Predict an image that is in memory, with overlapping tiles as `geoseg.predict` does.

        An image whose pixels are more than 5 % larger or smaller than the model's is resampled;
        the probabilities are then on the resampled grid.

        Args:
            image: (C, H, W), the bands in the order of the model, in the units of its scenes.
            grid: CRS, transform and shape of the image.
            valid: Boolean (H, W), False on nodata; all valid when None.
            options: `overlap`, `blend`, `batch_size` and `tta` are used.

        Returns:
            Float32 probabilities, 0 where not valid.

        Raises:
            InputShapeError: If the image does not have the shape of the grid or the bands of the
                model.
            GridMismatchError: If data type or pixel size do not suit the model.
        """
        from geoseg.prediction.arrays import predict_array

        if image.ndim != 3 or image.shape[1:] != grid.shape:
            raise InputShapeError(
                f"the image has shape {image.shape}, but must be (bands, {grid.height}, "
                f"{grid.width}) on this grid"
            )
        if len(image) != len(self.spec.bands):
            raise InputShapeError(
                f"the image has {counted(len(image), 'band')}, but the model needs "
                f"{len(self.spec.bands)} ({', '.join(self.spec.bands)})"
            )
        dtypes = self.spec.scene_dtypes or (self.spec.dtype,)
        if image.dtype.name not in dtypes:
            raise GridMismatchError(
                f"the image is {image.dtype.name}, but the model was trained on "
                f"{' and '.join(dtypes)}; convert it as the training scenes were"
            )
        with limited_block_cache():
            data, seen, on_grid = predict_array(
                self._load(options), image, grid, valid, options or PredictOptions()
            )
        return Probabilities(
            data, on_grid, self.spec.outputs, seen, self.spec.thresholds,
            self.spec.exclusive, self.spec.background, self.spec.colours,
        )  # fmt: skip

    def _load(self, options: PredictOptions | None) -> Any:
        """Return a predictor with the weights, which are loaded once."""
        from geoseg.networks.model_file import load_model as read
        from geoseg.prediction.predictor import Predictor

        tta = options.tta if options else "none"
        if self._predictor is None or self._predictor.tta != tta:
            self._predictor = Predictor(*read(self.path), self._device, tta)
        return self._predictor


def load_model(path: str | Path | None = None, *, device: str = "auto") -> Model:
    """Load a model to apply it to arrays; see `Model`."""
    return Model(path, device=device)
