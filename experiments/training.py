"""One training run from its configuration to its results, in a directory of its own."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.build import (
    INJECTED,
    build,
    build_datasets,
    build_model,
    check_batch_size,
    dry_build,
    set_num_classes,
)
from experiments.config import validate
from experiments.content import run_identity_of
from experiments.deviations import deviations
from experiments.names import add_names, tell_names
from experiments.naming import init_world_on, naming, naming_rates
from experiments.requeue import is_requeued, leave_to_scheduler, wait_for_loss_of_node
from experiments.session import Session
from experiments.summary import print_summary
from sparse_rcnn import architecture
from sparse_rcnn.allocator import keep_freed_memory
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.distributed import PeerError, World, lost_peers
from sparse_rcnn.errors import UserError
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.rng import seed_everything
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.writer import RunDirectory


def run(cfg: DictConfig) -> Path:
    """Train what a composed configuration describes, or skip it where it is finished; returns its directory."""
    config = validate(cfg, INJECTED)
    dry_build(config)
    world = init_world_on(config["train"]["device"], "train.device")
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        return _run(config, world)
    except Interrupted as stopped:
        if world.is_main:
            print(str(stopped), file=sys.stderr)
        leave_to_scheduler(stopped)
        sys.exit(128 + (stopped.signal_number or signal.SIGTERM))
    except PeerError as error:
        # A process that fails says why itself. One that is gone cannot: then rank 0 does, and a launcher hears rank 0
        # alone.
        if error.rank is None:
            wait_for_loss_of_node()
        if world.is_main and (error.rank is None or _is_job_of_sweep()):
            raise UserError(str(error)) from error
        sys.exit(1)
    finally:
        world.close()


def _is_job_of_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _run(config: dict[str, Any], world: World) -> Path:
    with lost_peers():
        with world.together():
            check_batch_size(config, world.size)
            if world.is_main:
                ensure_data(config)
        with world.together():
            identity = run_identity_of(config)
        if (finished := _find_finished(config, identity, world)) is not None:
            return _skip(finished, config, world)
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        return _train(config, identity, overrides, world)


def _skip(finished: Path, config: dict[str, Any], world: World) -> Path:
    if world.is_main:
        print(f"{finished} is finished; nothing to do")
        print_summary(finished)
        add_names(finished, [config])
        if config["log"]["writers"]:  # and not log=none
            tell_names([finished])
    return finished


def _find_finished(config: dict[str, Any], identity: str, world: World) -> Path | None:
    """The directory of this run where it is finished: as rank 0 sees it, a file may reach other hosts late."""
    finished = None
    with world.together():
        if world.is_main:
            found = RunDirectory.find(config["runs_root"], identity, config["seed"])
            finished = found if found is not None and RunDirectory(found).is_finished else None
    return world.broadcast(finished)


def ensure_data(config: dict[str, Any], trusted_modules: Sequence[str] | None = None) -> None:
    """Make the embedded data where the configuration has a generator and the data is not there yet.

    Args:
        config: the user's own, or that of a run directory, which may come from anywhere.
        trusted_modules: of a run directory, the only ones whose classes are built.

    Raises:
        CheckpointError: the generator is of another module.
    """
    if config["data"]["generator"] is None:
        return
    root = Path(config["data"]["root"])
    if trusted_modules is None:
        generator = build(config, "data.generator")
    else:
        generator = architecture.build(config["data"]["generator"], trusted_modules, "data.generator")
    if not root.exists():
        print(f"making the data set {config['data']['name']} in {root}", file=sys.stderr)
    with naming("data.root"):
        generator.ensure(root)


def _train(config: dict[str, Any], identity: str, overrides: list[str], world: World) -> Path:
    # Wrong data and weights come to light before the run directory exists: a mistake leaves nothing behind.
    with world.together():
        train_set, val_set = build_datasets(config)
        set_num_classes(config, train_set.num_classes)
        seed_everything(config["seed"])  # the same on every rank: they build the same model
        model = build_model(config, train_set)
    with ExitStack() as stack:
        directory = None
        with world.together():
            if world.is_main:
                meta = _meta(config, train_set, val_set, world)
                directory = RunDirectory.open(
                    config["runs_root"],
                    config["experiment_name"],
                    config,
                    identity,
                    config["seed"],
                    overrides,
                    meta,
                )
                stack.enter_context(directory.lock(wait=is_requeued()))
                if directory.status.get("state") not in (layout.CREATED, layout.FINISHED):
                    directory.record_resume(overrides, meta)
        path = Path(world.broadcast(str(directory.path) if directory else None))
        # Whoever held the lock until now may have finished it.
        if (finished := _find_finished(config, identity, world)) is not None:
            return _skip(finished, config, world)
        stop = stack.enter_context(StopRequest())
        session = None
        try:
            with lost_peers():
                with world.together():
                    session = Session(config, identity, model, train_set, val_set, world, path, directory)
                _check_same_step(session.step, path, world)
                with naming_rates():
                    session.train(stop)
                with stop.at_once(session.num_steps):
                    session.finish()
        except BaseException as error:
            if directory is not None:
                _record_failure(directory, error, session.step if session else None)
            if isinstance(error, NonFiniteError):
                raise UserError(str(error)) from error
            raise
        finally:
            if session is not None:
                session.close()
    if world.is_main:
        print_summary(path)
    return path


def _check_same_step(step: int, path: Path, world: World) -> None:
    main_step = world.broadcast(step)
    with world.together():
        if step != main_step:
            raise UserError(
                f"rank {world.rank} would go on from step {step} of {path}, rank 0 from step {main_step}: all "
                "processes have to see the same runs_root"
            )


def _record_failure(directory: RunDirectory, error: BaseException, step: int | None) -> None:
    stopped = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit))  # the last is a requeue by submitit
    message = (str(error).splitlines() or [""])[0]
    progress = {} if step is None else {"step": step}
    with suppress(UserError):  # of a full disk the first error tells
        if not stopped:
            write_bytes_atomic(directory.path / layout.ERROR_LOG, "".join(traceback.format_exception(error)).encode())
        directory.set_status(
            layout.INTERRUPTED if stopped else layout.FAILED,
            error=None if stopped else f"{type(error).__name__}: {message}",
            **progress,
        )


def _meta(config: dict[str, Any], train_set: CocoDetection, val_set: CocoDetection, world: World) -> dict[str, Any]:
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    data = {
        split: {"fingerprint": s.fingerprint, "num_images": len(s), "annotations": str(s.annotations_path)}
        for split, s in (("train", train_set), ("val", val_set))
    }
    return {
        "recipe": config["recipe_name"],
        "deviations": deviations(config),
        "device": device,
        "world_size": world.size,
        "data": {"name": config["data"]["name"], **data},
    }
