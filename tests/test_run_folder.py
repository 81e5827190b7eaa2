"""The folder of a run: what it keeps, what a new run removes, and its lock."""

import pytest

from geoseg.errors import OutputExistsError, OutputLockedError
from geoseg.jobs.manifest import find_foreign_file
from geoseg.jobs.output import check_output
from geoseg.training.run_folder import lock_run, start_run

RUN = [
    *("last.ckpt", "best.ckpt", "model.safetensors", "metrics.csv", "curves.png"),
    *("validation.png", "reliability.png"),
]
LOGS = ["mlflow.db", "tensorboard/events", "mlflow/1/a/log", "wandb/offline/log"]
MOSAICS = [f"ground{rank}/image.npy" for rank in ("", "_1")]


def write(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("earlier")


def files(folder):
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {path for path in paths if not path.startswith(".")}


def test_a_new_run_removes_the_files_of_the_earlier_one(tmp_path):
    run = tmp_path / "run"
    with lock_run(run):
        start_run(run, processes=2)
        write(run, [*RUN, *LOGS, *MOSAICS])
    assert find_foreign_file(run) is None
    with lock_run(run):
        check_output(run, overwrite=True)
        start_run(run, processes=2)
    # The second process itself checks whether its mosaic can be used again.
    assert files(run) == {"ground_1/image.npy"}


@pytest.mark.parametrize("name", ["notes.txt", "tensorboard/mine.txt", "ground/truth.tif"])
def test_files_of_others_in_a_run_are_kept(tmp_path, name):
    run = tmp_path / "run"
    with lock_run(run):
        start_run(run, processes=1)
        write(run, [*RUN, *LOGS])
    write(run, [name])
    with pytest.raises(OutputExistsError, match=f"contains {name}, which geoseg did not write"):
        check_output(run, overwrite=True)
    start_run(run, processes=1)
    assert files(run) == {name}


def test_a_killed_run_leaves_only_files_that_are_known(tmp_path):
    run = tmp_path / "run"
    start_run(run, processes=1)
    write(run, ["last.ckpt", "metrics.csv", "ground/image.npy"])
    assert find_foreign_file(run) is None


def test_a_run_without_a_record_keeps_all_but_the_names_of_a_run(tmp_path):
    write(tmp_path, [*RUN, "tensorboard/events", "notes.txt"])
    start_run(tmp_path, processes=1)
    assert files(tmp_path) == {"tensorboard/events", "notes.txt"}


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        lock_run(tmp_path / "run"),
        pytest.raises(OutputLockedError, match="another job is writing"),
        lock_run(tmp_path / "run"),
    ):
        pass
