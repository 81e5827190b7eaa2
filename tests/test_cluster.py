"""Dask clusters of separate processes: checks at the start, encryption, resources, kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from scene_parts import cut_scene
from small_models import DEEPGLOBE, make_model

import geoseg
from geoseg.errors import ConfigError
from geoseg.options import PredictOptions
from geoseg.town import build_town, write_town

DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]
SEED = 7


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Six overlapping scenes and a model."""
    folder = tmp_path_factory.mktemp("town")
    scene, _ = write_town(build_town(260, 330, seed=4, gsd_m=0.5), folder)
    model = make_model(folder / "model.safetensors", DEEPGLOBE)
    columns = [(0, 120), (100, 240), (220, 330)]
    return cut_scene(scene, folder / "parts", [(0, 150), (130, 260)], columns), model


def predict(town, output, workers, **options):
    scenes, model = town
    options = PredictOptions(device="cpu", batch_size=2, block_rows=1, **options)
    return geoseg.predict(
        scenes, output, model=model, options=options, workers=workers,
        vectorize=geoseg.VectorizeOptions(body=0.45), overwrite=True,
    )  # fmt: skip


def rasters_of(folder):
    return {
        path.name: path.read_bytes()
        for pattern in ("*.vrt", "scenes/*.tif")
        for path in folder.glob(pattern)
    }


@pytest.fixture(scope="module")
def expected(town, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "out"
    result = predict(town, folder, geoseg.Workers())
    return rasters_of(folder), result.footprints.geometry.to_wkb().tolist()


@contextmanager
def started(*commands, log, **environment):
    """Run commands until the block ends; yields the processes."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    with log.open("ab") as sink:
        processes = [
            subprocess.Popen(command, stdout=sink, stderr=sink, env=variables)
            for command in commands
        ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for_file(path):
    for _ in range(600):
        if path.exists() and path.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"{path} does not appear")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    pytest.importorskip("cryptography", reason="makes the certificates")
    folder, security = tmp_path_factory.mktemp("tls"), Security.temporary()
    texts = {
        "ca": security.tls_ca_file, "cert": security.tls_client_cert,
        "key": security.tls_client_key,
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.pem").write_text(text)
    return {name: str(folder / f"{name}.pem") for name in texts}


def test_four_encrypted_workers_of_which_two_have_a_gpu(
    town, expected, certificates, tmp_path, caplog
):
    """Fake GPUs: tasks of a network go only to workers with the resource."""
    tls = [f"--tls-{'ca-file' if name == 'ca' else name}={path}" for name, path in
           certificates.items()]  # fmt: skip
    file = tmp_path / "scheduler.json"
    scheduler = [*DASK, "--scheduler-file", str(file), "--protocol", "tls", "--port", "0",
                 "--dashboard-address", ":0", "--host", "127.0.0.1", *tls]  # fmt: skip
    worker = [*WORKER, "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny",
              "--no-dashboard", "--local-directory", str(tmp_path), *tls]  # fmt: skip
    workers = geoseg.Workers(
        scheduler_file=str(file), resources={"GPU": 1},
        **{f"tls_{name}": path for name, path in certificates.items()},
    )  # fmt: skip
    with started(scheduler, log=tmp_path / "log"):
        wait_for_file(file)
        gpus = [[*worker, "--name", f"gpu{n}", "--resources", "GPU=1"] for n in range(2)]
        others = [[*worker, "--name", f"cpu{n}"] for n in range(2)]
        with started(*gpus, *others, log=tmp_path / "log"):
            security = Security(
                require_encryption=True, tls_ca_file=certificates["ca"],
                tls_client_cert=certificates["cert"], tls_client_key=certificates["key"],
            )  # fmt: skip
            with Client(scheduler_file=str(file), security=security) as client:
                client.wait_for_workers(4, timeout=60)
                predict(town, tmp_path / "out", workers)
                computed = dict(client.run(list_computed).values())
    assert rasters_of(tmp_path / "out") == expected[0]
    assert "computing on a Dask cluster with 4 threads; its dashboard is at http" in caplog.text
    assert set(computed) == {"gpu0", "gpu1", "cpu0", "cpu1"}
    counts = Counter(
        (name[:3], function) for name, functions in computed.items() for function in functions
    )
    assert counts["gpu", "choose_batch"] == 1
    assert not counts["cpu", "choose_batch"]
    # Blocks of tiles need a GPU, rasters of scenes do not.
    blocks, scenes = 6, 6
    assert counts["gpu", "run_task"] >= blocks
    assert counts["cpu", "run_task"] <= scenes
    assert counts["gpu", "run_task"] + counts["cpu", "run_task"] == blocks + scenes


def list_computed(dask_worker):
    """Return the name of a worker and the functions of the tasks that it computed."""
    log = list(dask_worker.state.log)
    keys = {entry[0] for entry in log if entry[1:3] == ("executing", "memory")}
    return dask_worker.name, [str(key).partition("-")[0] for key in keys]


def test_workers_that_cannot_take_part_are_named(town, tmp_path, monkeypatch):
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        workers = geoseg.Workers(scheduler=cluster.scheduler_address)
        names = "|".join(worker.address for worker in cluster.workers.values())
        with monkeypatch.context() as patch:
            patch.setattr("geoseg.jobs.dask_cluster.__version__", "9.9")
            with pytest.raises(ConfigError, match=rf"^worker ({names}): has geoseg \S+, but this "
                               r"is geoseg 9\.9; install the same version on all"):  # fmt: skip
                predict(town, tmp_path / "out", workers)
        with monkeypatch.context() as patch:
            patch.setattr("geoseg.jobs.dask_cluster.resolve_name", raise_import_error)
            with pytest.raises(ConfigError, match=rf"^worker ({names}): cannot import geoseg \(no "
                               r"such module\); install geoseg"):  # fmt: skip
                predict(town, tmp_path / "out", workers)
        for find, seen in ((first_path, town[0] / "00.tif"), (last_path, tmp_path / ".out")):
            with monkeypatch.context() as patch:
                patch.setattr("geoseg.jobs.dask_cluster.find_missing", find)
                with pytest.raises(ConfigError, match=rf"^worker ({names}): does not see {seen}"):
                    predict(town, tmp_path / "out", workers)
        assert sorted(path.name for path in tmp_path.iterdir() if "lock" not in path.name) == []


def raise_import_error(_):
    raise ImportError("no such module")


def first_path(paths):
    return paths[0]


def last_path(paths):
    return paths[-1]


def test_resources_are_read(tmp_path):
    from geoseg.cli.options import parse_resources

    assert parse_resources(None) is None
    assert parse_resources("GPU=1") == {"GPU": 1}
    assert parse_resources("GPU=2, MEMORY=8e9") == {"GPU": 2, "MEMORY": 8e9}
    for text in ("GPU", "GPU=", "=1", "GPU=x", "GPU=1,,B=2", "GPU=1,"):
        with pytest.raises(ConfigError, match="--resources"):
            parse_resources(text)
    with pytest.raises(ConfigError, match="apply only to a Dask cluster"):
        geoseg.Workers(resources={"GPU": 1})


CLIENT = """
import sys
import geoseg
from geoseg.options import PredictOptions
if __name__ == "__main__":
    scenes, model, output, scheduler = sys.argv[1:]
    geoseg.predict(
        scenes, output, model=model, workers=geoseg.Workers(scheduler_file=scheduler),
        options=PredictOptions(device="cpu", batch_size=2, block_rows=1),
        vectorize=geoseg.VectorizeOptions(body=0.45), overwrite=True,
    )
"""


@pytest.mark.slow  # each kill costs the start of a cluster
@pytest.mark.parametrize("kills", [int(os.environ.get("GEOSEG_KILLS", "10"))])
def test_a_job_goes_on_after_kills_of_workers_scheduler_and_client(town, expected, tmp_path, kills):
    chance = random.Random(SEED)
    (tmp_path / "client.py").write_text(CLIENT)
    killed = []
    for attempt in range(4 * kills):
        victim = ("worker", "scheduler", "client")[attempt % 3]
        delay = chance.uniform(0, 6) if len(killed) < kills else None
        if run_once(town, tmp_path, victim, delay) and len(killed) >= kills:
            break
        killed.append(victim)
        if (tmp_path / "out").exists():  # it was finished before the kill
            for name, content in expected[0].items():
                assert rasters_of(tmp_path / "out")[name] == content
            killed.pop()
            (tmp_path / "out").rename(tmp_path / f"done_{attempt}")
    assert len(killed) >= kills
    found = rasters_of(tmp_path / "out")
    assert found == expected[0]


def run_once(town, folder, victim, delay):
    """Run the job on a new cluster, and kill something after some seconds.

    Returns:
        Whether the job succeeded.
    """
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    scheduler = [*DASK, "--scheduler-file", str(file), "--port", "0", "--dashboard-address", ":0",
                 "--host", "127.0.0.1"]  # fmt: skip
    worker = [*WORKER, "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard",
              "--no-nanny", "--local-directory", str(folder)]  # fmt: skip
    client = [sys.executable, str(folder / "client.py"), *map(str, town), str(folder / "out"),
              str(file)]  # fmt: skip
    log = folder / "log"
    with started(scheduler, log=log) as (first,):
        wait_for_file(file)
        with (
            started(worker, worker, log=log) as workers,
            started(client, log=log, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="3s") as (job,),
        ):
            if delay is not None:
                time.sleep(delay)
                victims = {"worker": workers[0], "scheduler": first, "client": job}
                victims[victim].send_signal(signal.SIGKILL)
            try:
                return job.wait(60) == 0
            except subprocess.TimeoutExpired:
                return False
