"""The table of architectures: agrees with the builders, and costs no import of torch."""

import subprocess
import sys
from inspect import signature

import pytest

from geoseg.networks.architectures import (
    ARCHITECTURES,
    SMP_PAPERS,
    list_architectures,
    resolve_architecture,
    task_of,
)
from geoseg.networks.models.registry import find_builder
from geoseg.options.architecture_options import FIXED_ENCODERS, known_options

HEAVY = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning")


def imported_by(code):
    """The heavy packages that a fresh process has imported after some code."""
    code += f"\nimport sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_header_and_task_of_a_model_are_read_without_torch():
    code = (
        "from geoseg.networks.architectures import task_of\n"
        "from geoseg.networks.model_file import find_model, load_spec\n"
        "assert task_of(load_spec(find_model()).arch) == 'pixels'"
    )
    assert imported_by(code) == set()


def test_the_default_model_is_loaded_without_lightning_and_smp():
    code = (
        "from geoseg.networks.model_file import find_model, load_model\n"
        "from geoseg.networks.models import load_network\n"
        "load_network(*load_model(find_model()))"
    )
    assert imported_by(code) == {"torch", "torchvision", "timm"}


@pytest.mark.parametrize("arch", ["unet", "pixelwise"])
def test_a_network_without_a_library_encoder_needs_torch_alone(arch):
    code = (
        "from geoseg.networks.models import build_model\n"
        f"build_model({arch!r}, bands='a', outputs=1)"
    )
    assert imported_by(code) == {"torch"}


def test_every_architecture_has_a_builder():
    from geoseg.networks.models.registry import BUILDERS, find_builder

    assert list(BUILDERS) == list(ARCHITECTURES)
    assert all(callable(find_builder(arch)) for arch in ARCHITECTURES)


def test_the_table_lists_the_networks_of_smp():
    import segmentation_models_pytorch as smp

    assert all(hasattr(smp, name) for name in SMP_PAPERS)
    assert set(smp.MODEL_ARCHITECTURES_MAPPING) == {name.lower() for name in SMP_PAPERS}


def test_names_resolve_with_and_without_prefix():
    names = list_architectures()
    assert names[0] == "deepglobe"
    assert [resolve_architecture(name) for name in names] == names
    assert resolve_architecture("UnetPlusPlus") == "smp-unetplusplus"
    assert resolve_architecture("UNet") == "unet"


def test_retinanet_is_the_only_network_for_boxes():
    assert list_architectures("boxes") == ["retinanet"]
    assert task_of("RetinaNet") == "boxes"
    assert task_of("unet") == "pixels"
    assert set(list_architectures()) == {"retinanet", *list_architectures("pixels")}


def test_the_listed_options_are_the_arguments_of_the_networks():
    for arch in list_architectures():
        builder = find_builder(arch)
        arguments = signature(builder).parameters.values()
        keywords = [p.name for p in arguments if p.kind is p.KEYWORD_ONLY]
        fixed = getattr(builder, "keywords", {})
        if arch.startswith("smp-"):
            assert known_options(arch) is None
        else:
            assert known_options(arch) == tuple(name for name in keywords if name not in fixed)
    assert {arch for arch, known in ARCHITECTURES.items() if known.encoder is None} == set(
        FIXED_ENCODERS
    )
