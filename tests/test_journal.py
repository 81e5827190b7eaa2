"""Outputs take their name when they are complete, and nothing is lost when they are not."""

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import LabelError, OutputExistsError
from geoseg.jobs.journal import Journal, check_output, claim_output, describe_job, replace_file


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


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_replaced_by_a_folder(tmp_path, overwrite):
    (tmp_path / "scene.tif").write_text("somebody's")
    with (
        pytest.raises(OutputExistsError, match=r"scene\.tif: is a file, where a folder"),
        claim_output(tmp_path / "scene.tif", overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "scene.tif").read_text() == "somebody's"


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


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "out.gpkg").mkdir()
    assert check_output(tmp_path / "out.gpkg", overwrite=False) == tmp_path / "out.gpkg"
    with pytest.raises(OutputExistsError, match=r"out\.gpkg: is a folder; name a file"):
        check_output(tmp_path / "out.gpkg", overwrite=True, is_file=True)
    for file in (None, "a.gpkg"):
        with (
            pytest.raises(OutputExistsError, match=r"out\.gpkg: is a folder; name a file"),
            claim_output(tmp_path / "out.gpkg", overwrite=True, file=file),
        ):
            pass
    assert names(tmp_path) == ["out.gpkg"]


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


# Jobs that go on

JOB = describe_job({"size": 64}, ["a", "b"])


def interrupted(path, job, done, error=KeyboardInterrupt):
    """A job that finishes some tasks, leaves a file, and is interrupted."""

    def run():
        with claim_output(path, job=job) as folder, Journal(folder, job) as book:
            for key in done:
                book.add(key, {"of": key, "share": 0.1 + 0.2})
            (folder / "tiles.json").write_text("half")
            raise error("stop")

    with pytest.raises(error):
        run()


def test_an_interrupted_job_goes_on(tmp_path, caplog):
    path = tmp_path / "tiles"
    interrupted(path, JOB, ["a"])
    assert not path.exists()
    assert caplog.messages == []
    interrupted(path, JOB, ["b"])
    with claim_output(path, job=JOB) as folder, Journal(folder, JOB) as book:
        assert book.done == {key: {"of": key, "share": 0.30000000000000004} for key in "ab"}
        assert (folder / "tiles.json").read_text() == "half"
        (folder / "tiles.json").write_text("whole")
    assert caplog.messages == [f"{path}: going on where an interrupted run stopped"] * 2
    assert names(path) == ["tiles.json"]
    assert names(tmp_path) == ["tiles"]


def test_another_job_starts_anew(tmp_path, caplog):
    path = tmp_path / "tiles"
    interrupted(path, JOB, ["a"])
    other = describe_job({"size": 32}, ["a", "b"])
    with claim_output(path, job=other) as folder:
        assert not folder.exists()
        with Journal(folder, other) as book:
            assert book.done == {}
        (folder / "tiles.json").write_text("new")
    assert (path / "tiles.json").read_text() == "new"
    (told,) = caplog.messages
    assert told.endswith("is of other settings or inputs; starting anew")


def test_a_job_that_cannot_end_well_leaves_nothing(tmp_path):
    interrupted(tmp_path / "tiles", JOB, ["a"], LabelError)
    assert names(tmp_path) == []


def test_a_job_differs_by_settings_and_by_what_it_reads(tmp_path):
    scene = tmp_path / "scene.tif"
    scene.write_text("one")
    os.utime(scene, ns=(0, 1_000_000))
    jobs = {describe_job(1, files=[scene]), describe_job(2, files=[scene]), describe_job(1)}
    assert describe_job(1, files=[scene]) in jobs
    os.utime(scene, ns=(0, 2_000_000))
    jobs.add(describe_job(1, files=[scene]))
    scene.write_text("other")
    os.utime(scene, ns=(0, 1_000_000))
    jobs.add(describe_job(1, files=[scene]))
    jobs.add(describe_job(1, files=["https://example.org/scene.tif"]))
    assert len(jobs) == 6


@given(cut=st.integers(0, 400))
def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("job")
    results = {f"{n}/{n * 7}": [n / 3, "wall\n"] for n in range(6)}
    book = Journal(folder, JOB)
    for key, result in results.items():
        book.add(key, result)
    book.__exit__(RuntimeError, None, None)  # interrupted: the file stays
    path = folder / Journal.NAME
    text = path.read_text()[:cut]
    path.write_text(text)
    whole = max(0, text.count("\n") - 1)
    assert Journal.continues(folder, JOB) == ("\n" in text)
    with Journal(folder, JOB) as book:
        assert list(book.done.items()) == list(results.items())[:whole]
        book.add("more", 1)


def test_what_a_killed_process_wrote_is_read_again(tmp_path):
    child = os.fork()
    if child == 0:
        book = Journal(tmp_path / "job", JOB)
        book.add("a", [1, 2.5])
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with Journal(tmp_path / "job", JOB) as book:
        assert book.done == {"a": [1, 2.5]}
