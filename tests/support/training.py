"""A tiny data set and a detector of a few thousand parameters: a training in a second or two."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import Tensor

from experiments.cli.hydra_entry import version_base
from experiments.config import schema
from tests.support.paths import ROOT

GENERATOR = (
    "data.generator.image_size=64",
    "data.generator.num_train_images=16",
    "data.generator.num_val_images=6",
    "data.generator.num_classes=3",
    "data.generator.max_objects_usual=3",
    "data.generator.max_objects=8",
    "data.generator.empty_fraction=0.2",
    "data.generator.max_object_size=48",
)
DETECTOR = (
    "hidden_dim=32",
    "num_stages=2",
    "num_proposals=6",
    "model.backbone.bottom_up.widths=[16,16,32,32]",
    "model.backbone.bottom_up.num_blocks=[0,0,0,0]",
    "scale.dim_feedforward=64",
    "scale.dim_dynamic=16",
    "scale.dim_fc=32",
)
AXES = ("num_stages", "num_proposals", "dropout")  # of which not every detector has each
TRAINING = (
    "input.train.short_sides=[64]",
    "input.train.max_long_side=96",
    "input.eval.short_side=64",
    "input.eval.max_long_side=96",
    "data.num_workers=0",
    "train.device=cpu",
    "train.batch_size=4",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "schedule.length=6",
    "optim.lr=1e-3",
    "schedule.num_warmup_steps=2",
    "schedule.warmup_factor=0.01",
    "schedule.milestones=[0.8]",
    "schedule.gamma=0.1",
    "eval.num_pictures=2",
    "log=none",
    "log.progress=false",
)
NUM_STEPS = 6


@functools.cache
def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder of this test process, removed at its end."""
    return tempfile.TemporaryDirectory(prefix="sparse_rcnn_tiny_")


@functools.cache
def data_root() -> Path:
    """The data set, made once per test process: 16 and 6 images of 64 pixels, some of them empty."""
    from experiments.config.build import build

    schema.register()
    root = Path(scratch().name) / "shapes"
    with initialize_config_dir(str(ROOT / "conf"), **version_base()):
        cfg = compose("train", overrides=list(GENERATOR))
    from omegaconf import OmegaConf

    build(OmegaConf.to_container(cfg, resolve=True), "data.generator").ensure(root)
    return root


def overrides(runs_root: Path, *extra: str) -> list[str]:
    """What makes ``experiments.train`` a tiny training under ``runs_root``."""
    return [*GENERATOR, *DETECTOR, *TRAINING, f"data.root={data_root()}", f"runs_root={runs_root}", *extra]


def coco_overrides(data: Path, runs_root: Path, *extra: str) -> list[str]:
    """The same on a copy of the data made by `copy_data`, read as any other data set."""
    return [
        "data=coco_format",
        f"data.train.annotations={data}/instances_train.json",
        f"data.train.images={data}/train",
        f"data.val.annotations={data}/instances_val.json",
        f"data.val.images={data}/val",
        *DETECTOR,
        *TRAINING,
        f"runs_root={runs_root}",
        *extra,
    ]


def copy_data(to: Path) -> Path:
    """A copy of the data set that a test may damage."""
    return Path(shutil.copytree(data_root(), to))


def break_pixels(file: Path) -> None:
    """Break the pixels in the middle of a picture and leave the ends of its file as they are."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20] = bytes(20)
    file.write_bytes(bytes(content))


def edit_json(path: Path, edit: Any) -> None:
    """Call ``edit`` on the content of a JSON file and write it back."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def composed(arguments: Sequence[str]) -> DictConfig:
    """The configuration of ``experiments.train`` with these overrides."""
    schema.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), **version_base()):
        return compose("train", overrides=list(arguments))


def train(arguments: Sequence[str]) -> Path:
    """Train in this process, on one thread as `start` does: sums round the same; returns the run directory."""
    from experiments.run.lifecycle import run

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(composed(arguments))
    finally:
        torch.set_num_threads(num_threads)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a subprocess: one thread, this checkout, no group of processes."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") and k not in ("RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}


def command(arguments: Sequence[str], driver: Path | None = None) -> list[str]:
    """The command line of a training; ``driver`` is a script to run in place of ``experiments.train``."""
    program = ["-m", "experiments.train"] if driver is None else [str(driver)]
    return [sys.executable, *program, *arguments]


def start(arguments: Sequence[str], driver: Path | None = None, **changes: str) -> subprocess.Popen[str]:
    """Start a training in a process of its own."""
    return subprocess.Popen(
        command(arguments, driver),
        cwd=ROOT,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def slow_driver(folder: Path, seconds: float) -> Path:
    """A driver whose every step waits, so that a training can be caught in its middle however fast the machine is."""
    driver = folder / "slow_driver.py"
    driver.write_text(
        "import time\n"
        "import sparse_rcnn.engine as engine\n"
        "plain = engine.training_step\n"
        f"engine.training_step = lambda *a, **k: (time.sleep({seconds}), plain(*a, **k))[1]\n"
        "from experiments.train import main\n"
        "main()\n"
    )
    return driver


def start_group(
    arguments: Sequence[str],
    num_processes: int,
    driver: Path | None = None,
    slurm: bool = False,
    **changes: str,
) -> list[subprocess.Popen[str]]:
    """Start a training in several processes, with torchrun's variables or those of a SLURM job step."""
    port = free_port()
    group = []
    for rank in range(num_processes):
        if slurm:
            variables = {
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
                "SLURM_STEP_NUM_TASKS": str(num_processes),
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_ID": "0",
                "SLURM_JOB_ID": str(port - 20000 if port >= 20000 else port),
            }
        else:
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        group.append(start(arguments, driver, **{**variables, **changes}))
    return group


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process; one that does not end is killed."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the process does not end:\n{out}\n{err}") from None
    return process.returncode, out, err


def only_run(runs_root: Path) -> Path:
    """The one run directory under a root."""
    (meta,) = runs_root.glob("*/*/meta.json")
    return meta.parent


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def results(run: Path) -> dict[str, float]:
    """The final numbers without those of a clock and the digest of all."""
    clocked = ("train/time", "train/speed", "model/speed")
    content = json.loads((run / "results.json").read_text())
    return {k: v for k, v in content.items() if not k.startswith(clocked) and k != "sha256"}


def losses(run: Path) -> dict[int, dict[str, float]]:
    """What was logged of each step's loss, gradient and learning rate; of equal steps the last line counts."""
    from sparse_rcnn.rundir.reader import Run

    return {
        event["step"]: {k: v for k, v in event["metrics"].items() if not k.startswith("train/speed")}
        for event in Run(run).events("train")
    }


def weights(path: Path) -> dict[str, Tensor]:
    from sparse_rcnn.weights import read_weights

    return read_weights(path)[0]


def newest_state(run: Path) -> dict[str, Any]:
    """The training state of the newest checkpoint."""
    newest = max((run / "checkpoints").glob("step_*"))
    return torch.load(newest / "training_state.pt", weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Bitwise equality of nested dictionaries and lists of tensors."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def leftovers(root: Path) -> list[str]:
    """Temporary files and folders anywhere under a root."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.name.endswith(".tmp"))
