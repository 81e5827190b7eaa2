"""The folder of a run: what it keeps, what a new run removes, and its lock."""

import pytest

from geoseg.errors import OutputExistsError, OutputLockedError
from geoseg.jobs.manifest import add_names_to_manifest, find_foreign_file
from geoseg.jobs.output import check_output, folder_output
from geoseg.training.run_folder import RunFolder, lock_run

LOGGERS = ("tensorboard", "mlflow", "wandb")
RUN = [
    *("last.ckpt", "best.ckpt", "model.safetensors", "metrics.csv", "curves.png"),
    *("validation.png", "reliability.png"),
]
LOGS = ["mlflow.db", "tensorboard/events", "mlflow/1/a/log", "wandb/offline/log"]
MOSAICS = [f"mosaic{rank}/image.npy" for rank in ("", "_1")]


def write(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("earlier")


def files(folder):
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if not path.startswith(".")}


def run_once(folder, names, processes=1):
    with lock_run(folder, LOGGERS) as run:
        run.start(processes)
        write(folder, names)


def test_a_new_run_removes_the_files_of_the_earlier_one(tmp_path):
    folder = tmp_path / "run"
    run_once(folder, [*RUN, *LOGS, *MOSAICS], processes=2)
    assert find_foreign_file(folder) is None
    check_output(folder, overwrite=True)
    with lock_run(folder, LOGGERS) as run:
        assert run.holds_run
        run.start(2)
    # The second process itself checks whether its mosaic can be used again.
    assert files(folder) == {"mosaic_1/image.npy"}


@pytest.mark.parametrize("name", ["notes.txt", "tensorboard/mine.txt", "mosaic/truth.tif"])
def test_files_of_others_in_a_run_are_kept(tmp_path, name):
    folder = tmp_path / "run"
    run_once(folder, [*RUN, *LOGS])
    write(folder, [name])
    for _ in range(2):  # a refused run makes nothing its own
        with lock_run(folder, LOGGERS):
            message = f"contains {name}, which is not part of this output"
            with pytest.raises(OutputExistsError, match=message):
                check_output(folder, overwrite=True)
    run_once(folder, [])
    assert files(folder) == {name}


def test_log_files_that_were_there_before_are_not_recorded(tmp_path):
    folder = tmp_path / "run"
    run_once(folder, RUN)
    write(folder, ["wandb/mine.db"])
    with lock_run(folder, LOGGERS) as run:  # resumed
        run.watch_logs()
        write(folder, ["wandb/new"])
    assert find_foreign_file(folder) == folder / "wandb" / "mine.db"


def test_a_killed_run_leaves_only_files_that_are_known(tmp_path):
    folder = tmp_path / "run"
    RunFolder(folder, ()).start(1)
    write(folder, ["last.ckpt", ".last.ckpt.0a1b2c3d.partial", "mosaic/image.npy"])
    assert find_foreign_file(folder) is None


def test_a_folder_without_a_record_loses_nothing(tmp_path):
    names = {*RUN, "tensorboard/events", "notes.txt"}
    write(tmp_path, names)
    assert not RunFolder(tmp_path, ()).holds_run
    with pytest.raises(OutputExistsError):
        check_output(tmp_path, overwrite=True)
    RunFolder(tmp_path, ()).start(1)
    assert files(tmp_path) == names


def test_an_output_of_another_verb_is_no_run(tmp_path):
    with folder_output(tmp_path / "out") as work:
        write(work.result, ["prob.tif"])
    assert not RunFolder(tmp_path / "out", ()).holds_run
    add_names_to_manifest(tmp_path / "out", ["last.ckpt"])
    assert RunFolder(tmp_path / "out", ()).holds_run


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        lock_run(tmp_path / "run"),
        pytest.raises(OutputLockedError, match="another job is writing"),
        lock_run(tmp_path / "run"),
    ):
        pass
