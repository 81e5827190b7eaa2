"""Batch sizes: found within the free memory of a device, and halved for the whole job."""

import pytest
import torch
from small_models import PIXELWISE, make_model

from geoseg.api.predict import predict
from geoseg.errors import ConfigError
from geoseg.jobs.workers import Workers
from geoseg.options import PredictOptions
from geoseg.prediction import blocks
from geoseg.prediction.batch_choice import BatchMemoryError, cpu_batch_size, find_batch_size
from geoseg.town import build_town, write_town

GB = 10**9


class FakeMemory:
    """A device on which the network takes `fixed` bytes and each tile `each` bytes."""

    def __init__(self, free, each, fixed=0, limit=None):
        self.free, self.each, self.fixed = free, each, fixed
        self.limit = free if limit is None else limit
        self.tried, self.released = [], 0

    def predict(self, count):
        self.tried.append(count)
        self.used = self.fixed + count * self.each
        if self.used > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def available(self):
        return self.free

    def peak(self, run):
        run()
        return self.used

    def allocated(self):
        return 0

    def release(self):
        self.released += 1


@pytest.mark.parametrize(
    ("free", "each", "fixed", "size", "tried"),
    [
        (10 * GB, GB, 0, 4, [1, 3, 4]),  # 0.6 of the free memory holds 6 tiles
        (1000 * GB, GB, 0, 64, [1, 3, 64]),
        (10 * GB, GB, 3 * GB, 2, [1, 3, 2]),
        (10 * GB, 4 * GB, 0, 1, [1, 3, 1]),  # the trial of three tiles does not fit
    ],
)
def test_a_batch_size_is_found_by_the_free_memory(free, each, fixed, size, tried):
    memory = FakeMemory(free, each, fixed)
    assert find_batch_size(memory.predict, memory) == size
    assert memory.tried == tried


def test_a_batch_size_that_fails_the_full_trial_is_halved():
    # Workspaces of larger batches can take more than in proportion.
    memory = FakeMemory(100 * GB, GB, limit=9 * GB)
    assert find_batch_size(memory.predict, memory) == 8
    assert memory.tried == [1, 3, 32, 16, 8]
    assert memory.released == 2


def test_one_tile_that_does_not_fit_is_refused():
    memory = FakeMemory(GB, 2 * GB)
    with pytest.raises(ConfigError, match="not even one tile fits into memory; use a smaller"):
        find_batch_size(memory.predict, memory)


def test_other_errors_of_the_trial_are_not_hidden():
    def fail(count):
        raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="no kernel"):
        find_batch_size(fail, FakeMemory(GB, 1))


def test_the_batch_size_on_a_cpu_depends_on_the_tile_size_alone():
    assert [cpu_batch_size(size) for size in (64, 256, 512, 1024)] == [64, 4, 1, 1]


# Batches that do not fit later


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", PIXELWISE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path, _ = write_town(build_town(190, 260, seed=3, gsd_m=0.5), tmp_path_factory.mktemp("town"))
    return path


@pytest.fixture
def small_device(monkeypatch):
    """A predictor on whose device only a number of tiles fits, and whose bytes show that number.

    Returns:
        The sizes of the batches that were predicted.
    """
    load, sizes = blocks._load_predictor.__wrapped__, []

    def make(most, after=0):
        def load_small(*key):
            predictor = load(*key)
            whole = predictor.predict

            def predict(data, valid):
                sizes.append(len(data))
                if len(data) > most and len(sizes) > after:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return whole(data, valid) * (1 - 0.01 * len(data))

            predictor.predict = predict
            return predictor

        monkeypatch.setattr(blocks, "_load_predictor", load_small)
        blocks._measure_activations.cache_clear()
        return sizes

    yield make
    blocks._measure_activations.cache_clear()


def predict_bytes(scene, model, path, batch_size, **arguments):
    options = PredictOptions(device="cpu", batch_size=batch_size, floats=True)
    predict(scene, path, model=model, options=options, **arguments)
    return path.read_bytes()


@pytest.mark.parametrize("workers", [None, Workers(threads=1)])
def test_a_batch_that_does_not_fit_is_halved_for_the_whole_job(
    scene, model, small_device, tmp_path, caplog, workers
):
    small_device(99)
    wanted = predict_bytes(scene, model, tmp_path / "wanted.tif", 2)
    assert wanted != predict_bytes(scene, model, tmp_path / "other.tif", 8)
    # Strips of the batch size 8 are finished before a batch does not fit.
    small_device(2, after=14)
    found = predict_bytes(scene, model, tmp_path / "found.tif", 8, workers=workers)
    assert found == wanted
    assert "8 tiles do not fit into memory; starting again with 4" in caplog.text
    assert "4 tiles do not fit into memory; starting again with 2" in caplog.text


def test_a_resumed_job_keeps_the_halved_batch_size(scene, model, small_device, tmp_path):
    small_device(99)
    wanted = predict_bytes(scene, model, tmp_path / "wanted.tif", 4)
    sizes = small_device(4)

    class Stopped(BaseException):
        pass

    def stop_after_halving(done, total, what):
        if sizes[-1] == 4 and done > total / 2:
            raise Stopped

    with pytest.raises(Stopped):
        predict_bytes(scene, model, tmp_path / "prob.tif", 8, progress=stop_after_halving)
    # Now larger batches would fit, but finished strips have been predicted by smaller ones.
    sizes = small_device(99)
    sizes.clear()
    assert predict_bytes(scene, model, tmp_path / "prob.tif", 8) == wanted
    assert set(sizes) == {4}


def test_one_tile_that_does_not_fit_later_is_refused(scene, model, small_device, tmp_path):
    small_device(0)
    with pytest.raises(ConfigError, match="not even one tile fits into memory"):
        predict_bytes(scene, model, tmp_path / "prob.tif", 2)


def test_running_out_of_memory_restores_the_number_of_threads(scene, model, monkeypatch, tmp_path):
    torch.set_num_threads(2)

    def fail(predictor, data, valid):
        raise BatchMemoryError("a batch of 1 tiles does not fit into memory")

    monkeypatch.setattr(blocks, "_predict_batch", fail)
    try:
        with pytest.raises(ConfigError) as caught:
            predict_bytes(scene, model, tmp_path / "prob.tif", 1)
        # The traceback that is still referenced must not keep the state alive.
        assert caught.value.__cause__ is not None
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
