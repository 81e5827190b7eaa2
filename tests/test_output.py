"""Outputs get their name when they are complete, one job at a time, and nothing foreign is lost."""

import contextlib
import errno
import os
import re
import shutil
import signal
import sqlite3
from pathlib import Path

import geopandas as gpd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

import geoseg.jobs.output
from geoseg.errors import (
    LabelError,
    OutputExistsError,
    OutputLockedError,
    OutputWriteError,
    SceneReadError,
    WorkerLostError,
    describe_os_error,
)
from geoseg.jobs.files import STYLE_MARK, free_space, is_disk_full, replace_file
from geoseg.jobs.journal import Journal, describe_job
from geoseg.jobs.lock import lock_output
from geoseg.jobs.manifest import (
    MANIFEST_NAME,
    add_names_to_manifest,
    find_foreign_file,
    read_manifest,
    remove_recorded_files,
)
from geoseg.jobs.output import check_output, file_output, folder_output


def write(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "tiles.json").write_text(text)


def make(path, text="old", **options):
    """A folder that geoseg wrote."""
    with folder_output(path, **options) as work:
        write(work.result, text)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_NAME)


def test_a_folder_gets_its_name_at_the_end(tmp_path):
    with folder_output(tmp_path / "tiles") as work:
        write(work.result, "new")
        assert not (tmp_path / "tiles").exists()
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "new"
    assert names(tmp_path) == ["tiles"]
    assert read_manifest(tmp_path / "tiles") == {"tiles.json"}


def test_a_failed_job_leaves_the_old_folder(tmp_path):
    make(tmp_path / "tiles")

    def run():
        with folder_output(tmp_path / "tiles", overwrite=True) as work:
            write(work.result, "new")
            raise RuntimeError("no power")

    with pytest.raises(RuntimeError, match="no power"):
        run()
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "old"
    assert names(tmp_path) == ["tiles"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    with folder_output(tmp_path / "tiles") as work:
        write(work.result, "old")
        (work.result / "test.geojson").write_text("old")
    make_new = folder_output(tmp_path / "tiles", overwrite=True)
    with make_new as work:
        write(work.result, "new")
    assert names(tmp_path / "tiles") == ["tiles.json"]
    assert names(tmp_path) == ["tiles"]


def test_the_old_folder_is_restored_when_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    make(tmp_path / "tiles")
    rename = os.replace

    def refuse(source, target):
        if ".partial" in str(source) and str(target).endswith("tiles"):
            raise PermissionError("the folder is open in another program")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with (
        pytest.raises(PermissionError, match="another program"),
        folder_output(tmp_path / "tiles", overwrite=True) as work,
    ):
        write(work.result, "new")
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "old"
    assert names(tmp_path) == ["tiles"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_does_not_replace_a_file(tmp_path, overwrite):
    (tmp_path / "scene.tif").write_text("somebody's")
    with (
        pytest.raises(OutputExistsError, match=r"scene\.tif: is a file, but a folder"),
        folder_output(tmp_path / "scene.tif", overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "scene.tif").read_text() == "somebody's"
    assert names(tmp_path) == ["scene.tif"]


def test_a_working_folder_of_something_else_is_not_removed(tmp_path):
    write(tmp_path / ".tiles.partial", "somebody's")
    with pytest.raises(OutputExistsError, match="was not made by this version"):
        make(tmp_path / "tiles")
    assert (tmp_path / ".tiles.partial" / "tiles.json").read_text() == "somebody's"
    assert not (tmp_path / "tiles").exists()


@pytest.mark.parametrize(
    "name", ["thesis.doc", "images/drone_photo.jpg", "a/b/notes.txt", "images/.hidden", "run/x.txt"]
)
def test_foreign_files_at_any_depth_survive(tmp_path, name):
    with folder_output(tmp_path / "tiles") as work:
        write(work.result, "old")
        (work.result / "images").mkdir()
        (work.result / "images" / "000_000000_000000.tif").write_text("tile")
    foreign = tmp_path / "tiles" / name
    foreign.parent.mkdir(parents=True, exist_ok=True)
    foreign.write_text("years of work")
    expected = re.escape(
        f"{tmp_path / 'tiles'}: contains {name}, which is not part of this output; "
    )
    with (
        pytest.raises(OutputExistsError, match=expected),
        folder_output(tmp_path / "tiles", overwrite=True),
    ):
        pass
    assert foreign.read_text() == "years of work"
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mask.qml", "the style mask.qml was changed by another program and is kept from being over"),
     ("other.qml", "contains other.qml, which is not part of this output")],
)  # fmt: skip
def test_a_style_that_a_user_changed_is_kept_and_called_so(tmp_path, name, reason):
    with folder_output(tmp_path / "out") as work:
        write(work.result, "old")
        (work.result / "mask.qml").write_text(f"<!-- {STYLE_MARK} -->")
    (tmp_path / "out" / name).write_text("<qgis/>")
    with pytest.raises(OutputExistsError, match=f"out: {reason}"):
        check_output(tmp_path / "out", overwrite=True, inputs=(), is_file=False)
    assert (tmp_path / "out" / name).read_text() == "<qgis/>"


def test_a_foreign_file_that_appears_during_the_job_survives(tmp_path):
    make(tmp_path / "tiles")
    photo = tmp_path / "tiles" / "photo.jpg"

    def run():
        with folder_output(tmp_path / "tiles", overwrite=True) as work:
            write(work.result, "new")
            photo.write_text("holiday")

    with pytest.raises(OutputExistsError, match=r"photo\.jpg, which is not part of this output"):
        run()
    assert photo.read_text() == "holiday"
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "old"


def test_files_that_gis_programs_add_beside_ours_may_go(tmp_path):
    make(tmp_path / "tiles")
    for name in ("tiles.json.aux.xml", "tiles.json-wal"):
        (tmp_path / "tiles" / name).write_text("statistics")
    with folder_output(tmp_path / "tiles", overwrite=True) as work:
        write(work.result, "new")
    assert names(tmp_path / "tiles") == ["tiles.json"]
    assert names(tmp_path) == ["tiles"]


def test_a_link_to_a_folder_is_a_foreign_file(tmp_path):
    make(tmp_path / "tiles")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("photo")
    (tmp_path / "tiles" / "photos").symlink_to(tmp_path / "photos")
    with (
        pytest.raises(OutputExistsError, match="contains photos, which"),
        folder_output(tmp_path / "tiles", overwrite=True),
    ):
        pass
    assert (tmp_path / "photos" / "a.jpg").read_text() == "photo"


def test_a_folder_without_a_manifest_is_not_replaced(tmp_path):
    """A Lightning run, a downloaded model or drawn labels may have names of geoseg's files."""
    for name in ("train.geojson", "labels.json", "model.safetensors", "last.ckpt", "tiles.json"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_text("{}")
    with pytest.raises(OutputExistsError, match=r"contains labels\.json, which is not part"):
        check_output(tmp_path / "a", overwrite=True)


def test_leftovers_of_a_killed_process_are_known(tmp_path):
    make(tmp_path / "demo")
    make(tmp_path / "demo" / "run")
    (tmp_path / "demo" / ".run.lock").touch()
    (tmp_path / "demo" / "run" / ".tiles.json.0123abcd.partial").touch()
    (tmp_path / "demo" / f".{MANIFEST_NAME}.0123abcd.partial").touch()
    add_names_to_manifest(tmp_path / "demo", ["run/", "out/"])
    (tmp_path / "demo" / ".out.partial" / "strips").mkdir(parents=True)
    (tmp_path / "demo" / ".out.partial" / Journal.NAME).touch()
    (tmp_path / "demo" / ".out.partial" / "strips" / "0.tif").touch()
    assert find_foreign_file(tmp_path / "demo") is None
    (tmp_path / "demo" / ".profile.lock").touch()
    assert find_foreign_file(tmp_path / "demo") == tmp_path / "demo" / ".profile.lock"


def test_temporary_files_of_killed_tasks_do_not_reach_the_output(tmp_path):
    names = (".a.tif.0a1b2c3d.partial", ".a.tif.0a1b2c3d.partial.msk.ovr.tmp")
    with folder_output(tmp_path / "out") as work:
        (work.result / "images").mkdir()
        for name in (*names, "a.tif"):
            (work.result / "images" / name).write_text(name)
    assert sorted(file.name for file in (tmp_path / "out" / "images").iterdir()) == ["a.tif"]
    assert read_manifest(tmp_path / "out") == {"images/a.tif"}
    with file_output(tmp_path / "a.geojson") as work:
        for name in (*names, "a.geojson"):
            work.result.with_name(name).write_text(name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.geojson", "out"]


def test_a_layer_does_not_replace_companions_of_other_files(tmp_path):
    (tmp_path / "roads.prj").write_text("of roads.jpg")
    with pytest.raises(OutputExistsError, match=r"roads\.prj: already exists"):
        check_output(tmp_path / "roads.shp", overwrite=False, is_file=True)
    check_output(tmp_path / "roads.shp", overwrite=True, is_file=True)


def test_a_geopackage_with_other_layers_is_not_replaced(tmp_path):
    frame = gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 1, 1)], crs=32633)
    frame.to_file(tmp_path / "project.gpkg", layer="footprints")
    check_output(tmp_path / "project.gpkg", overwrite=True, is_file=True)
    frame.to_file(tmp_path / "project.gpkg", layer="roads")
    with pytest.raises(OutputExistsError, match="contains the layer roads, which geoseg did not"):
        check_output(tmp_path / "project.gpkg", overwrite=True, is_file=True)


def test_a_file_that_appears_during_the_job_is_not_replaced(tmp_path):
    def run():
        with file_output(tmp_path / "a.tif", job=JOB) as work:
            if not work.is_complete:
                work.result.write_text("result")
                (tmp_path / "a.tif").write_text("mine")

    with pytest.raises(OutputExistsError, match=r"a\.tif: was created while the job ran"):
        run()
    assert (tmp_path / "a.tif").read_text() == "mine"
    (tmp_path / "a.tif").unlink()
    run()  # the finished result is moved, and the file not written again
    assert (tmp_path / "a.tif").read_text() == "result"


def test_the_current_folder_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputExistsError, match="contains the current folder"):
        check_output(".", overwrite=False)


@pytest.mark.parametrize("error", [WorkerLostError, SceneReadError])
def test_finished_tasks_are_kept_after_errors_that_may_pass(tmp_path, error):
    interrupt(tmp_path / "tiles", JOB, ["a"], error)  # leaves a file, too
    with folder_output(tmp_path / "tiles", job=JOB) as work:
        assert list(work.journal.done) == ["a"]
        write(work.result, "whole")


def test_an_output_inside_an_output_is_not_part_of_it(tmp_path):
    make(tmp_path / "results")
    make(tmp_path / "results" / "scene_a")
    make(tmp_path / "parent" / "scene_b")  # in a folder that is no output
    for folder, inner in (("results", "scene_a"), ("parent", "scene_b")):
        with pytest.raises(OutputExistsError, match=f"contains {inner}/"):
            check_output(tmp_path / folder, overwrite=True)
        assert names(tmp_path / folder / inner) == ["tiles.json"]


def test_recorded_outputs_inside_an_output_are_part_of_it(tmp_path):
    make(tmp_path / "demo")
    make(tmp_path / "demo" / "out")
    add_names_to_manifest(tmp_path / "demo", ["out/"])
    assert find_foreign_file(tmp_path / "demo") is None
    (tmp_path / "demo" / "out" / "notes.txt").write_text("mine")
    assert find_foreign_file(tmp_path / "demo") == tmp_path / "demo" / "out" / "notes.txt"
    (tmp_path / "demo" / "out" / "notes.txt").unlink()
    with (
        lock_output(tmp_path / "demo" / "out"),
        pytest.raises(OutputLockedError, match=r"demo: another job is writing into it \(\.out\.l"),
    ):
        check_output(tmp_path / "demo", overwrite=True)
    make(tmp_path / "demo", overwrite=True)
    assert names(tmp_path / "demo") == ["tiles.json"]


def test_a_kill_while_files_are_removed_does_not_block(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with folder_output(folder) as work:
        for number in range(6):
            (work.result / f"{number}.tif").write_text("old")
    for count in range(7):
        left = iter(range(count))

        def dying(path, missing_ok=False, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            os.unlink(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dying)
            with contextlib.suppress(KeyboardInterrupt):
                remove_recorded_files(folder)
        assert find_foreign_file(folder) is None
        for number in range(6):  # as they were
            (folder / f"{number}.tif").write_text("old")


@pytest.mark.parametrize("kind", ["pipe", "lock", "old", "shp"])
def test_what_is_no_output_is_left_alone(tmp_path, kind):
    output = tmp_path / ("roads.SHP" if kind == "shp" else "a.gpkg")
    if kind == "pipe":
        os.mkfifo(output)
    elif kind == "lock":
        (tmp_path / ".a.gpkg.lock").write_text("mine")
    elif kind == "old":
        output = tmp_path / "out"
        (tmp_path / ".out.old").mkdir()
        (tmp_path / ".out.old" / "a.txt").write_text("mine")
    before = names(tmp_path)
    opened = folder_output if kind == "old" else file_output
    with pytest.raises(OutputExistsError), opened(output, overwrite=True):
        raise AssertionError("started")
    assert names(tmp_path) == before


def test_companions_that_appear_during_the_job_survive(tmp_path):
    def run():
        with file_output(tmp_path / "roads.shp") as work:
            for suffix in (".shp", ".dbf"):
                work.result.with_suffix(suffix).write_text("new")
            (tmp_path / "roads.dbf").write_text("mine")

    with pytest.raises(OutputExistsError, match=r"roads\.dbf: was created while the job ran"):
        run()
    assert (tmp_path / "roads.dbf").read_text() == "mine"
    assert not (tmp_path / "roads.shp").exists()


def test_a_file_at_the_name_of_a_folder_survives(tmp_path):
    def run():
        with folder_output(tmp_path / "out", overwrite=True) as work:
            write(work.result, "new")
            (tmp_path / "out").write_text("mine")

    with pytest.raises(OutputExistsError, match="out: is a file, but a folder is written"):
        run()
    assert (tmp_path / "out").read_text() == "mine"


def test_layers_of_others_survive_in_folders_and_during_jobs(tmp_path):
    frame = gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 1, 1)], crs=32633)
    with folder_output(tmp_path / "out") as work:
        frame.to_file(work.result / "footprints.gpkg", layer="footprints")
    frame.to_file(tmp_path / "out" / "footprints.gpkg", layer="corrections")
    with pytest.raises(OutputExistsError, match="contains the layer corrections"):
        check_output(tmp_path / "out", overwrite=True)

    def run():
        with file_output(tmp_path / "a.gpkg", overwrite=True) as work:
            frame.to_file(work.result, layer="footprints")
            frame.to_file(tmp_path / "a.gpkg", layer="roads")

    with pytest.raises(OutputExistsError, match="contains the layer roads"):
        run()
    assert gpd.list_layers(tmp_path / "a.gpkg").name.tolist() == ["roads"]


def test_a_geopackage_that_another_program_edits_is_not_replaced(tmp_path):
    frame = gpd.GeoDataFrame({"id": [1]}, geometry=[box(0, 0, 1, 1)], crs=32633)
    frame.to_file(tmp_path / "a.gpkg", layer="footprints")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.gpkg", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputExistsError, match="is open for writing in another program"):
            check_output(tmp_path / "a.gpkg", overwrite=True, is_file=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for output in (tmp_path / "loop" / "a.tif", Path("/proc/nope/a.tif")):
        with pytest.raises(OutputWriteError, match=r"a\.tif: "), file_output(output):
            raise AssertionError("started")


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    make(tmp_path / "tiles")
    (tmp_path / "tiles" / "images").mkdir()
    monkeypatch.chdir(tmp_path / "tiles" / "images")
    with (
        pytest.raises(OutputExistsError, match="contains the current folder"),
        folder_output(tmp_path / "tiles", overwrite=True),
    ):
        pass
    assert names(tmp_path / "tiles") == ["images", "tiles.json"]


@pytest.mark.parametrize("source", ["tiles/tiles.json", "tiles"])
def test_an_input_is_not_overwritten(tmp_path, source):
    write(tmp_path / "tiles", "old")
    with pytest.raises(OutputExistsError, match="contains the input"):
        check_output(tmp_path / "tiles", overwrite=True, inputs=[tmp_path / source])


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OutputExistsError, match="a is a file"):
        check_output(tmp_path / "a" / "b" / "c", overwrite=False)


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "out.gpkg").mkdir()
    assert check_output(tmp_path / "out.gpkg", overwrite=False) == tmp_path / "out.gpkg"
    with (
        pytest.raises(OutputExistsError, match=r"out\.gpkg: is a folder; name a file"),
        file_output(tmp_path / "out.gpkg", overwrite=True),
    ):
        pass
    assert names(tmp_path) == ["out.gpkg"]


def test_a_file_and_a_layer_of_several_files_get_their_names(tmp_path):
    with file_output(tmp_path / "new" / "a.tif") as work:
        work.result.write_text("raster")
        assert not (tmp_path / "new" / "a.tif").exists()
    with file_output(tmp_path / "new" / "b.shp") as work:
        for suffix in (".shp", ".dbf", ".shx"):
            work.result.with_suffix(suffix).write_text(suffix)
    assert names(tmp_path / "new") == ["a.tif", "b.dbf", "b.shp", "b.shx"]
    with (
        pytest.raises(OutputExistsError, match=r"a\.tif: already exists; .* --overwrite"),
        file_output(tmp_path / "new" / "a.tif"),
    ):
        pass


def test_a_raster_with_a_style_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"

    def make_raster(text, **options):
        with file_output(path, **options) as work:
            work.result.write_text(text)
            work.result.with_suffix(".qml").write_text(f"<!-- {STYLE_MARK} -->{text}")

    make_raster("old")
    replaced = []
    monkeypatch.setattr(Path, "unlink", lambda self, **_: replaced.append(self))
    make_raster("new", overwrite=True)
    assert path not in replaced
    assert path.read_text() == "new"
    assert path.with_suffix(".qml").read_text().endswith("new")


def test_an_output_that_is_not_found_under_its_name_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setattr("geoseg.jobs.output.move_files", lambda *_: None)
    with (
        pytest.raises(OutputExistsError, match=r"a\.tif: was written but is not there"),
        file_output(tmp_path / "a.tif") as work,
    ):
        work.result.write_text("raster")


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


# Jobs that are continued

JOB = describe_job({"size": 64}, ["a", "b"])


def interrupt(path, job, done, error=KeyboardInterrupt):
    """Run a job that finishes some tasks, leaves a file, and is interrupted."""

    def run():
        with folder_output(path, job=job) as work:
            for key in done:
                work.journal.add(key, {"of": key, "share": 0.1 + 0.2})
            write(work.result, "half")
            raise error("stop")

    with pytest.raises(error):
        run()


def test_an_interrupted_job_is_continued(tmp_path, caplog):
    path = tmp_path / "tiles"
    interrupt(path, JOB, ["a"])
    assert not path.exists()
    assert caplog.messages == []
    interrupt(path, JOB, ["b"])
    with folder_output(path, job=JOB) as work:
        assert not work.is_complete
        assert work.journal.done == {key: {"of": key, "share": 0.30000000000000004} for key in "ab"}
        assert (work.result / "tiles.json").read_text() == "half"
        write(work.result, "whole")
    assert caplog.messages == [f"{path}: continuing an interrupted job"] * 2
    assert names(path) == ["tiles.json"]
    assert names(tmp_path) == ["tiles"]


def test_another_job_starts_anew(tmp_path, caplog):
    path = tmp_path / "tiles"
    interrupt(path, JOB, ["a"])
    with folder_output(path, job=describe_job({"size": 32}, ["a", "b"])) as work:
        assert work.journal.done == {}
        assert list(work.result.iterdir()) == []
        write(work.result, "new")
    assert (path / "tiles.json").read_text() == "new"
    (message,) = caplog.messages
    assert message.endswith("had other settings or inputs; starting anew")


def test_a_refused_job_leaves_nothing(tmp_path):
    interrupt(tmp_path / "new" / "tiles", JOB, ["a"], LabelError)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", [folder_output, file_output])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_around_the_move_does_not_redo_the_job(tmp_path, kind, moment):
    path = tmp_path / "out.shp"
    child = os.fork()
    if child == 0:
        die_around_the_move(path, kind, moment)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.exists() == (moment == "after")
    assert (tmp_path / ".out.shp.partial" / Journal.NAME).is_file()
    with kind(path, job=JOB) as work:
        assert work.is_complete
        assert work.journal.done["a"] == 1
    read = path / "tiles.json" if kind is folder_output else path
    assert read.read_text() == "made once"
    assert names(tmp_path) == ["out.shp"]


def die_around_the_move(path, kind, moment):
    """Make an output, and die just before or just after it gets its name."""
    name = {
        folder_output: "_swap_folder", file_output: "move_files"
    }[kind]  # fmt: skip
    move = getattr(geoseg.jobs.output, name)

    def die(result, target):
        if moment == "after":
            move(result, target)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(geoseg.jobs.output, name, die)
    with kind(path, job=JOB) as work:
        work.journal.add("a", 1)
        target = work.result / "tiles.json" if kind is folder_output else work.result
        target.write_text("made once")


def test_a_finished_output_that_was_removed_is_made_again(tmp_path):
    child = os.fork()
    if child == 0:
        die_around_the_move(tmp_path / "out", folder_output, "after")
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    shutil.rmtree(tmp_path / "out")
    with folder_output(tmp_path / "out", job=JOB) as work:
        assert not work.is_complete
        write(work.result, "again")
    assert (tmp_path / "out" / "tiles.json").read_text() == "again"


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    make(tmp_path / "tiles")
    child = os.fork()
    if child == 0:
        rename = os.replace

        def die(source, target):
            rename(source, target)
            if str(target).endswith(".old"):
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = die
        with folder_output(tmp_path / "tiles", job=JOB, overwrite=True) as work:
            write(work.result, "new")
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "tiles").exists()
    with folder_output(tmp_path / "tiles", job=JOB, overwrite=True) as work:
        assert work.is_complete
    assert (tmp_path / "tiles" / "tiles.json").read_text() == "new"
    assert names(tmp_path) == ["tiles"]


def test_a_damaged_journal_is_no_journal(tmp_path):
    job = describe_job("anything")
    journal = Journal(tmp_path, job)
    journal.add("a", 1)
    journal.add("b", 2)
    journal.close()

    def reopen():
        journal = Journal(tmp_path, job)
        journal.close()
        return journal.done

    path = tmp_path / Journal.NAME
    assert Journal.continues(tmp_path, job)
    first, second, third = path.read_text().splitlines(keepends=True)
    path.write_text(first + second + "\0\0\n" + third)
    assert reopen() == {"a": 1}
    for damage in (b"\0\0\n", b"\xff\xfe\n"):
        path.write_bytes(damage + second.encode())
        assert not Journal.continues(tmp_path, job)
        assert reopen() == {}


# Locks


def test_a_second_job_on_the_same_output_is_refused(tmp_path):
    with folder_output(tmp_path / "out") as work:
        write(work.result, "first")
        with (
            pytest.raises(OutputLockedError, match="out: another job is writing this output; "),
            folder_output(tmp_path / "sub" / ".." / "out", overwrite=True),
        ):
            pass
    assert (tmp_path / "out" / "tiles.json").read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_the_lock_of_a_process_that_died_does_not_block(tmp_path):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with folder_output(tmp_path / "out", job=JOB):
            os.write(tell, b"x")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(OutputLockedError), folder_output(tmp_path / "out", job=JOB):
        pass
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with folder_output(tmp_path / "out", job=JOB) as work:
        write(work.result, "second")
    assert (tmp_path / "out" / "tiles.json").read_text() == "second"
    assert names(tmp_path) == ["out"]


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def unsupported(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("geoseg.jobs.lock.FileLock.acquire", unsupported)
    make(tmp_path / "out")
    assert (tmp_path / "out" / "tiles.json").exists()
    (message,) = caplog.messages
    assert message.endswith("its file system has no locks; run one job on it at a time")


def test_many_jobs_at_once_make_the_output_once(tmp_path):
    """Processes that all want the same output: each is either first, or refused."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os._exit(try_to_make(tmp_path / "new" / "out"))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [2] * 7
    assert (tmp_path / "new" / "out" / "tiles.json").read_text() == "old"
    assert names(tmp_path / "new") == ["out"]


def try_to_make(path):
    try:
        make(path)
    except (OutputLockedError, OutputExistsError):
        return 2
    except Exception:  # noqa: BLE001
        return 1
    return 0


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
    book.close()
    path = folder / Journal.NAME
    text = path.read_text()[:cut]
    path.write_text(text)
    whole = max(0, text.count("\n") - 1)
    assert Journal.continues(folder, JOB) == ("\n" in text)
    book = Journal(folder, JOB)
    assert list(book.done.items()) == list(results.items())[:whole]
    book.add("more", 1)
    book.close()
    assert Journal.has(folder, "more")


def test_what_a_killed_process_wrote_is_read_again(tmp_path):
    child = os.fork()
    if child == 0:
        book = Journal(tmp_path / "job", JOB)
        book.add("a", [1, 2.5])
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    book = Journal(tmp_path / "job", JOB)
    assert book.done == {"a": [1, 2.5]}
    book.close()


# Why something could not be written


def test_the_cause_that_the_system_names_comes_before_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(geoseg.jobs.files, "free_space", lambda _: 0)
    assert is_disk_full(OSError(errno.ENOSPC, "no space left"), tmp_path)
    assert is_disk_full(RuntimeError("a file of GDAL's is too short"), tmp_path)
    for number in (errno.EROFS, errno.EACCES, errno.EIO):
        assert not is_disk_full(OSError(number, os.strerror(number)), tmp_path)


def test_a_disk_that_does_not_report_its_size_is_not_full(tmp_path, monkeypatch):
    assert free_space(tmp_path) > 0
    assert free_space(tmp_path / "absent") == pytest.approx(free_space(tmp_path), rel=0.1)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type(usage)(0, 0, 0))
        assert free_space(tmp_path) is None
        assert not is_disk_full(RuntimeError("a file of GDAL's is too short"), tmp_path)
    if hasattr(os, "statvfs"):
        monkeypatch.setattr(geoseg.jobs.files, "_is_read_only", lambda _: True)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(100, 100, 0))
        assert not is_disk_full(RuntimeError("a file of GDAL's is too short"), tmp_path)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError(errno.EACCES, "Permission denied", "/Data/Town A.tif"),
         "/Data/Town A.tif: permission denied"),
        (OSError("/Data/Town A.tif: cannot be read"), "/Data/Town A.tif: cannot be read"),
        (OSError(errno.EIO, "Input/output error"), "input/output error"),
        (FileNotFoundError(errno.ENOENT, "No such file", b"/Data/B"), "/Data/B: no such file"),
        (OSError(), "OSError"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_names_the_path_as_it_is(error, wanted):
    assert describe_os_error(error) == wanted


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_place_where_nothing_can_be_written_is_not_called_locked():
    with (
        pytest.raises(
            OutputWriteError, match=r"/proc/Out: cannot be written \(no such file or dir"
        ),
        lock_output("/proc/Out"),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["s3://bucket/out", "gs://bucket/out.gpkg", "/vsis3/bucket/out.tif", "https://host/a"]
)
def test_outputs_on_servers_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name)):
        for is_file in (False, True):
            with pytest.raises(OutputExistsError, match="outputs are written to local disks"):
                check_output(path, overwrite=True, is_file=is_file)
    with (
        pytest.raises(OutputExistsError, match="copy it to the server afterwards"),
        folder_output(name),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
