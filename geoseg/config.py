"""Configuration: a YAML file with one section per step."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError

from geoseg.credentials import get_logger
from geoseg.errors import ConfigError
from geoseg.options import (
    AlignOptions,
    ModelOptions,
    Options,
    PredictOptions,
    TileOptions,
    TrainOptions,
    VectorizeOptions,
)
from geoseg.options.architecture_options import FIXED_ENCODERS, are_same, known_options

logger = get_logger(__name__)

# Where label values are found in a configuration.
_LABEL_VALUES = ("tile", "classes", "values")

# Settings by the names of their options, where these are not similar.
_OTHER_NAMES: dict[tuple[int | str, ...], str] = {("vectorize", "threshold"): "vectorize.body"}

# Limits of a configuration: a short file of nested aliases could expand to gigabytes.
_MAX_DEPTH, _MAX_NODES = 30, 100_000

_YAML_TEXT, _YAML_NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


class Config(Options):
    """All settings of an experiment."""

    tile: TileOptions = Field(default_factory=TileOptions)
    model: ModelOptions = Field(default_factory=ModelOptions)
    train: TrainOptions = Field(default_factory=TrainOptions)
    predict: PredictOptions = Field(default_factory=PredictOptions)
    vectorize: VectorizeOptions = Field(default_factory=VectorizeOptions)
    align: AlignOptions = Field(default_factory=AlignOptions)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Load and check a configuration.

    If `model.arch` is overridden, options in the file that only its own architecture has are
    dropped with a warning.

    Args:
        path: A YAML file, or the name of one that geoseg ships (`configs/small.yaml` or
            `small`); all defaults when None.
        overrides: `section.key=value`, the value by YAML's rules.

    Raises:
        ConfigError: With file and dotted key.
    """
    tree = _read(find_config(path)) if path is not None else {}
    own = _architecture(tree)
    names = {key: str(path) for key in _leaves(tree)}
    for override in overrides:
        key, value = _parse_override(override)
        _assign(tree, key, value)
        names = {place: name for place, name in names.items() if not place.startswith(f"{key}.")}
        names[key] = "--set"
    if path is not None and own is not None:
        _drop_options_of_other_architecture(tree, names, path, own)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, names, path)) from error
    _check_architecture_options(config.model, names)
    return _anchored(config, path)


def find_config(path: str | Path) -> Path:
    """Return the file of a configuration: a path, or the name of a shipped one.

    Raises:
        ConfigError: If there is neither; lists what geoseg ships.
    """
    path = Path(path)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if path.stem in shipped and path.parent.name in ("", "configs"):
        return shipped[path.stem]
    raise ConfigError(
        f"{path}: no such configuration file; geoseg ships {', '.join(sorted(shipped))}"
    )


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configurations by name."""
    package = Path(__file__).parent
    folder = package / "configs"  # in an installed wheel
    if not folder.is_dir():
        folder = package.parent / "configs"  # in a checkout
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = _load_yaml(path.read_text(encoding="utf-8"), _LABEL_VALUES)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not a text file"
        raise ConfigError(f"{path}:{line} is not valid YAML: {problem}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must contain sections such as train:, got {tree!r:.60}")
    # A section with all lines commented out is null in YAML, and keeps its defaults.
    return {key: {} if section is None else section for key, section in tree.items()}


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: must read section.key=value, e.g. train.lr=1e-4")
    key = key.strip()
    names = tuple(key.split("."))
    depth = len(names)
    is_value = depth == len(_LABEL_VALUES) + 1 and names[:-1] == _LABEL_VALUES
    if is_value:  # the label values of one class
        text = f"{{class: {text}}}"
    rest = () if is_value else _LABEL_VALUES[depth:] if names == _LABEL_VALUES[:depth] else None
    try:
        value = _load_yaml(text, rest)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from error
    return key, value["class"] if is_value else value


def _load_yaml(text: str, label_values: tuple[str, ...] | None) -> Any:
    """Load YAML of limited depth and size.

    Label values are text, as they are written: YAML would read `yes` as a boolean and `01` as 1,
    which no attribute has.

    Args:
        text: The document.
        label_values: Keys that lead to the mapping from classes to label values; None if the
            document does not contain it.

    Raises:
        yaml.YAMLError: If it is not valid, or too deep or large.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {})
        if label_values is not None:
            _keep_text(node, label_values)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the nodes of a document with its aliases expanded; refuse too many."""
    if id(node) in counts:
        return counts[id(node)]
    counts[id(node)] = _MAX_NODES + 1  # of a node that contains itself
    count = 1
    for child in _list_children(node):
        count += _count_nodes(child, counts)
        if count > _MAX_NODES:
            raise yaml.MarkedYAMLError(problem="it is too large with its aliases expanded")
    counts[id(node)] = count
    return count


def _list_children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _keep_text(node: yaml.Node, keys: tuple[str, ...]) -> None:
    """Make text of the scalars that are label values; a class whose value is null stays null."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if keys:
            if key.value == keys[0]:
                _keep_text(value, keys[1:])
            continue
        for scalar in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            is_null = scalar is value and scalar.tag == _YAML_NULL
            if isinstance(scalar, yaml.ScalarNode) and not is_null:
                scalar.tag = _YAML_TEXT


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for depth, section in enumerate(sections, start=1):
        nested = tree.setdefault(section, {})
        if nested is None:
            nested = tree[section] = {}
        if not isinstance(nested, dict):
            raise ConfigError(
                f"--set {key}: {'.'.join(sections[:depth])} is set to {nested!r:.40}, which has no "
                f"{last}; set it as a whole"
            )
        tree = nested
    tree[last] = value


def _drop_options_of_other_architecture(
    tree: dict[str, Any], names: Mapping[str, str], path: str | Path, own: str
) -> None:
    """Drop options that the file sets for its own architecture, if another one was chosen.

    Args:
        tree: The settings, overrides included; changed in place.
        names: Where each setting was given: the file or `--set`.
        path: The file.
        own: Architecture of the file, before it was overridden.
    """
    arch, model = _architecture(tree), tree.get("model")
    if arch is None or not isinstance(model, dict) or are_same(own, arch):
        return
    options = model.get("options")
    options = options if isinstance(options, dict) else {}
    from_file = {key for key, source in names.items() if source != "--set"}
    dropped = []
    for key in list(options):
        leaves = _leaves({"model": {"options": {key: options[key]}}})
        if from_file.issuperset(leaves) and key not in (known_options(arch) or ()):
            del options[key]
            dropped.append(f"model.options.{key}")
    if arch.lower() in FIXED_ENCODERS and "model.encoder" in from_file:
        model.pop("encoder", None)
        dropped.append("model.encoder")
    if dropped:
        logger.warning(
            "%s: set for %s and not used, since model.arch is %s: %s%s",
            path,
            own,
            arch,
            ", ".join(dropped),
            _list_options(arch),
        )


def _architecture(tree: Mapping[str, Any]) -> str | None:
    """Return the architecture that settings choose; None if their section is no mapping."""
    model = tree.get("model") or {}
    return str(model.get("arch", ModelOptions().arch)) if isinstance(model, dict) else None


def _check_architecture_options(model: ModelOptions, names: Mapping[str, str]) -> None:
    """Check that the architecture has the options that are set, where they are known."""
    known = known_options(model.arch)
    for option in model.options:
        if known is not None and option not in known:
            key = f"model.options.{option}"
            source = next((name for place, name in names.items() if _related(place, key)), "--set")
            raise ConfigError(f"{source}: {key}: no such option{_list_options(model.arch)}")


def _list_options(arch: str) -> str:
    """Return the options of an architecture as the last part of a message."""
    known = known_options(arch)
    if known is None:
        return ""
    listed = f"the options of {arch} are {', '.join(known)}" if known else f"{arch} has no options"
    return f"; {listed}"


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        keys += _leaves(value, f"{name}.") if isinstance(value, dict) else [name]
    return keys


def _explain(error: ValidationError, names: Mapping[str, str], path: str | Path | None) -> str:
    first = error.errors()[0]
    # For unions, pydantic appends the type that it tried to the location.
    location = [str(part) for part in first["loc"] if not _is_type(str(part))]
    key = ".".join(location)
    known = {name for place, name in names.items() if _related(place, key)}
    source = " with ".join(sorted(known, reverse=True)) or str(path or "--set")
    if first["type"] == "extra_forbidden":
        return f"{source}: {key}: no such key{_did_you_mean(first['loc'])}"
    if first["type"] == "missing" and isinstance(first["input"], dict):
        return (
            f"{source}: {key}: is missing; the keys given are {', '.join(first['input']) or 'none'}"
        )
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{source}: {key}: {message} (got {first['input']!r:.80})"


def _is_type(part: str) -> bool:
    return part in ("int", "str", "float", "bool") or "-" in part or "[" in part


def _related(place: str, key: str) -> bool:
    return f"{place}.".startswith(f"{key}.") or f"{key}.".startswith(f"{place}.")


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    model: Any = Config
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        kinds = get_args(field.annotation) or (field.annotation,) if field else ()
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        if model is None:
            return ""
    choices = list(model.model_fields)
    key = str(location[-1])
    near = difflib.get_close_matches(key, choices, n=1)
    if location in _OTHER_NAMES:
        near = [_OTHER_NAMES[location]]
    if len(location) == 1:  # a setting without its section, perhaps
        sections = ((name, field.annotation) for name, field in Config.model_fields.items())
        owners = [name for name, kind in sections if key in getattr(kind, "model_fields", ())]
        near = [f"{owners[0]}.{key}"] if owners else near
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"{meant or ';'} the keys are {', '.join(choices)}"


def _anchored(config: Config, path: str | Path | None) -> Config:
    """Resolve the path of a weights file relative to the configuration that names it."""
    weights = config.model.encoder_weights
    if path is None or weights in (None, "imagenet") or Path(str(weights)).is_file():
        return config
    beside = find_config(path).parent / str(weights)
    if not beside.is_file():
        return config
    model = config.model.model_copy(update={"encoder_weights": str(beside)})
    return config.model_copy(update={"model": model})
