"""What W&B wrote to a run's own files, also where it was cut short."""

from __future__ import annotations

from experiments.tracking.wandb_history import history, last_position, wandb_files
from tests.support.wandb_files import settle


def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(run, tmp_path):
    (path,) = wandb_files(run / "wandb", run.name)
    whole, data = history(path), path.read_bytes()
    last = 0
    for length in range(7, len(data), 997):
        (tmp_path / "cut.wandb").write_bytes(data[:length])
        rows = history(tmp_path / "cut.wandb")
        assert rows == whole[: len(rows)]
        assert len(rows) >= last
        last = len(rows)
    assert last_position(tmp_path / "absent", "x") == -1


def test_records_that_span_blocks_are_put_together(run, tmp_path, monkeypatch):
    """A row larger than W&B's 32 KiB blocks."""
    import wandb

    with wandb.init(project="p", id="big", dir=str(tmp_path), mode="offline", settings={"silent": True}) as wandb_run:
        for step in range(4):
            wandb_run.log({f"key_{i:05d}": step + i for i in range(3000)}, step=step)
    (path,) = wandb_files(tmp_path / "wandb", "big")
    settle(path)
    rows = history(path)
    assert [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert all(rows[step][f"key_{i:05d}"] == step + i for step in range(4) for i in (0, 1234, 2999))
