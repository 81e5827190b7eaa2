"""What a run's folder keeps, and what a new run removes from it."""

from geoseg.training.checkpoints import clear_run


def test_nothing_of_an_earlier_run_is_left(tmp_path):
    files = [
        *("last.ckpt", "best.ckpt", "model.safetensors", "metrics.csv", "curves.png"),
        *("validation.png", "reliability.png", "mlflow.db"),
        *("tensorboard/events", "mlflow/1/a/log", "wandb/offline/log"),
    ]
    ground = [f"ground{rank}/{name}" for rank in ("", "_1", "_2", "_7") for name in ("image.npy",)]
    mine = ["notes.txt", "ground_truth/a.tif", "ground_plan.txt"]
    for name in (*files, *ground, *mine):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("earlier")
    clear_run(tmp_path, processes=2)
    # The second process finds out itself whether the ground is that of its tiles.
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        *mine,
        "ground_1/image.npy",
    }
