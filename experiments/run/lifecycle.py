"""The life of a run: found or created, locked by one process, trained, finished; and how it ends otherwise."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.cli.argument_names import as_typed
from experiments.cli.naming import init_world_on, naming_rates, naming_workers
from experiments.config.build import (
    Config,
    build_datasets,
    build_writers,
    check_batch_size,
    dry_build,
    with_num_classes,
)
from experiments.config.rows import RowSource, deviations_of, experiments_of, record_row
from experiments.config.validation import validate
from experiments.run.embedded_data import ensure_data
from experiments.run.final_table import print_final_table
from experiments.run.fingerprints import run_identity_of
from experiments.run.found_checkpoint import find_checkpoint
from experiments.run.pictures import (
    as_recorded,
    read_record,
    readable_pictures,
    record_of,
    warn_of_crowds,
    warn_of_empty_classes,
    warn_of_shared_pictures,
)
from experiments.run.requeue import is_requeued, leave_to_scheduler, wait_for_loss_of_node
from experiments.run.training import Training, build_training
from experiments.tracking import alerts
from sparse_rcnn.allocator import keep_freed_memory
from sparse_rcnn.atomic import write_bytes_atomic
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.findings import DataWarning
from sparse_rcnn.distributed import PeerError, World, lost_peers
from sparse_rcnn.errors import UserError
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.writer import RunDescription, RunDirectory

CACHE_ADVICE = "data.cache_images=false keeps no decoded images"


def run(cfg: DictConfig) -> Path:
    """Train the run of a composed configuration, or skip it where it is finished; returns its directory.

    Raises:
        UserError: the configuration, the data or a checkpoint is wrong; on a job of a sweep also for lost processes.
        SystemExit: stopped by a signal, or another process failed.
    """
    config = validate(cfg, overrides=_overrides())
    dry_build(config)
    with _processes(config) as world:
        identity = _identify(config, world)
        if (finished := _find_finished(config, identity, world)) is not None:
            return _skip(finished, config, world)
        # Wrong data and weights come to light before the run directory exists: a mistake leaves nothing behind.
        train_set, val_set, record = _data(config, identity, world)
        with world.together():
            complete = with_num_classes(config, train_set.num_classes)
            training = build_training(complete, train_set, val_set, world)
        with _opened(complete, identity, train_set, val_set, record, world) as (path, directory):
            # Whoever held the lock until now may have finished it.
            if (finished := _find_finished(config, identity, world)) is not None:
                return _skip(finished, config, world)
            with StopRequest() as stop, _ending(training, directory), lost_peers():
                with world.together():
                    step = None if directory is None else find_checkpoint(directory)
                step = world.broadcast(step)  # rank 0 decides: other hosts may see files late, or damaged ones
                with world.together():
                    training.start(path, identity, directory, step)
                training.run(stop)
                with stop.at_once(training.step):
                    training.finish()
                if directory is not None:
                    alerts.send_finished(complete, directory)
        if world.is_main:
            print_final_table(path)
        return path


def _overrides() -> list[str]:
    """Those of the job that runs here, as they were typed: with interpolations."""
    if not HydraConfig.initialized():
        return []
    typed: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return list(typed)


@contextmanager
def _processes(config: Config) -> Iterator[World]:
    """Join the process group; turn a stop request or the failure of another process into the right exit."""
    world = init_world_on(config["train"]["device"], "train.device")
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        with lost_peers():
            yield world
    except Interrupted as stopped:
        if world.is_main:
            print(str(stopped), file=sys.stderr)
        leave_to_scheduler(stopped)
        sys.exit(128 + (stopped.signal_number or signal.SIGTERM))
    except PeerError as error:
        # A process that fails reports it. One that is gone cannot: then rank 0 does. A launcher reads rank 0 alone.
        if error.rank is None:
            wait_for_loss_of_node()
        if world.is_main and (error.rank is None or _is_job_of_sweep()):
            raise UserError(str(error)) from error
        sys.exit(1)
    finally:
        world.close()


def _is_job_of_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _identify(config: Config, world: World) -> str:
    with world.together():
        check_batch_size(config, world.size)
        if world.is_main:
            ensure_data(config)
    with world.together():
        return run_identity_of(config)


def _find_finished(config: Config, identity: str, world: World) -> Path | None:
    """The directory of this run if it is finished. Rank 0 decides: other hosts may see new files late."""
    finished = None
    with world.together():
        if world.is_main:
            found = RunDirectory.find(config["runs_root"], identity, config["seed"])
            finished = found if found is not None and RunDirectory(found).is_finished else None
    path: Path | None = world.broadcast(finished)
    return path


def _skip(finished: Path, config: Config, world: World) -> Path:
    if world.is_main:
        print(f"{finished} is finished; nothing to do")
        print_final_table(finished)
        record_row(finished, config)
        directory = RunDirectory(finished)
        for writer in build_writers(config, finished, directory.run_id):
            writer.skipped(directory.results or {})
    return finished


def _data(config: Config, identity: str, world: World) -> tuple[CocoDetection, CocoDetection, dict[str, Any]]:
    """The data sets, without pictures to skip, and their record for the run directory."""
    with warnings.catch_warnings():
        if not world.is_main:  # rank 0 says it once
            warnings.simplefilter("ignore", DataWarning)
        with world.together():
            train_set, val_set = build_datasets(config)
            sets = {"train": train_set, "val": val_set}
            if world.is_main:
                known = RunDirectory.find(config["runs_root"], identity, config["seed"])
                earlier = None if known is None else read_record(known)
        if config["data"]["generator"] is None:  # else it was made by us
            earlier = world.broadcast(earlier if world.is_main else None)
            if earlier is None:
                sets = readable_pictures(sets, world)
            with world.together():
                if earlier is not None:  # a run that exists was checked when it began
                    sets = as_recorded(sets, earlier)
                if world.is_main:
                    warn_of_empty_classes(sets["train"])
                    warn_of_shared_pictures(sets)
                    warn_of_crowds(sets, config["num_proposals"], config["eval"]["max_dets"])
    return sets["train"], sets["val"], record_of(sets)


@contextmanager
def _opened(
    config: Config,
    identity: str,
    train_set: CocoDetection,
    val_set: CocoDetection,
    record: dict[str, Any],
    world: World,
) -> Iterator[tuple[Path, RunDirectory | None]]:
    """The path of the run's directory, and on rank 0, which locks and writes it, the directory itself."""
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    with ExitStack() as stack:
        directory = None
        with world.together():
            if world.is_main:
                described = RunDescription(
                    experiment=config["experiment_name"],
                    identity=identity,
                    seed=config["seed"],
                    config=config,
                    overrides=overrides,
                    experiments=experiments_of(config),
                    about=_meta(config, train_set, val_set, world),
                )
                directory = RunDirectory.open(config["runs_root"], described)
                stack.enter_context(directory.lock(wait=is_requeued()))
                if directory.created or not (directory.path / layout.DATA).exists():
                    directory.write_json(layout.DATA, record)
                if directory.status.get("state") not in (layout.CREATED, layout.FINISHED):
                    directory.record_resume(overrides, described.about)
        yield Path(world.broadcast(str(directory.path) if directory else None)), directory


@contextmanager
def _ending(training: Training, directory: RunDirectory | None) -> Iterator[None]:
    """Record the outcome of an unfinished training in its status; always close its writers."""
    try:
        with naming_rates(), naming_workers("data.num_workers", CACHE_ADVICE):
            yield
    except BaseException as error:
        if directory is not None:
            step = training.step if training.is_started else None
            if (failure := _record_failure(directory, error, step)) is not None:
                event = alerts.NON_FINITE if isinstance(error, NonFiniteError) else alerts.FAILED
                alerts.of_run(training.config, directory).send(event, failure, step=step)
        if isinstance(error, NonFiniteError):
            raise UserError(str(error)) from error
        raise
    finally:
        training.close()


def _record_failure(directory: RunDirectory, error: BaseException, step: int | None) -> str | None:
    """Write the outcome into the run directory; the failure in a line, None where the run was stopped."""
    stopped = isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit))  # the last is a requeue by submitit
    message = as_typed((str(error).splitlines() or [""])[0])
    failure = None if stopped else f"{type(error).__name__}: {message}"
    progress = {} if step is None else {"step": step}
    with suppress(UserError):  # disk full: the first error is the one to report
        if not stopped:
            text = "".join(traceback.format_exception(error))
            write_bytes_atomic(directory.path / layout.ERROR_LOG, text.encode())
        directory.set_status(
            layout.INTERRUPTED if stopped else layout.FAILED,
            error=failure,
            **progress,
        )
    return failure


def _meta(config: Config, train_set: CocoDetection, val_set: CocoDetection, world: World) -> dict[str, Any]:
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    data = {
        split: {"fingerprint": s.fingerprint, "num_images": len(s), "annotations": str(s.annotations_path)}
        for split, s in (("train", train_set), ("val", val_set))
    }
    return {
        "recipe": config["recipe_name"],
        "config_name": RowSource.of_command().config_name,
        "deviations": deviations_of(config),
        "device": device,
        "world_size": world.size,
        "data": {"name": config["data"]["name"], **data},
    }
