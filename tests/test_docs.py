"""README and documentation: links, length, settings page, commands and options in examples."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

import geoseg
from geoseg.cli import cli

ROOT = Path(geoseg.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]

# Options of srun and of benchmarks that the pages explain.
OTHER_OPTIONS = {"--gpus-per-task", "--kill-on-bad-exit", "--minutes"}


def name_page(path):
    return str(path.relative_to(ROOT))


def strip_code(text):
    """Text without code blocks and inline code, in which brackets are no links."""
    return re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def list_anchors(path):
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_commands(text):
    """Lines `geoseg ...` of code blocks and inline code, with continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    # Options may follow a launcher such as srun or torchrun.
    found = (re.search(r"(?:^|[\s/])geoseg (.*)", line) for line in [*lines, *map(join, inline)])
    return [hit[1] for hit in found if hit]


def join(text):
    return " ".join(text.split())


@pytest.mark.parametrize("page", LINKED, ids=name_page)
def test_relative_links_exist(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", strip_code(page.read_text(encoding="utf-8")))
    for target in targets:
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in list_anchors(path), f"{page}: {target}"


def test_no_page_has_marks_of_a_merge():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        assert not re.search(r"^(<{7}|>{7}) ", page.read_text(encoding="utf-8"), re.M), page


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_settings_page_is_up_to_date():
    """Run `python docs/settings.py` if it is not."""
    path = ROOT / "docs" / "settings.py"
    spec = importlib.util.spec_from_file_location("settings_page", path)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.describe_settings()
    assert path.with_suffix(".md").read_text(encoding="utf-8") == text
    assert "| `fold` | `0` |" in text


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_commands_have_the_options_of_the_examples(page):
    for line in find_commands(page.read_text(encoding="utf-8")):
        name, *words = shlex.split(line.split(" # ")[0].split(" · ")[0], comments=True)
        if name.startswith("-"):
            continue
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, f"{page}: geoseg {line}"
        known = {"--help", "-h"}
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
        options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert options <= known, f"{page}: geoseg {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_commands_in_blocks_have_all_that_is_required(page):
    blocks = re.findall(r"^(```\w*\n.*?^```)", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for line in find_commands("\n".join(blocks)):
        name, *words = shlex.split(line.split(" # ")[0], comments=True)
        if name.startswith("-") or {"--help", "..."} & set(words):
            continue
        command = cli.get_command(click.Context(cli), name)
        for parameter in command.params:
            if parameter.required and isinstance(parameter, click.Option):
                assert {*parameter.opts} & set(words), f"{page}: geoseg {line}"
        arguments = [one for one in command.params if isinstance(one, click.Argument)]
        if any(one.required for one in arguments):
            first = words[0] if words else "-"
            assert not first.startswith("-"), f"{page}: geoseg {line}"


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_options_in_the_text_belong_to_some_command(page):
    """An option in inline code, such as `--tta flips`, is one of geoseg's."""
    known = {"--help", "--version"}
    for name in cli.list_commands(click.Context(cli)):
        for parameter in cli.get_command(click.Context(cli), name).params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    inline = [code for code in re.findall(r"`([^`]+)`", text) if code.startswith("--")]
    assert {code.split()[0].split("=")[0] for code in inline} - known <= OTHER_OPTIONS


def list_settings():
    """Keys of the settings page with their sections, such as `train.lr`."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (\w+)$", text, flags=re.M)[1:]
    return {
        f"{section}.{key}"
        for section, table in zip(sections[::2], sections[1::2], strict=True)
        for key in re.findall(r"^\| `([\w.]+)` \|", table, flags=re.M)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_settings_in_the_examples_exist(page):
    text = re.sub(r"^```python.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    codes = [*re.findall(r"`([^`]+)`", text), *re.findall(r"--set \"?(\S+)", text)]
    pattern = r"(?<!geoseg\.)\b(?:tile|model|train|predict|vectorize)\.[a-z_]+(?:\.[a-z_]+)*\b"
    keys = {key for code in codes for key in re.findall(pattern, code)}
    files = r"\.(json|geojson|parquet|onnx|safetensors|pt2|md|py|png|tif)$"
    free = "model.options."  # options of a network have no fixed names
    keys = {key for key in keys if not re.search(files, key) and not key.startswith(free)}
    assert keys - list_settings() == set()


def test_the_tests_of_the_promises_exist():
    text = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(test_\w+\.py)`", text))
    assert names
    assert [name for name in sorted(names) if not (ROOT / "tests" / name).is_file()] == []
    assert [int(number) for number in re.findall(r"^(\d+)\. ", text, flags=re.M)] == [*range(1, 14)]
