"""Tasks on Dask give what they give here, in the same order."""

import operator
import os
import signal
import threading
import time

import pytest
from distributed import LocalCluster

from geoseg.errors import ConfigError, SceneReadError
from geoseg.jobs.environment import WORKER_VARIABLE
from geoseg.jobs.workers import count_workers, run_tasks

TASKS = list(range(23))


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
    assert list(run_tasks(operator.neg, iter(TASKS), workers=2)) == [-task for task in TASKS]


def number(_):
    time.sleep(0.05)
    return os.environ[WORKER_VARIABLE]


def test_workers_know_their_numbers():
    assert set(run_tasks(number, range(12), workers=2)) == {"0", "1"}
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


def test_few_tasks_wait_at_a_time(cluster):
    given = []

    def tasks():
        for task in range(100):
            given.append(task)
            yield task

    results = run_tasks(work_any, tasks(), scheduler=cluster.scheduler_address)
    next(results)
    assert len(given) <= 2 * 4 + 1
    results.close()
    assert len(given) <= 2 * 4 + 1


def work_any(task):
    return task


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
    assert list(run_tasks(die_once, tasks, workers=2)) == list(range(6))
    assert (tmp_path / "died").exists()


def test_the_workers_of_a_scheduler_are_counted(cluster):
    workers = cluster.scheduler_info["workers"].values()
    assert count_workers(cluster.scheduler_address) == sum(one["nthreads"] for one in workers) > 1
    with pytest.raises(ConfigError, match=r"no Dask"):
        count_workers("tcp://127.0.0.1:1")
