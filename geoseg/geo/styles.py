"""QGIS styles (QML) of rasters and layers, as text.

QGIS loads a style by itself from `NAME.qml` beside a raster and from the table `layer_styles` of a
GeoPackage. Colour-blind people can tell the colours apart, unless the labels of classes are colours
themselves. Rasters and fills are partly transparent, so that all can be shown over the scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from geoseg.credentials import get_logger
from geoseg.jobs.files import STYLE_MARK, is_own_style, replace_file

logger = get_logger(__name__)

# #rrggbb, or #rrggbbaa with the opacity.
Colour = str

TRANSPARENT: Colour = "#ffffff00"
BUILDING_COLOUR: Colour = "#d81b9c"

# Colours of classes that have none of their own (Paul Tol's "muted" scheme).
CLASS_COLOURS: tuple[Colour, ...] = (
    "#332288", "#ddcc77", "#117733", "#cc6677", "#88ccee", "#882255", "#44aa99", "#999933",
    "#aa4499", "#dddddd",
)  # fmt: skip

_BLUE, _YELLOW, _RED = "#1e88ff", "#ffee33", "#e04400"

# Of an evaluation: true positives, false positives, false negatives.
FOUND_COLOUR, WRONG_COLOUR, MISSED_COLOUR = _BLUE, _RED, _YELLOW


@dataclass(frozen=True)
class ConfidenceLimits:
    """Confidences that separate the colours of footprints.

    Attributes:
        sure: From here on most footprints are right.
        doubtful: Footprints below are to be reviewed.
    """

    sure: float
    doubtful: float

    def classes(self) -> tuple[tuple[float, float, str, Colour], ...]:
        """Return least and largest confidence, text in the legend and colour of each class.

        The first class that contains a confidence is its class.
        """
        return (
            (self.sure, 1.0, f"confidence from {self.sure:.2f}", _BLUE),
            (
                self.doubtful, self.sure, f"confidence {self.doubtful:.2f} to {self.sure:.2f}",
                _YELLOW,
            ),
            (0.0, self.doubtful, f"confidence below {self.doubtful:.2f}", _RED),
        )  # fmt: skip


# Of confidences that are mean probabilities, most of which are high, and of those by a rule.
LIMITS_OF_MEANS = ConfidenceLimits(0.85, 0.7)
LIMITS_OF_RULES = ConfidenceLimits(0.8, 0.5)

# Probability, colour and opacity: the lightness rises with the probability.
_RAMP: tuple[tuple[float, Colour], ...] = (
    (0.0, "#44015400"), (0.1, "#46308040"), (0.3, "#31688e80"), (0.5, "#1f9e8990"),
    (0.75, "#6dcd5980"), (1.0, "#fde72568"),
)  # fmt: skip

_MASK_OPACITY = 0.35
# Opacity inside polygons: of buildings, whose roofs are to be seen, and of classes.
_FILL_OPACITY, _CLASS_OPACITY = "18", "68"
_SHADOW = "#00000090"

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"

_RASTER = """{head}
<!-- {mark} -->
<qgis version="3.22.0" styleCategories="Symbology">
 <pipe>
  <rasterrenderer type="{kind}" band="{band}" opacity="{opacity}" alphaBand="-1"{more}>
{body}
  </rasterrenderer>
 </pipe>
 <blendMode>0</blendMode>
</qgis>
"""

_RAMP_SHADER = """   <rastershader>
    <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0"
     minimumValue="0" maximumValue="1">
{items}
     <rampLegendSettings useContinuousLegend="1" orientation="2" direction="0" prefix="" suffix=""
      minimumLabel="0 %" maximumLabel="100 %"/>
    </colorrampshader>
   </rastershader>"""

_LAYER = """{head}
<qgis version="3.22.0" styleCategories="Symbology|Fields">
 <renderer-v2 symbollevels="0" {renderer}>
{body}
 </renderer-v2>
 <aliases>
{aliases}
 </aliases>
</qgis>
"""

_SYMBOL = """   <symbol type="{kind}" name="{name}" alpha="1" clip_to_extent="1">
{layers}
   </symbol>"""

_SYMBOL_LAYER = """    <layer class="{name}" enabled="1" locked="0" pass="0">
     <Option type="Map">
{options}
     </Option>
{properties}
    </layer>"""


def mask_style(classes: Mapping[int, tuple[str, Colour]]) -> str:
    """Return the style of a class raster.

    Args:
        classes: Name and colour by pixel value; other values are transparent.
    """
    entries = "\n".join(
        f'    <paletteEntry value="{value}" label={quoteattr(name)} color="{colour[:7]}"'
        f' alpha="{_opacity(colour)}"/>'
        for value, (name, colour) in classes.items()
    )
    palette = f"   <colorPalette>\n{entries}\n   </colorPalette>"
    return _RASTER.format(
        head=_HEAD,
        mark=STYLE_MARK,
        kind="paletted",
        band=1,
        opacity=_MASK_OPACITY,
        more="",
        body=palette,
    )


def prob_style(bands: Sequence[str], background: str | None = None) -> str:
    """Return the style of a probability raster: one band as a ramp from 0 to 1.

    Args:
        bands: Names of the bands; the first one that is not the background is shown.
        background: Name of the background class, if there is one.
    """
    shown = next((number for number, name in enumerate(bands, start=1) if name != background), 1)
    items = "\n".join(
        f'     <item value="{value:g}" label="{value:.0%}" color="{colour[:7]}"'
        f' alpha="{_opacity(colour)}"/>'
        for value, colour in _RAMP
    )
    limits = ' classificationMin="0" classificationMax="1"'
    return _RASTER.format(
        head=_HEAD, mark=STYLE_MARK, kind="singlebandpseudocolor", band=shown, opacity=1,
        more=limits,
        body=_RAMP_SHADER.format(items=items),
    )  # fmt: skip


def write_raster_style(raster: Path, style: str) -> None:
    """Write the style beside a raster, as `NAME.qml`; a style of somebody else is kept."""
    path = raster.with_suffix(".qml")
    if path.exists() and not is_own_style(path):
        logger.warning("%s: is a style that geoseg did not write, and is kept", path)
        return
    with replace_file(path) as partial:
        partial.write_text(style, encoding="utf-8")


def confidence_style(aliases: Mapping[str, str], limits: ConfidenceLimits) -> str:
    """Return the style of footprints, coloured by confidence; aliases by column."""
    ranges, symbols = [], []
    for number, (low, high, label, colour) in enumerate(limits.classes()):
        bounds = f'lower="{low}" upper="{high}" symbol="{number}" label="{label}"'
        ranges.append(f'   <range {bounds} render="true"/>')
        symbols.append(_fill(number, colour))
    renderer = 'type="graduatedSymbol" attr="confidence" graduatedMethod="GraduatedColor"'
    return _layer(renderer, "ranges", ranges, symbols, aliases)


def class_style(aliases: Mapping[str, str], colours: Mapping[str, Colour]) -> str:
    """Return the style of polygons with a column `class`, in the colour of each class."""
    categories = [
        f'   <category value={quoteattr(name)} label={quoteattr(name)} symbol="{number}"'
        ' render="true" type="string"/>'
        for number, name in enumerate(colours)
    ]
    symbols = [
        _fill(number, colour, _CLASS_OPACITY) for number, colour in enumerate(colours.values())
    ]
    return _layer(
        'type="categorizedSymbol" attr="class"', "categories", categories, symbols, aliases
    )


def outline_style(aliases: Mapping[str, str], label: str, colour: Colour) -> str:
    """Return the style of polygons in one colour, with a label for the legend."""
    return _one_rule(label, _fill(0, colour), aliases)


def review_style(aliases: Mapping[str, str], limits: ConfidenceLimits) -> str:
    """Return the style of points in doubtful footprints."""
    *_, (_, _, label, colour) = limits.classes()
    marker = {
        "name": "circle", "size": "2.4", "size_unit": "MM", "color": _qgis(colour),
        "outline_color": "255,255,255,255",
    }  # fmt: skip
    symbol = _symbol(0, "marker", [("SimpleMarker", marker)])
    return _one_rule(f"to review: {label}", symbol, aliases)


def choose_class_colours(
    names: Sequence[str], colours: Sequence[Colour], background: str | None
) -> dict[str, Colour]:
    """Return the colour of each class, from a palette where they have none; no background."""
    palette = colours or [CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(names))]
    return {n: c for n, c in zip(names, palette, strict=True) if n != background}


def _one_rule(label: str, symbol: str, aliases: Mapping[str, str]) -> str:
    """Return a style with one symbol; a single symbol of QGIS has no label."""
    rule = [f'   <rule key="only" symbol="0" label={quoteattr(label)}/>']
    return _layer('type="RuleRenderer"', "rules", rule, [symbol], aliases)


def _layer(
    renderer: str,
    parts: str,
    entries: Iterable[str],
    symbols: Iterable[str],
    aliases: Mapping[str, str],
) -> str:
    key = ' key="all"' if parts == "rules" else ""
    body = [f"  <{parts}{key}>", *entries, f"  </{parts}>", "  <symbols>", *symbols, "  </symbols>"]
    named = [
        f'  <alias field={quoteattr(column)} index="{index}" name={quoteattr(alias)}/>'
        for index, (column, alias) in enumerate(aliases.items())
    ]
    return _LAYER.format(
        head=_HEAD, renderer=renderer, body="\n".join(body), aliases="\n".join(named)
    )


def _fill(number: int, colour: Colour, opacity: str = _FILL_OPACITY) -> str:
    """Return a symbol of polygons, whose outline can be seen on roofs of any colour."""
    line = {"line_width_unit": "MM", "line_style": "solid", "joinstyle": "miter"}
    dark = {"line_color": _qgis(_SHADOW), "line_width": "1", **line}
    bright = {"line_color": _qgis(colour), "line_width": "0.5", **line}
    inside = {"color": _qgis(colour[:7] + opacity), "style": "solid", "outline_style": "no"}
    return _symbol(
        number, "fill", [("SimpleFill", inside), ("SimpleLine", dark), ("SimpleLine", bright)]
    )


def _symbol(number: int, kind: str, layers: Iterable[tuple[str, Mapping[str, str]]]) -> str:
    return _SYMBOL.format(
        kind=kind, name=number, layers="\n".join(_symbol_layer(*layer) for layer in layers)
    )


def _symbol_layer(name: str, values: Mapping[str, str]) -> str:
    options = [
        f'      <Option name="{key}" type="QString" value="{value}"/>'
        for key, value in values.items()
    ]
    properties = [f'     <prop k="{key}" v="{value}"/>' for key, value in values.items()]
    return _SYMBOL_LAYER.format(
        name=name, options="\n".join(options),
        properties="\n".join(properties),  # for QGIS before 3.26
    )  # fmt: skip


def _opacity(colour: Colour) -> int:
    return int(colour[7:] or "ff", 16)


def _qgis(colour: Colour) -> str:
    """Return a colour as QGIS writes it in symbols: red,green,blue,opacity."""
    return ",".join(map(str, bytes.fromhex(colour[1:7]))) + f",{_opacity(colour)}"
