"""Outputs take their name when they are complete, and nothing is lost when they are not."""

import os

import pytest

from geoseg.errors import OutputExistsError
from geoseg.journal import check_output, claim_output, replace_file


def write(folder, text):
    folder.mkdir()
    (folder / "tiles.json").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_name_at_the_end(tmp_path):
    with claim_output(tmp_path / "tiles") as folder:
        write(folder, "new")
        assert not (tmp_path / "tiles").exists()
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "new"
    assert names(tmp_path) == ["tiles"]


def test_a_folder_that_fails_leaves_what_was_there(tmp_path):
    write(tmp_path / "tiles", "old")

    def run():
        with claim_output(tmp_path / "tiles", overwrite=True) as folder:
            write(folder, "new")
            raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        run()
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "old"
    assert names(tmp_path) == ["tiles"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "tiles", "old")
    (tmp_path / "tiles" / "test.geojson").write_text("old")
    with claim_output(tmp_path / "tiles", overwrite=True) as folder:
        write(folder, "new")
    assert names(tmp_path / "tiles") == ["tiles.json"]
    assert names(tmp_path) == ["tiles"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write(tmp_path / "tiles", "old")
    rename = os.replace

    def refuse(source, target):
        if ".partial" in str(source):
            raise PermissionError("the folder is open in another program")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(PermissionError, match="another program"),
        claim_output(tmp_path / "tiles", overwrite=True) as folder,
    ):
        write(folder, "new")
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "old"
    assert names(tmp_path) == ["tiles"]


def test_what_an_interrupted_run_left_is_removed(tmp_path):
    write(tmp_path / ".tiles.partial", "half")
    with claim_output(tmp_path / "tiles") as folder:
        assert not folder.exists()
        write(folder, "new")
    assert names(tmp_path) == ["tiles"]


def test_a_strangers_file_is_not_deleted(tmp_path):
    write(tmp_path / "tiles", "old")
    (tmp_path / "tiles" / "thesis.doc").write_text("years of work")
    with (
        pytest.raises(OutputExistsError, match=r"thesis\.doc, which geoseg did not write"),
        claim_output(tmp_path / "tiles", overwrite=True),
    ):
        pass
    assert (tmp_path / "tiles" / "thesis.doc").read_text() == "years of work"


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    write(tmp_path / "tiles", "old")
    (tmp_path / "tiles" / "images").mkdir()
    monkeypatch.chdir(tmp_path / "tiles" / "images")
    with (
        pytest.raises(OutputExistsError, match="current folder"),
        claim_output(tmp_path / "tiles", overwrite=True),
    ):
        pass
    assert names(tmp_path / "tiles") == ["images", "tiles.json"]


@pytest.mark.parametrize("source", ["tiles/tiles.json", "tiles"])
def test_an_input_is_not_overwritten(tmp_path, source):
    write(tmp_path / "tiles", "old")
    with pytest.raises(OutputExistsError, match="would be lost"):
        check_output(tmp_path / "tiles", overwrite=True, inputs=[tmp_path / source])


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OutputExistsError, match="a is a file"):
        check_output(tmp_path / "a" / "b" / "c", overwrite=False)


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path):
    path = tmp_path / "new" / "a.txt"

    def run():
        with replace_file(path) as partial:
            partial.write_text("half")
            raise RuntimeError("no power")

    with replace_file(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(RuntimeError, match="no power"):
        run()
    assert path.read_text() == "first"
    assert names(path.parent) == ["a.txt"]
