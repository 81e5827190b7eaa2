"""Training that continues from a trained model."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
import torch
from click.testing import CliRunner
from small_models import DEEPGLOBE, make_model
from test_zoo import SMALL

from geoseg.api.tile import plan_tile, tile
from geoseg.api.train import plan_train
from geoseg.cli import cli
from geoseg.data.tiles import describe_training_area, load_tiles_info
from geoseg.errors import ConfigError, ModelFileError, OutputExistsError
from geoseg.evaluation.place_scores import mean_building_f1
from geoseg.geo.training_area import format_area, join_areas
from geoseg.networks.architectures import ARCHITECTURES, list_architectures
from geoseg.networks.model_file import ModelSpec, find_model, load_model, load_spec, save_model
from geoseg.networks.models import build_model, load_network
from geoseg.networks.models.transfer import transfer_weights
from geoseg.networks.starting_model import find_start, use_network
from geoseg.options import ModelOptions, TileOptions, TrainOptions
from geoseg.prediction.predictor import Predictor
from geoseg.town import build_town, write_town
from geoseg.training.checkpoints import best_weights
from geoseg.training.dataset import TileDataset
from geoseg.training.fine_tuning import DEFAULTS, describe_start, use_defaults
from geoseg.training.run import train
from geoseg.training.validation.areas import ValidationAreas
from geoseg.training.validation.gain import describe_gain

# A constant rate, so that a run of one epoch that is resumed is as one of two epochs.
OPTIONS = TrainOptions(
    epochs=2, batch_size=2, precision="32-true", device="cpu", schedule="constant", warmup=0
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model of border, building and height, and tiles of a town cut for it."""
    folder = tmp_path_factory.mktemp("fine_tuning")
    scene, footprints = write_town(build_town(128, 320, seed=4, nodata_corner=False), folder)
    spec = DEEPGLOBE.model_copy(
        update={
            "outputs": ("building", "border", "contact"),
            "provenance": {
                "scenes": ["first.tif"],
                "training_area": "POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0))",
                "licence": "CC BY 4.0",
            },
        }
    )
    model = make_model(folder / "first.safetensors", spec)
    options = TileOptions(overlap=0, gap=0)
    tile(scene, footprints, folder / "tiles", options=options, for_model=model)
    return SimpleNamespace(
        folder=folder,
        scene=scene,
        footprints=footprints,
        tiles=folder / "tiles",
        model=model,
        spec=spec,
    )


def start_of(model, **options):
    return ModelOptions(start_from=model and str(model), **options)


# Tiles for a model


def test_tiles_are_cut_as_the_model_needs_them(work):
    info = load_tiles_info(work.tiles)
    assert (info.gsd_m, info.size, info.targets) == (
        work.spec.gsd_m,
        work.spec.size,
        work.spec.outputs,
    )
    assert info.bands == work.spec.bands


def test_options_come_before_what_the_model_needs(work, tmp_path):
    options = TileOptions(size=32, targets=("building",), gsd_m=0.4, overlap=0, gap=0)
    tile(work.scene, work.footprints, tmp_path / "t",
         options=options, for_model=work.model)  # fmt: skip
    info = load_tiles_info(tmp_path / "t")
    assert (info.gsd_m, info.size, info.targets) == (0.4, 32, ("building",))


def test_outputs_of_other_programs_are_no_targets(work, tmp_path):
    def cut(*outputs):
        spec = work.spec.model_copy(update={"outputs": outputs})
        model = make_model(tmp_path / "other.safetensors", spec)
        return plan_tile(work.scene, work.footprints, tmp_path / "t", for_model=model).options

    assert cut("border", "height", "building").targets == ("building", "border")
    assert cut("roof", "border").targets == TileOptions().targets


def test_an_option_that_does_not_suit_the_tile_side_of_the_model_is_refused(work, tmp_path):
    options = TileOptions(overlap=100)  # of 64 pixels
    with pytest.raises(
        ConfigError, match=r"^tile: overlap must be at most half the size \(32\).*--for"
    ):
        plan_tile(
            work.scene, work.footprints, tmp_path / "t", options=options, for_model=work.model
        )


# Weights


def small_spec(arch, outputs):
    encoder, options = SMALL.get(arch, ("resnet18", {}))
    if ARCHITECTURES[arch].encoder is None:
        encoder = None
    return DEEPGLOBE.model_copy(
        update={"arch": arch, "encoder": encoder, "options": options, "outputs": outputs}
    )


def build(spec):
    network = build_model(
        spec.arch,
        spec.encoder,
        bands=spec.bands,
        outputs=len(spec.outputs),
        options=spec.options,
    )
    return network.eval()


@pytest.mark.parametrize("arch", list_architectures("pixels"))
def test_outputs_are_kept_by_name(arch):
    torch.manual_seed(0)
    old = small_spec(arch, ("building", "border", "contact"))
    new = old.model_copy(update={"outputs": ("building", "contact", "distance", "border")})
    trained = build(old)
    network = build(new)
    transfer_weights(network, new.outputs, old, trained.state_dict())
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        before, after = trained(image), network(image)
    assert torch.allclose(after[:, [0, 1, 3]], before[:, [0, 2, 1]], atol=1e-5)
    assert (after[:, 2] - before[:, 1]).abs().max() > 1e-4  # drawn anew


def test_the_same_outputs_give_the_same_network():
    spec = small_spec("retinanet", ("building",))
    torch.manual_seed(0)
    trained, network = build(spec), build(spec)
    transfer_weights(network, spec.outputs, spec, trained.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name])


def test_damaged_weights_are_refused(work, tmp_path):
    weights = load_model(work.model)[1]
    name = next(iter(weights))
    nan = weights | {name: weights[name] * np.nan}
    save_model(tmp_path / "nan.safetensors", nan, work.spec)
    with pytest.raises(ModelFileError, match="not all finite"):
        plan_train(work.tiles, tmp_path / "run", start_from=tmp_path / "nan.safetensors")


# Options


def test_the_network_is_that_of_the_model(work):
    chosen = use_network(start_of(work.model), find_start(start_of(work.model)))
    assert (chosen.arch, chosen.encoder, chosen.options) == (
        work.spec.arch,
        work.spec.encoder,
        work.spec.options,
    )
    assert chosen.encoder_weights is None
    same = start_of(
        work.model, arch="DeepGlobe", encoder=work.spec.encoder, options=work.spec.options
    )
    assert use_network(same, find_start(same)) == chosen.model_copy(
        update={"start_from": str(work.model)}
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"arch": "unet"}, "model.arch: is unet, but .* has deepglobe"),
        ({"encoder": "resnet18"}, "model.encoder: is resnet18, but .* has tu-tf_efficientnet"),
        ({"options": {"kernel": 3}}, 'model.options: is {"kernel": 3}, but .* has {"aspp'),
    ],
)
def test_another_network_is_refused(work, given, problem):
    options = start_of(work.model, **given)
    with pytest.raises(ConfigError, match=problem):
        use_network(options, find_start(options))


def test_defaults_of_fine_tuning_give_way_to_what_is_given():
    assert use_defaults(TrainOptions()).model_dump(include=set(DEFAULTS)) == DEFAULTS
    given = use_defaults(TrainOptions(lr=1e-3, max_minutes=3))
    assert (given.lr, given.epochs, given.ema) == (1e-3, TrainOptions().epochs, DEFAULTS["ema"])
    assert use_defaults(TrainOptions(swa=0.2)).ema == 0


def test_a_rate_on_the_command_line_is_used(work, tmp_path):
    words = ["train", str(work.tiles), "-o", str(tmp_path / "run"), "--from", str(work.model)]
    default = CliRunner().invoke(cli, [*words, "--dry-run"], catch_exceptions=False)
    assert f"  lr: {DEFAULTS['lr']}" in default.output
    given = CliRunner().invoke(
        cli, [*words, "--dry-run", "--set", "train.lr=0.001"], catch_exceptions=False
    )
    assert "  lr: 0.001" in given.output
    assert f"  epochs: {DEFAULTS['epochs']}" in given.output


# Tiles that do not suit the model


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bands": ("red", "green")}, r"have 2 bands \(red, green\), but .* needs 3"),
        ({"bands": ("blue", "green", "red")}, "tile the scenes again with --bands"),
        ({"gsd_m": 3.0}, "differ by more than a factor of 4; tile the scenes again with --gsd 0.5"),
    ],
)
def test_tiles_that_do_not_suit_the_model_are_refused(work, tmp_path, change, problem):
    tiles = copy_tiles(work.tiles, tmp_path / "tiles", change)
    with pytest.raises(ConfigError, match=problem):
        plan_train(tiles, tmp_path / "run", start_from=work.model)


def copy_tiles(folder, copy, change):
    shutil.copytree(folder, copy)
    document = json.loads((copy / "tiles.json").read_text())
    if "bands" in change:
        few = len(change["bands"])
        document["mean"], document["std"] = document["mean"][:few], document["std"][:few]
    (copy / "tiles.json").write_text(json.dumps(document | change))
    return copy


def test_bands_without_names_count_in_their_order(work, tmp_path):
    tiles = copy_tiles(work.tiles, tmp_path / "t", {"bands": ("band1", "band2", "band3")})
    assert plan_train(tiles, tmp_path / "run", start_from=work.model).start is not None


def test_images_are_normalized_as_the_model_knows_them(work, tmp_path):
    setup = plan_train(work.tiles, tmp_path / "run", start_from=work.model)
    assert (setup.spec.mean, setup.spec.std) == (work.spec.mean, work.spec.std)
    assert setup.module.mean.tolist() == pytest.approx(work.spec.mean)
    sixteen = tmp_path / "sixteen.safetensors"
    save_model(sixteen, load_model(work.model)[1], work.spec.model_copy(update={"dtype": "uint16"}))
    setup = plan_train(work.tiles, tmp_path / "run", start_from=sixteen)
    own = load_tiles_info(work.tiles)
    assert (setup.spec.mean, setup.spec.std) == (own.mean, own.std)
    lines = list(describe_start(setup.start, setup.val_set, setup.spec.outputs))
    assert "statistics of the tiles" in lines[-1]


def test_the_places_of_the_model_are_kept(work, tmp_path):
    setup = plan_train(work.tiles, tmp_path / "run", start_from=work.model)
    info = load_tiles_info(work.tiles)
    own, before = setup.spec.places
    assert (own.mean, own.std) == (info.mean, info.std)
    assert (before.mean, before.std) == (work.spec.mean, work.spec.std)
    several = tmp_path / "several.safetensors"
    places = {"places": (own, before)}
    save_model(several, load_model(work.model)[1], work.spec.model_copy(update=places))
    setup = plan_train(work.tiles, tmp_path / "run", start_from=several)
    assert setup.spec.places == (own, own, before)


def test_what_is_new_is_listed(work, tmp_path):
    other = work.spec.model_copy(update={"outputs": ("building", "distance"), "gsd_m": 1.0})
    make_model(tmp_path / "other.safetensors", other)
    setup = plan_train(work.tiles, tmp_path / "r", start_from=tmp_path / "other.safetensors")
    lines = list(describe_start(setup.start, setup.val_set, setup.spec.outputs))
    assert lines[0].endswith("other.safetensors, outputs building")
    assert lines[1:3] == [
        "new, and trained from random weights: border, contact",
        "not in the tiles, and left out: distance",
    ]
    assert "--gsd 1" in lines[3]


# Runs


def test_training_begins_with_the_weights_of_the_model(work, tmp_path):
    setup = plan_train(work.tiles, tmp_path / "run", start_from=work.model)
    wanted = load_network(work.spec, load_model(work.model)[1]).state_dict()
    found = setup.module.network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert setup.module.encoder_share == setup.options.encoder_lr


@pytest.fixture(scope="module")
def run(work):
    lines = []
    train(work.tiles, work.folder / "run", model=start_of(work.model), options=OPTIONS,
          report=lines.append)  # fmt: skip
    return work.folder / "run", lines


def statistics_of(path):
    weights = load_model(path)[1]
    return {n: t for n, t in weights.items() if n.endswith(("running_mean", "running_var"))}


def test_statistics_of_batch_normalization_stay_those_of_the_model(work, run):
    before, after = statistics_of(work.model), statistics_of(find_model(run[0]))
    assert before
    assert all(torch.equal(after[name], before[name]) for name in before)
    weights, trained = load_model(work.model)[1], load_model(find_model(run[0]))[1]
    assert any(not torch.equal(weights[name], trained[name]) for name in weights)


def test_statistics_stay_with_an_average_over_the_end_of_the_run(work, tmp_path):
    options = OPTIONS.model_copy(update={"swa": 0.5})
    train(work.tiles, tmp_path / "r", model=start_of(work.model), options=options)
    before, after = statistics_of(work.model), statistics_of(find_model(tmp_path / "r"))
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_statistics_are_learned_where_images_are_normalized_anew(work, tmp_path):
    spec = work.spec.model_copy(update={"dtype": "uint16", "scene_dtypes": ("uint16",)})
    save_model(tmp_path / "other.safetensors", load_model(work.model)[1], spec)
    train(work.tiles, tmp_path / "r", model=start_of(tmp_path / "other.safetensors"),
          options=OPTIONS)  # fmt: skip
    before, after = statistics_of(work.model), statistics_of(find_model(tmp_path / "r"))
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_thresholds_stay_with_few_validation_buildings(work, run, tmp_path):
    own = load_spec(run[0] / "model.safetensors")
    assert own.thresholds == work.spec.thresholds
    (line,) = [line for line in run[1] if "too few to tune thresholds" in line]
    count = int(line.split()[0])
    assert 0 < count < 40
    assert line.endswith(f"keeping those of {work.model}")


def test_the_gain_over_the_model_is_reported(work, run):
    (line,) = [line for line in run[1] if re.match(r"building F1 on \d+ val", line)]
    before, after = (float(word) for word in re.findall(r"\d\.\d{3}", line))
    tiles = TileDataset(work.tiles, "val")
    for path, f1 in ((work.model, before), (find_model(run[0]), after)):
        spec, weights = load_model(path)
        areas = ValidationAreas(tiles)
        areas.predict(Predictor(spec, weights, "cpu"))
        scores = [one for one, _ in areas.score_places(spec.thresholds)]
        assert mean_building_f1(scores) == pytest.approx(f1, abs=6e-4)
    assert line.endswith("; with so few buildings this is uncertain")


@pytest.mark.parametrize(
    ("after", "buildings", "advice"),
    [
        (0.601, 40, ["with the new one"]),
        (0.59, 99, ["; so small a difference can be chance"]),
        (0.59, 100, ["with the new one"]),
        (0.5004, 40, ["; that is no gain, so keep m, or label more buildings and train again"]),
        (0.4, 90, ["; that is no gain, so keep m, or label more buildings and train again"]),
        (0.4, 39, ["keeping those of m", "; with so few buildings this is uncertain"]),
        (0.0, 0, ["keeping those of m"]),
    ],
)
def test_a_gain_is_judged_by_enough_buildings(after, buildings, advice):
    lines = describe_gain("m", 0.5, after, buildings)
    assert len(lines) == len(advice)
    assert lines[-1].endswith(advice[-1])
    assert f"{buildings} validation buildings" in lines[-1]
    assert ("keeping those of m" in lines[0]) == (buildings < 40)


def test_a_run_does_not_replace_the_model_that_it_continues_from(work, run, tmp_path):
    shutil.copytree(run[0], tmp_path / "own")
    with pytest.raises(OutputExistsError, match="contains the input"):
        train(work.tiles, tmp_path / "own", model=start_of(tmp_path / "own"), options=OPTIONS,
              overwrite=True)  # fmt: skip
    assert find_model(tmp_path / "own").is_file()


def test_a_model_that_is_gone_at_the_end_costs_no_run(work, tmp_path, monkeypatch):
    model = tmp_path / "moved.safetensors"
    shutil.copy(work.model, model)
    lines = []
    monkeypatch.setattr(
        "geoseg.training.run.best_weights",
        lambda folder: model.unlink(missing_ok=True) or best_weights(folder),
    )
    train(work.tiles, tmp_path / "r", model=start_of(model), options=OPTIONS, report=lines.append)
    assert load_spec(tmp_path / "r" / "model.safetensors").thresholds == work.spec.thresholds
    assert not any("building F1 on the validation tiles" in line for line in lines)


def test_the_model_records_where_it_comes_from(work, run):
    trained = load_spec(run[0] / "model.safetensors")
    start = trained.provenance["start"]
    assert start["model"] == "first.safetensors"
    assert start["outputs"] == list(work.spec.outputs)
    assert start["provenance"] == {"scenes": ["first.tif"], "licence": "CC BY 4.0"}
    area = shapely.from_wkt(trained.provenance["training_area"])
    own = shapely.from_wkt(describe_training_area(work.tiles))
    assert area.area == pytest.approx(1 + own.area, rel=1e-6)
    assert any(line.startswith("continuing from ") for line in run[1])


def test_a_chain_of_models_is_recorded_and_shown(work, run, tmp_path):
    train(work.tiles, tmp_path / "b", model=start_of(run[0]), options=OPTIONS)
    origin = load_spec(tmp_path / "b" / "model.safetensors").provenance
    assert origin["start"]["provenance"]["start"]["model"] == "first.safetensors"
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "b")], catch_exceptions=False).output
    names = [line.split()[-1] for line in shown.splitlines() if line.startswith("continued from")]
    assert names == ["model.safetensors", "first.safetensors"]


def test_a_run_is_resumed_to_the_same_weights(work, run, tmp_path):
    def resume(epochs, start=work.model, *, resume=True):
        options = OPTIONS.model_copy(update={"epochs": epochs})
        train(work.tiles, tmp_path / "r", model=start_of(start), options=options, resume=resume)

    resume(1, resume=False)
    resume(2)
    whole, resumed = (load_model(find_model(path))[1] for path in (run[0], tmp_path / "r"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    other = tmp_path / "other.safetensors"
    spec = work.spec.model_copy(update={"provenance": {"scenes": ["other.tif"]}})
    save_model(other, load_model(work.model)[1], spec)
    with pytest.raises(ConfigError, match="from another model than the one that --from names"):
        resume(3, other)
    with pytest.raises(ConfigError, match=r"was started with --from MODEL; resume with the --from"):
        resume(3, None)
    renamed = tmp_path / "renamed.safetensors"
    shutil.copy(work.model, renamed)
    resume(3, renamed)  # the same model by another name


def test_a_run_is_not_resumed_after_its_model_has_changed(work, tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(work.model, model)
    once = OPTIONS.model_copy(update={"epochs": 1})
    train(work.tiles, tmp_path / "r", model=start_of(model), options=once)
    changed = work.spec.model_copy(update={"mean": (1.0, 2.0, 3.0)})
    save_model(model, load_model(model)[1], changed)
    with pytest.raises(ConfigError, match="from another model than the one that --from names"):
        train(work.tiles, tmp_path / "r", model=start_of(model), options=OPTIONS, resume=True)


def test_a_run_is_named_by_its_folder(run):
    assert find_model(run[0]) == run[0] / "model.safetensors"
    assert isinstance(load_spec(find_model(run[0])), ModelSpec)


def test_a_model_that_is_missing_is_refused(work, tmp_path):
    with pytest.raises(ModelFileError, match=r"no such model file"):
        plan_train(work.tiles, tmp_path / "run", start_from="missing.safetensors")
    with pytest.raises(ModelFileError, match="is a folder without a model"):
        plan_train(work.tiles, tmp_path / "run", start_from=tmp_path)


def test_the_default_model_can_be_continued(work, tmp_path):
    options = TileOptions(overlap=0, gap=0, size=64)
    tile(work.scene, work.footprints, tmp_path / "t",
         options=options, for_model="buildings")  # fmt: skip
    setup = plan_train(tmp_path / "t", tmp_path / "run", start_from="buildings")
    assert setup.spec.outputs == load_spec(find_model("buildings")).outputs


# Training areas


def square(left, size=1.0):
    return f"POLYGON (({left} 0, {left + size} 0, {left + size} {size}, {left} {size}, {left} 0))"


def test_areas_of_other_programs_are_joined_where_they_are_polygons():
    bow_tie = "POLYGON ((5 0, 7 2, 7 0, 5 2, 5 0))"  # two triangles of one square degree
    others = ["LINESTRING (0 0, 1 1)", "CURVEPOLYGON ((0 0, 1 1, 1 0, 0 0))", "no area", 7, None]
    joined = shapely.from_wkt(join_areas([square(0), bow_tie, *others]))
    assert joined.area == pytest.approx(3)
    assert joined.is_valid
    assert join_areas(others) is None


def test_an_area_with_too_many_corners_is_replaced_by_one_that_contains_it():
    angles = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    circles = [
        shapely.Polygon(np.column_stack([x + np.cos(angles), np.sin(angles)])) for x in (0, 9)
    ]
    text = format_area(circles)
    found = shapely.from_wkt(text)
    assert len(text) < 200_000
    assert found.contains(shapely.union_all(circles).buffer(-1e-6))
    assert found.area == pytest.approx(8)  # two squares around circles


def test_validation_where_the_model_was_trained_is_named(work, tmp_path):
    own = describe_training_area(work.tiles)
    for area, wanted in (
        (own, ["100% of the validation tiles are in the"]),
        (square(0), []),
    ):
        spec = work.spec.model_copy(update={"provenance": {"training_area": area}})
        save_model(tmp_path / "m.safetensors", load_model(work.model)[1], spec)
        setup = plan_train(work.tiles, tmp_path / "r", start_from=tmp_path / "m.safetensors")
        lines = describe_start(setup.start, setup.val_set, setup.spec.outputs)
        assert [line[:39] for line in lines if "% of the validation" in line] == wanted


@pytest.mark.parametrize("start", ["x", {"model": 1, "provenance": None}, {"provenance": "x"}])
def test_a_chain_of_another_program_is_shown_as_far_as_it_goes(work, tmp_path, start):
    spec = work.spec.model_copy(update={"provenance": {"scenes": ["a.tif"], "start": start}})
    save_model(tmp_path / "m.safetensors", load_model(work.model)[1], spec)
    shown = CliRunner().invoke(
        cli, ["info", str(tmp_path / "m.safetensors")], catch_exceptions=False
    )
    assert shown.exit_code == 0
    assert shown.output.count("continued from") == isinstance(start, dict)


def test_the_sources_of_a_model_are_shown_with_their_licences(work, tmp_path):
    sources = [{"data": "Town A", "licence": "CC BY 4.0"}, "x", {"data": "B", "licence": "ODbL"}]
    spec = work.spec.model_copy(update={"provenance": {"scenes": ["a.tif"], "sources": sources}})
    save_model(tmp_path / "m.safetensors", load_model(work.model)[1], spec)
    words = ["info", str(tmp_path / "m.safetensors")]
    shown = CliRunner().invoke(cli, words, catch_exceptions=False).output
    lines = [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("source")]
    assert lines == ["Town A (CC BY 4.0)", "B (ODbL)"]
