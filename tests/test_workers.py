"""Tasks give the same results on every kind of workers, in the same order."""

import json
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from geoseg.errors import ConfigError, SceneReadError, WorkerLostError
from geoseg.jobs.local_processes import WORKER_VARIABLE
from geoseg.jobs.pool import Failure, Success
from geoseg.jobs.workers import Workers, count_cores

TASKS = list(range(23))


def run_tasks(function, tasks, **settings):
    with Workers(**settings).open() as pool:
        yield from pool.map(function, tasks)


def work(task):
    """Slower for earlier tasks, so that they finish out of order."""
    threading.Event().wait(0.002 * (23 - task) / 23)
    return task**2, f"task {task}"


def fail(task):
    if task == 3:
        raise SceneReadError("a.tif: cannot read rows 0-5; copy it again")
    return task


def who(_):
    return os.getpid()


@pytest.fixture(scope="module")
def cluster():
    """A scheduler with two workers in threads: quick to start."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster


def test_one_worker_runs_here_and_lazily():
    started = []

    def tasks():
        for task in TASKS:
            started.append(task)
            yield task

    results = run_tasks(work, tasks())
    assert started == []
    assert next(results) == (0, "task 0")
    assert started == [0]
    assert list(results) == [work(task) for task in TASKS[1:]]
    assert set(run_tasks(who, TASKS)) == {os.getpid()}


def test_local_processes_give_the_same_in_the_same_order():
    assert list(run_tasks(operator.neg, iter(TASKS), processes=2)) == [-task for task in TASKS]


def number(_):
    time.sleep(0.05)
    return os.environ[WORKER_VARIABLE]


def test_workers_know_their_numbers():
    assert set(run_tasks(number, range(12), processes=2)) == {"0", "1"}
    assert WORKER_VARIABLE not in os.environ


def test_a_scheduler_gives_the_same_in_the_same_order(cluster):
    address = cluster.scheduler_address
    assert list(run_tasks(work, TASKS, scheduler=address)) == list(run_tasks(work, TASKS))
    assert list(run_tasks(work, [], scheduler=address)) == []
    assert cluster.status.name == "running"


def test_a_task_is_run_each_time_it_is_given(cluster):
    calls = []
    done = list(run_tasks(calls.append, [1, 1, 1], scheduler=cluster.scheduler_address))
    assert len(done) == 3


@pytest.mark.parametrize("dask", [False, True])
def test_few_tasks_wait_at_a_time(cluster, dask):
    given = []

    def tasks():
        for task in range(100):
            given.append(task)
            yield task

    settings = {"scheduler": cluster.scheduler_address} if dask else {"processes": 2}
    results = run_tasks(work_any, tasks(), **settings)
    next(results)
    assert len(given) <= 2 * 4 + 1
    results.close()
    assert len(given) <= 2 * 4 + 1


def work_any(task):
    return task


def test_tasks_are_cancelled_when_the_caller_needs_no_more(cluster):
    begun = []

    def begin(task):
        begun.append(task)
        time.sleep(0.3)

    results = run_tasks(begin, range(40), scheduler=cluster.scheduler_address)
    next(results)
    results.close()
    at_the_end = len(begun)
    time.sleep(1)
    assert at_the_end <= len(begun) <= 2 + 2 + 1  # finished, running, and perhaps one in between


def has_loaded(name):
    return name in sys.modules


def test_local_processes_load_modules_before_they_start():
    names = ["wave", "mailbox"]  # that nothing here imports
    with Workers(processes=2).open(has_loaded, preload=["wave"]) as pool:
        assert list(pool.map(has_loaded, names)) == [sys.platform == "linux", False]


@pytest.mark.parametrize("dask", [False, True])
def test_an_error_of_a_task_is_raised_as_it_is(cluster, dask):
    address = cluster.scheduler_address if dask else None
    results = run_tasks(fail, TASKS, scheduler=address)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SceneReadError, match=r"^a\.tif: cannot read rows 0-5; copy it again$"):
        next(results)


def test_a_scheduler_that_does_not_answer(monkeypatch):
    import distributed

    def refused(*_, **__):
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", refused)
    with pytest.raises(ConfigError, match=r"--scheduler tcp://10\.0\.0\.1:8786: no Dask"):
        list(run_tasks(work, TASKS, scheduler="tcp://10.0.0.1:8786"))


def test_an_address_that_is_none():
    with pytest.raises(ConfigError, match="no Dask scheduler answers there"):
        list(run_tasks(work, TASKS, scheduler="carrier-pigeon://loft"))


def die_once(task):
    """Kills its process the first time that it is called."""
    marker, number = task
    if number == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_tasks_of_a_worker_that_dies_are_done_again(tmp_path):
    tasks = [(tmp_path / "died", number) for number in range(6)]
    assert list(run_tasks(die_once, tasks, processes=2)) == list(range(6))
    assert (tmp_path / "died").exists()


def die(task):
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_task_that_kills_its_workers_is_a_failure():
    with Workers(processes=2).open() as pool:
        outcomes = list(pool.outcomes(die, range(4)))
    assert [type(outcome) for outcome in outcomes] == [Success, Success, Failure, Success]
    assert [outcome.value for outcome in outcomes if isinstance(outcome, Success)] == [0, 1, 3]
    assert "lack of memory; use fewer --workers" in str(outcomes[2].error)
    with pytest.raises(WorkerLostError, match="died several times"):
        list(run_tasks(die, range(4), processes=2))


def test_local_processes_leave_the_process_as_it_was():
    code = """
import logging, os, threading
from multiprocessing import active_children, forkserver
from geoseg.jobs.workers import Workers

def state():
    threads = sorted(one.name for one in threading.enumerate())
    server = forkserver._forkserver
    return (
        dict(os.environ), sorted(logging.root.manager.loggerDict), threads,
        server._preload_modules, server._forkserver_pid, active_children(),
    )

if __name__ == "__main__":
    before = state()
    with Workers(processes=2).open() as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    for one, other in zip(before, state(), strict=True):
        assert one == other, (one, other)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ENVIRONMENT = """
import multiprocessing, os, sys
from geoseg.jobs import local_processes
from geoseg.jobs.workers import Workers

def read(name):
    return os.environ.get(name), name in open("/proc/self/environ").read()

start = local_processes._Process

def fail(context, number):
    if number:
        raise OSError("no more processes")
    return start(context, number)

if __name__ == "__main__":
    if "own server" in sys.argv:
        process = multiprocessing.get_context("forkserver").Process(target=print)
        process.start()
        process.join()
    for value in ("1", "2"):
        os.environ["CHANGED"] = value
        with Workers(processes=2).open() as pool:
            read_by_workers = list(pool.map(read, ["CHANGED", "MALLOC_TRIM_THRESHOLD_"]))
        assert read_by_workers[0] == (value, True), read_by_workers
        assert read_by_workers[1][1], read_by_workers
    local_processes._Process = fail
    try:
        with Workers(processes=2).open():
            pass
    except OSError as error:
        print(error, flush=True)
        os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("arguments", [[], ["own server"]])
def test_local_workers_have_the_present_environment_and_may_fail_to_start(tmp_path, arguments):
    (tmp_path / "code.py").write_text(ENVIRONMENT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "code.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("no more processes\n")


def die_beside(task):
    """Kills its process after the task of the other worker has begun."""
    if task == 0:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.4)
    return task


def test_tasks_beside_one_that_kills_its_workers_succeed():
    with Workers(processes=2).open() as pool:
        outcomes = list(pool.outcomes(die_beside, range(8)))
    assert [type(outcome) for outcome in outcomes] == [Failure] + [Success] * 7


def test_a_cluster_gives_up_a_task_that_kills_its_workers():
    # Dask blames all tasks on a worker that dies; here it gives them up at the first time.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Workers(scheduler=cluster.scheduler_address).open() as pool,
    ):
        outcomes = list(pool.outcomes(die_beside, range(8)))
    assert [type(outcome) for outcome in outcomes] == [Failure] + [Success] * 7


def wait_long(path):
    path.write_text(str(os.getpid()))
    time.sleep(60)


def fail_beside(path):
    """Fails as the first task, after the other one has begun, which takes long."""
    if path.name == "second":
        wait_long(path)
    while not path.with_name("second").exists():
        time.sleep(0.01)
    raise SceneReadError("enough")


def test_processes_end_with_an_error(tmp_path):
    begun = time.monotonic()
    with pytest.raises(SceneReadError, match="enough"):
        list(run_tasks(fail_beside, [tmp_path / "first", tmp_path / "second"], processes=2))
    assert time.monotonic() - begun < 30
    assert not psutil.pid_exists(int((tmp_path / "second").read_text()))


ORPHANS = """
import os, signal, sys, threading, time
from pathlib import Path
from geoseg.jobs.workers import Workers
from test_workers import wait_long

if __name__ == "__main__":
    path = Path(sys.argv[1])
    with Workers(processes=2).open(wait_long) as pool:
        tasks = [path / "a", path / "b"]
        threading.Thread(target=list, args=(pool.outcomes(wait_long, tasks),), daemon=True).start()
        while not all(task.exists() and task.read_text() for task in tasks):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = tmp_path / "orphans.py"
    code.write_text(ORPHANS)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, str(code), str(tmp_path)], check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    processes = [int((tmp_path / name).read_text()) for name in "ab"]
    for _ in range(500):
        if not any(map(psutil.pid_exists, processes)):
            return
        time.sleep(0.01)
    pytest.fail("processes are left")


def raise_odd(_):
    class OddError(Exception):
        pass

    raise OddError("cannot be pickled")


def test_an_error_that_cannot_travel_is_raised_with_its_name():
    with pytest.raises(RuntimeError, match=r"^OddError: cannot be pickled$"):
        list(run_tasks(raise_odd, [1], processes=2))


def test_an_error_of_another_process_tells_where_it_was_raised():
    with pytest.raises(SceneReadError) as caught:
        list(run_tasks(fail, TASKS, processes=2))
    assert "in fail" in caught.value.__notes__[0]


def test_a_script_without_a_guard_gets_a_clear_error(tmp_path):
    (tmp_path / "script.py").write_text(
        "from geoseg.jobs.workers import Workers\n"
        "with Workers(processes=2).open() as pool:\n"
        "    print(list(pool.map(abs, [-1])))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "worker processes end as soon as they start; in a script, call geoseg under if" in last


def test_the_size_of_a_pool_is_that_of_the_cluster(cluster):
    workers = cluster.scheduler_info["workers"].values()
    with Workers(scheduler=cluster.scheduler_address).open() as pool:
        assert pool.size == sum(one["nthreads"] for one in workers) > 1
        assert not pool.is_serial
    with Workers(1, scheduler=cluster.scheduler_address).open() as pool:
        assert pool.size == 1


def test_a_scheduler_file_stands_for_its_address(cluster, tmp_path):
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"address": cluster.scheduler_address}))
    assert list(run_tasks(work_any, TASKS, scheduler_file=str(path))) == TASKS


def test_a_connected_client_is_used_and_left_open(cluster):
    with Client(cluster) as client:
        assert list(run_tasks(work_any, TASKS, client=client)) == TASKS
        assert client.status == "running"


@pytest.mark.parametrize("cores", [1, 2, 5, 16, 64])
def test_processes_times_threads_never_exceed_the_cores(monkeypatch, cores):
    monkeypatch.setattr("geoseg.jobs.workers.count_cores", lambda: cores)
    for processes in (None, 1, 2, 3, 7, 100):
        for threads in (None, 1, 2, 16, 1000):
            workers = Workers(processes, threads)
            assert 1 <= workers.local_processes * workers.local_threads <= cores
            assert workers.single().local_processes == 1
            assert workers.single().local_threads == workers.local_threads
    assert Workers().local_threads == cores
    assert Workers(processes=2).local_threads == max(1, cores // 2)
    assert Workers(scheduler="tcp://a:1").local_threads == 1
    assert Workers().with_default_processes(3).local_processes == min(3, cores)
    assert Workers(processes=1).with_default_processes(3).local_processes == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0}, "processes is 0; give 1 or more"),
        ({"threads": -1}, "threads is -1; give 1 or more"),
        ({"max_memory_gb": 0}, "--max-memory: 0 GB is too little"),
        ({"scheduler": "tcp://a:1", "scheduler_file": "a.json"}, "give one of them"),
        ({"tls_ca": "ca.pem"}, "apply only to a Dask cluster"),
    ],
)
def test_workers_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Workers(**settings)


def test_an_encrypted_cluster_is_reached_with_certificates(tmp_path):
    pytest.importorskip("cryptography", reason="makes the certificates")
    security = Security.temporary()
    files = {}
    for name, text in (
        ("ca", security.tls_ca_file), ("cert", security.tls_client_cert),
        ("key", security.tls_client_key),
    ):  # fmt: skip
        files[f"tls_{name}"] = str(tmp_path / f"{name}.pem")
        (tmp_path / f"{name}.pem").write_text(text)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0",
        security=security, protocol="tls://",
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        assert list(run_tasks(work_any, TASKS, scheduler=address, **files)) == TASKS
        with pytest.raises(ConfigError, match="no Dask scheduler answers there"):
            list(run_tasks(work_any, TASKS, scheduler=address))


def test_no_more_processes_than_cores_are_started(caplog):
    with Workers(processes=count_cores() + 1).open() as pool:
        assert pool.size == count_cores()
    messages = [record.getMessage() for record in caplog.records if "geoseg" in record.name]
    assert len(messages) == 1
    assert messages[0].startswith(f"--workers {count_cores() + 1}: this machine has ")
