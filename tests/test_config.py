"""Configurations: checked before anything runs, and wrong keys named where they stand."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import geoseg
from geoseg.config import Config, find_config, load_config, shipped_configs
from geoseg.errors import ConfigError
from geoseg.options import (
    AUGMENT_PRESETS,
    USUAL_LOSS,
    AugmentOptions,
    FocalOptions,
    LossOptions,
    Thresholds,
    TileOptions,
    TrainOptions,
    VectorizeOptions,
)

ROOT = Path(geoseg.__file__).parents[1]

LIGHT = AUGMENT_PRESETS["light"]


@pytest.fixture
def write(tmp_path):
    """A function that writes a configuration."""

    def write(text):
        path = tmp_path / "x.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path=None, *overrides):
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


# What ships


def holds(found, written):
    """Whether settings are as they were written, with defaults beside them."""
    if isinstance(written, dict):
        return all(holds(found[key], value) for key, value in written.items())
    if isinstance(found, dict):  # a term of the loss, by its weight alone, or a preset
        preset = AUGMENT_PRESETS.get(written)
        return found == preset.model_dump() if preset else found["weight"] == written
    return found in (written, [written], [str(written)])  # values of classes are texts


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_configuration_loads(name):
    path = ROOT / "configs" / f"{name}.yaml"
    config = load_config(path)
    assert config == load_config(name) == load_config(f"configs/{name}.yaml")
    sections = yaml.safe_load(path.read_text())
    assert holds(config.model_dump(mode="json"), sections)
    assert path.read_text().startswith("# ")


def test_configurations_ship():
    assert {"small", "deepglobe", "demo"} <= set(shipped_configs())


def test_a_file_comes_before_one_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("small.yaml") == shipped_configs()["small"]
    (tmp_path / "small.yaml").write_text("train: {epochs: 3}")
    assert load_config("small.yaml").train.epochs == 3


def test_a_configuration_that_is_not_there():
    message = refusal("other/small.yaml")
    assert message.startswith("other/small.yaml: no such configuration file; geoseg ships ")
    assert "small" in message.split("ships")[1]


# Values


def test_without_a_file_all_are_defaults():
    assert load_config() == Config()
    assert load_config().train.lr == 1e-3


def test_an_empty_file_or_section_keeps_the_defaults(write):
    assert load_config(write("")) == Config()
    assert load_config(write("# nothing\n")) == Config()
    assert load_config(write("train:\n  # lr: 1\nmodel:\n")) == Config()


def test_numbers_are_read_by_yamls_rules(write):
    assert load_config(write("train: {lr: 1e-4, epochs: 7}")).train.lr == 1e-4
    assert load_config(write("train: {lr: 1}")).train.lr == 1.0
    assert load_config(write("model: {encoder_weights: none}")).model.encoder_weights is None
    assert load_config(write("tile: {bands: [4, red]}")).tile.bands == (4, "red")


def test_label_values_are_read_as_they_are_written(write):
    values = "{house: [yes, residential, 01], field: no, water: '#0000ff', none: null, d: 1.0}"
    expected = {
        "house": ("yes", "residential", "01"), "field": ("no",), "water": ("#0000ff",),
        "d": ("1.0",),
    }  # fmt: skip
    path = write(f"tile:\n  classes:\n    attribute: kind\n    values: {values}\n")
    assert load_config(path).tile.classes.values == expected
    for override in (
        f"tile.classes.values={values}", f"tile.classes={{attribute: a, values: {values}}}",
        f"tile={{classes: {{attribute: a, values: {values}}}}}",
    ):  # fmt: skip
        base = write("tile: {classes: {attribute: a, values: {x: [1]}}}")
        assert load_config(base, [override]).tile.classes.values == expected
    found = load_config(path, ["tile.classes.values.house=[off, 1e3]", "tile.classes.values.d=007"])
    assert found.tile.classes.values["house"] == ("off", "1e3")
    assert found.tile.classes.values["d"] == ("007",)
    without = load_config(path, ["tile.classes.values.field=null", "tile.size=0x40"])
    assert "field" not in without.tile.classes.values
    assert without.tile.size == 64


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("a: &a [*a]", "too large"),
        (
            "x0: &x0 [a, a, a, a]\n"
            + "".join(f"x{n + 1}: &x{n + 1} [{f'*x{n}, ' * 9}]\n" for n in range(9)),
            "too large",
        ),
    ],
)
def test_a_short_file_cannot_keep_the_program_busy(write, text, problem):
    assert problem in refusal(write(text))


def test_the_command_line_comes_last(write):
    path = write("train:\n  lr: 0.5\n  loss: {dice: 1}\n")
    config = load_config(
        path,
        ["train.lr=1e-4", "train.loss.bce=2", "model.options.fusion=add", "tile.bands=[3, nir]",
         "model.encoder_weights=", "train.lr = 2e-4"],
    )  # fmt: skip
    assert config.train.lr == 2e-4
    assert config.train.loss == LossOptions(dice=1, bce=2)
    assert config.model.options == {"fusion": "add"}
    assert config.tile.bands == (3, "nir")
    assert config.model.encoder_weights is None
    assert config.train.epochs == Config().train.epochs


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        load_config().train.lr = 3


def test_thresholds_are_replaced_where_they_are_set():
    tuned = Thresholds(body=0.4, seed=0.7)
    assert VectorizeOptions().over(tuned) == tuned
    assert VectorizeOptions(body=0.2, simplify_m=0).over(tuned) == Thresholds(
        body=0.2, seed=0.7, simplify_m=0
    )


# Errors


def test_a_misspelt_key_is_named_with_its_file(write):
    path = write("train:\n  epoch: 3\n")
    message = refusal(path)
    assert message.startswith(
        f"{path}: train.epoch: no such key; did you mean epochs? the keys are"
    )
    assert refusal(write("trian: {lr: 1}")).startswith(
        f"{path}: trian: no such key; did you mean train? the keys are tile, model, train, "
    )
    assert "train.qqq: no such key; the keys are epochs, " in refusal(write("train: {qqq: 1}"))


def test_a_wrong_value_is_named_with_its_place(write):
    path = write("train:\n  lr: -1\n")
    assert refusal(path) == f"{path}: train.lr: input should be greater than 0 (got -1)"
    assert "train.loss.bce.weight: input should be greater than or equal to 0 (got -1)" in refusal(
        write("train: {loss: {bce: -1}}")
    )
    assert "tile.bands.0: " in refusal(write("tile: {bands: [1.5]}"))
    assert "tile.bands: " in refusal(write("tile: {bands: []}"))
    assert "train.precision: input should be 'auto'" in refusal(write("train: {precision: 16}"))
    assert "train.lr: input should be a finite number" in refusal(write("train: {lr: .inf}"))


@pytest.mark.parametrize(
    ("tile", "problem"),
    [({"size": 100, "overlap": 51}, r"at most half the size \(50\)"),
     ({"fractions": (0.5, 0.2, 0.2)}, "must sum to 1"),
     ({"fractions": (0, 0.5, 0.5)}, "that of train must be above 0"),
     ({"size": 16}, "greater than or equal to 32"), ({"gsd_m": 0}, "greater than 0")],
)  # fmt: skip
def test_tiles_that_cannot_be(tile, problem):
    with pytest.raises(ValidationError, match=problem):
        TileOptions(**tile)


# The loss


def test_a_number_is_the_weight_of_a_term(write):
    loss = load_config(write("train: {loss: {bce: 1.0, dice: 1.0}}")).train.loss
    assert loss == USUAL_LOSS == LossOptions(bce={"weight": 1}, dice={"weight": 1})
    assert TrainOptions().loss is None
    assert list(loss.terms) == ["bce", "dice"]
    loss = load_config(
        write("train: {loss: {focal: {weight: 10, gamma: 1.5, alpha: 0.25}, dice: 1.0, bce: 0}}")
    ).train.loss
    assert list(loss.terms) == ["dice", "focal"]
    assert loss.focal == FocalOptions(weight=10, gamma=1.5, alpha=0.25)
    assert loss.focal.normalise == "pixels"


def test_weights_of_classes_are_one_number_or_several(write):
    for text, weights in (("3", (3.0,)), ("[3, 0.5]", (3.0, 0.5))):
        path = write(f"train: {{loss: {{bce: {{pos_weight: {text}}}}}}}")
        assert load_config(path).train.loss.bce.pos_weight == weights


def test_the_loss_is_shown_as_it_may_be_written():
    shown = LossOptions(dice=2, focal={"alpha": 0.25}).model_dump()
    assert list(shown) == ["dice", "focal"]
    assert shown["dice"] == {"weight": 2.0, "smooth": 1.0}
    assert LossOptions.model_validate(shown) == LossOptions(dice=2, focal={"alpha": 0.25})


def test_a_parameter_joins_those_of_the_file(write):
    path = write("train: {loss: {focal: {weight: 10}}}")
    loss = load_config(path, ["train.loss.focal.gamma=3", "train.loss.bce=0.5"]).train.loss
    assert loss == LossOptions(focal={"weight": 10, "gamma": 3}, bce=0.5)
    # The weight of 10 must not get lost without a word.
    message = refusal(write("train: {loss: {focal: 10}}"), "train.loss.focal.gamma=3")
    assert message == (
        "--set train.loss.focal.gamma: train.loss.focal is set to 10, which has no gamma; set it "
        "as a whole"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{lovasz: 1}",
         "train.loss.lovasz: no such key; did you mean lovasz_hinge? the keys are bce, "
         "cross_entropy, dice, focal, jaccard, lovasz_hinge, lovasz_softmax, tversky"),
        ("{focal: {gama: 2}}",
         "train.loss.focal.gama: no such key; did you mean gamma? the keys are weight, gamma, "),
        ("{focal: {alpha: 1}}", "train.loss.focal.alpha: input should be less than 1 (got 1)"),
        ("{focal: {normalise: anchors}}",
         "train.loss.focal.normalise: input should be 'pixels' or 'positives' (got 'anchors')"),
        ("{tversky: {alpha: 0}}", "train.loss.tversky.alpha: input should be greater than 0"),
        ("{bce: {pos_weight: [1, 0]}}", "train.loss.bce.pos_weight.1: input should be greater"),
        ("{lovasz_softmax: {classes: [1]}}", "train.loss.lovasz_softmax.classes: input should be "),
        ("{}", "train.loss: no term has a positive weight (got {})"),
        ("{bce: 0.0}", "train.loss: no term has a positive weight"),
        ("{bce: [1]}", "train.loss.bce.weight: input should be a valid number (got [1])"),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_be(write, text, problem):
    path = write(f"train: {{loss: {text}}}")
    message = refusal(path)
    assert message.startswith(f"{path}: {problem}")
    assert "\n" not in message


def test_the_weight_map_has_its_own_settings(write):
    assert load_config().train.weight_map is None
    weighing = load_config(write("train: {weight_map: {}}")).train.weight_map
    assert (weighing.w0, weighing.sigma_px, weighing.balance) == (10, 5, True)
    assert weighing.sigma(gsd_m=0.3) == 5
    weighing = load_config(write("train: {weight_map: {w0: 3, sigma_m: 1.5}}")).train.weight_map
    assert (weighing.w0, weighing.sigma(gsd_m=0.3)) == (3, pytest.approx(5))
    assert (
        "train.weight_map.sigma: no such key; did you mean sigma_m? the keys are w0, "
        in refusal(write("train: {weight_map: {sigma: 3}}"))
    )
    assert "train.weight_map.sigma_px: input should be greater than 0" in refusal(
        write("train: {weight_map: {sigma_px: 0}}")
    )


def test_settings_without_an_effect_are_refused(write):
    path = write("train: {loss: {dice: 1, lovasz_hinge: 1, bce: 0}, weight_map: {}}")
    assert refusal(path).startswith(
        f"{path}: train: weight_map needs a pixelwise term in loss; add bce or focal"
    )
    path = write("train: {augment: {elastic_px: 10, free_share: 0}}")
    assert refusal(path).startswith(
        f"{path}: train.augment: elastic_px has no effect, because free_share is 0; "
        "set free_share above 0"
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("none", None), ("null", None), ("light", LIGHT), ("full", AugmentOptions()),
        ("{}", AugmentOptions()), ("{preset: light}", LIGHT), ("{preset: none}", None),
        ("{turn_deg: 45, mirrors: false}", AugmentOptions(turn_deg=45, mirrors=False)),
        ("{preset: light, noise: 0.2}", LIGHT.model_copy(update={"noise": 0.2})),
    ],
)  # fmt: skip
def test_augmentation_is_a_preset_or_what_differs_from_one(write, written, expected):
    train = load_config(write(f"train: {{augment: {written}}}")).train
    assert train.augment == expected
    assert load_config(None, [f"train.augment={written}"]).train == train
    # As the model's provenance keeps it.
    assert TrainOptions.model_validate(train.model_dump()) == train
    assert TrainOptions.model_validate_json(train.model_dump_json()) == train


def test_one_setting_of_augmentation_is_set_alone(write):
    assert load_config(None, ["train.augment.turn_deg=45"]).train.augment.turn_deg == 45
    path = write("train: {augment: {noise: 0.2}}")
    augment = load_config(path, ["train.augment.turn_deg=45"]).train.augment
    assert augment == AugmentOptions(noise=0.2, turn_deg=45)
    assert load_config(path, ["train.augment=light"]).train.augment == LIGHT


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("much", "choose none, light, full, or set fields that differ from full (got 'much')"),
        ("{preset: [1]}", "choose none, light, full, or set fields that differ from full"),
        ("{preset: none, noise: 1}", "preset none leaves nothing to change; choose light or full"),
        ("5", "input should be a valid dictionary"),
    ],
)
def test_augmentation_that_cannot_be(write, written, problem):
    path = write(f"train: {{augment: {written}}}")
    assert refusal(path).startswith(f"{path}: train.augment: {problem}")
    path = write("train: {augment: {scale: 0.5}}")
    assert refusal(path).startswith(f"{path}: train.augment.scale: input should be greater than")
    path = write("train: {augment: {turn: 45}}")
    assert "train.augment.turn: no such key; did you mean turn_deg? the keys" in refusal(path)


def test_a_clash_names_both_who_made_it(write):
    path = write("tile: {size: 100, overlap: 50}")
    message = refusal(path, "tile.size=64")
    assert message.startswith(
        f"{path} with --set: tile: overlap must be at most half the size (32)"
    )
    assert refusal(write("tile: {overlap: 300}")).startswith(f"{path}: tile: overlap must be")
    assert refusal(None, "tile.overlap=300").startswith("--set: tile: overlap must be")
    assert refusal(write("train: {lr: 1}"), "train.lr=-1").startswith("--set: train.lr: ")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.lr", "--set train.lr: must read section.key=value"),
        ("=3", "--set =3: must read section.key=value"),
        ("train.lr=[1", "--set train.lr=[1: '[1' is not a YAML value"),
        ("train.lr=fast", "--set: train.lr: input should be a valid number"),
        ("train.lr.x=5", "--set: train.lr: input should be a valid number"),
        ("train.loss.bce=much", "--set: train.loss.bce.weight: input should be a valid number"),
        ("train=5", "--set: train: input should be"),
        ("train.rate=1", "--set: train.rate: no such key; "),
        ("lr=1", "--set: lr: no such key; "),
    ],
)
def test_overrides_that_say_nothing(override, problem):
    assert refusal(None, override).startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a: [", "line 1 is not valid YAML"), ("- 1\n- 2", "must contain sections such as train:"),
     ("train: 5", "train: input should be"), ("1: 2", "1: keys should be strings"),
     ("train: {lr: 1}\n---\ntrain: {lr: 2}", "is not valid YAML")],
)  # fmt: skip
def test_a_file_that_is_no_configuration(write, text, problem):
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}:")
    assert problem in message


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "is not valid YAML" in refusal(tmp_path / "x.yaml")


def test_nothing_in_a_file_is_executed(write, tmp_path):
    message = refusal(write(f"train: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']"))
    assert "could not determine a constructor" in message
    assert not (tmp_path / "made").exists()


def test_a_misspelt_key_fails_before_torch_is_imported(write):
    code = (
        "import sys\nfrom geoseg.config import load_config\n"
        f"try: load_config({str(write('train: {lrr: 1}'))!r})\n"
        "except ValueError as error: print(type(error).__name__)\n"
        "print(*({'torch', 'rasterio', 'numpy', 'geopandas'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["ConfigError"]


# Files named in a file


def test_weights_are_found_beside_the_configuration_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    config, beside = tmp_path / "deep" / "x.yaml", tmp_path / "deep" / "w.pth"
    config.write_text("model: {encoder_weights: w.pth}")
    monkeypatch.chdir(tmp_path)
    assert load_config(config).model.encoder_weights == "w.pth"  # named again when it is missed
    beside.touch()
    assert load_config(config).model.encoder_weights == str(beside)
    assert load_config("deep/x.yaml").model.encoder_weights == str(Path("deep/w.pth"))
    assert (
        load_config(config, ["model.encoder_weights=imagenet"]).model.encoder_weights == "imagenet"
    )
    (tmp_path / "here.pth").touch()
    assert (
        load_config(config, ["model.encoder_weights=here.pth"]).model.encoder_weights == "here.pth"
    )
    absolute = str(tmp_path / "here.pth")
    assert (
        load_config(config, [f"model.encoder_weights={absolute}"]).model.encoder_weights == absolute
    )


# Options of an architecture


def test_options_of_another_architecture_are_dropped_with_a_warning(caplog):
    small = shipped_configs()["small"]
    model = load_config(small, ["model.arch=fpn"]).model
    assert model.options == {}
    assert model.encoder == "tu-tf_efficientnet_lite0"
    assert caplog.messages == [
        f"{small}: set for deepglobe and not used, since model.arch is fpn: "
        "model.options.aspp_channels, model.options.kernel, model.options.widths; the options of "
        "fpn are channels, head_channels"
    ]
    caplog.clear()
    model = load_config(small, ["model.arch=unet", "model.options.width=8"]).model
    assert (model.options, model.encoder) == ({"width": 8}, None)
    assert "model.options.widths, model.encoder; the options of unet are padding" in caplog.text


def test_options_that_both_architectures_have_are_kept(write, caplog):
    path = write("model: {arch: deeplabv3, options: {channels: 32, multi_grid: [1, 1, 1]}}")
    assert load_config(path, ["model.arch=fpn"]).model.options == {"channels": 32}
    assert "since model.arch is fpn: model.options.multi_grid; " in caplog.text
    caplog.clear()
    path = write("model: {arch: smp-unet, options: {decoder_use_norm: true}}")
    for arch in ("UNET++", "smp-fpn", "pixelwise"):
        assert load_config(path, [f"model.arch={arch}"]).model.options == {}
    assert caplog.text.count("model.options.decoder_use_norm") == 3
    caplog.clear()
    for arch in ("smp-unet", "SMP-Unet"):
        assert load_config(path, [f"model.arch={arch}"]).model.options == {"decoder_use_norm": True}
    assert caplog.text == ""


def test_unknown_options_of_an_architecture_are_refused(write):
    small = shipped_configs()["small"]
    for arch, option in (("fpn", "kernel"), ("unet", "kernel"), ("pixelwise", "width")):
        message = refusal(small, f"model.arch={arch}", f"model.options.{option}=3")
        assert message.startswith(f"--set: model.options.{option}: no such option; ")
        assert f"the options of {arch} are" in message or message.endswith("has no options")
    whole = refusal(small, "model.arch=fpn", "model.options={widths: [8, 8, 8, 8]}")
    assert whole.startswith("--set: model.options.widths: no such option; the options of fpn are")
    path = write("model: {options: {asp_channels: 3}}")
    assert refusal(path).startswith(f"{path}: model.options.asp_channels: no such option; the ")
