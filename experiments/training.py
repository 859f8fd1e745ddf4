"""One training run from its configuration to its results, in a directory of its own."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch.nn.parallel import DistributedDataParallel

from experiments.build import (
    INJECTED,
    build,
    build_criterion,
    build_datasets,
    build_ema,
    build_model,
    build_optimizer,
    build_schedule,
    build_writers,
    check_batch_size,
    dry_build,
    eval_batches,
    set_num_classes,
    train_batches,
)
from experiments.config import validate
from experiments.evaluation import Evaluation, evaluate_stages, write_final_results
from experiments.identity import file_fingerprint, run_identity
from experiments.rundir import RunDirectory
from experiments.summary import print_summary
from experiments.writers import ProgressWriter, StatusWriter
from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.cpu import keep_freed_memory
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.detect import detect
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.distributed import PeerError, World, init_world, lost_peers
from sparse_rcnn.engine import LoopSettings, train
from sparse_rcnn.errors import UserError
from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.rng import get_rng_state, seed_everything, set_rng_state
from sparse_rcnn.runlog import JsonlWriter, Writer
from sparse_rcnn.weights import save_detector


def run(cfg: DictConfig) -> Path:
    """Train what a composed configuration describes, or skip it where it is finished; returns its directory."""
    config = validate(cfg, INJECTED)
    dry_build(config)
    world = init_world(config["train"]["device"])
    if world.device.type == "cpu":
        keep_freed_memory()
    try:
        return _run(config, world)
    except PeerError as error:
        # A process that fails says why itself. One that is gone cannot: then rank 0 does.
        if error.rank is None and world.is_main:
            raise UserError(str(error)) from error
        sys.exit(1)
    finally:
        world.close()


def _run(config: dict[str, Any], world: World) -> Path:
    with lost_peers():
        with world.together():
            check_batch_size(config, world.size)
            if world.is_main:
                ensure_data(config)
        finished = None
        with world.together():
            identity = run_identity(config, content_keys(config))
            if world.is_main:
                finished = _find_finished(config, identity)
        finished = world.broadcast(finished)  # by one process: a file may reach the others' file system late
        if finished is not None:
            if world.is_main:
                print(f"{finished} is finished; nothing to do")
                print_summary(finished)
            return finished
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
        return _train(config, identity, overrides, world)


def _find_finished(config: dict[str, Any], identity: str) -> Path | None:
    found = RunDirectory.find(config["runs_root"], identity, config["seed"])
    return found if found is not None and RunDirectory.load(found).is_finished else None


def ensure_data(config: dict[str, Any]) -> None:
    """Make the embedded data where the configuration has a generator and the data is not there yet."""
    if config["data"]["generator"] is None:
        return
    root = Path(config["data"]["root"])
    generator = build(config, "data.generator")
    if not root.exists():
        print(f"making the data set {config['data']['name']} in {root}", file=sys.stderr)
    generator.ensure(root)


def content_keys(config: dict[str, Any]) -> dict[str, Any]:
    """What identifies the content behind the paths of a configuration: data and weights."""
    data = config["data"]
    if data["generator"] is not None:
        keys: dict[str, Any] = {"data": build(config, "data.generator").key()}
    else:
        keys = {"data": {split: file_fingerprint(data[split]["annotations"]) for split in ("train", "val")}}
    for name, weights in config["weights"].items():
        if weights is not None:
            keys[f"weights.{name}"] = file_fingerprint(weights) if Path(weights).is_file() else weights
    return keys


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
                stack.enter_context(directory.lock())
                if directory.status.get("state") not in (None, "created"):
                    directory.record_resume(overrides, meta)
        path = Path(world.broadcast(str(directory.path) if directory else None))
        stop = stack.enter_context(StopRequest())
        session = None
        try:
            with lost_peers():
                with world.together():
                    session = _Session(config, identity, model, train_set, val_set, world, path, directory)
                _check_same_step(session.step, path, world)
                session.train(stop)
                session.finish()
        except BaseException as error:
            if directory is not None:
                _record_failure(directory, error, session.step if session else None)
            if isinstance(error, Interrupted):
                if world.is_main:
                    print(str(error), file=sys.stderr)
                sys.exit(128 + (error.signal_number or signal.SIGTERM))
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
    stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
    message = (str(error).splitlines() or [""])[0]
    progress = {} if step is None else {"step": step}
    with suppress(UserError):  # of a full disk the first error tells
        directory.set_status(
            "interrupted" if stopped else "failed",
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
        "device": device,
        "world_size": world.size,
        "data": {"name": config["data"]["name"], **data},
    }


class _Session:
    """The objects of one training run on one rank. ``directory`` is None on all ranks but 0."""

    def __init__(
        self,
        config: dict[str, Any],
        identity: str,
        model: SparseRCNN,
        train_set: CocoDetection,
        val_set: CocoDetection,
        world: World,
        path: Path,
        directory: RunDirectory | None,
    ) -> None:
        self.config, self.identity, self.world, self.path, self.directory = (
            config,
            identity,
            world,
            path,
            directory,
        )
        self.model, self.train_set, self.val_set = model, train_set, val_set
        self.checkpoints = CheckpointFolder(path / "checkpoints")
        state = self.checkpoints.load_latest(self.model, identity)
        memory_format = torch.channels_last if config["train"]["channels_last"] else torch.contiguous_format
        self.model.to(world.device, memory_format=memory_format)
        self.optimizer = build_optimizer(config, self.model)
        self.base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.ema = build_ema(config, self.model)
        self.schedule = build_schedule(config)
        self.step = state.step if state else 0
        self.seconds_before = state.seconds if state else 0.0
        seed_everything(config["seed"], world.rank)
        if state is not None:
            self._restore(state)
        self.batches, self.num_steps_per_epoch = train_batches(config, train_set, world, self.step)
        self.num_steps = self.schedule.num_steps(self.num_steps_per_epoch)
        self.started = time.monotonic()
        self.evaluator = None
        self.writers: list[Writer] = []
        if directory is not None:
            self.evaluator = CocoEvaluator(
                CocoGroundTruth(config["data"]["val"]["annotations"], val_set.image_ids),
                config["eval"]["backend"],
            )
            self.writers = [JsonlWriter(path / "metrics.jsonl"), StatusWriter(directory, self.num_steps)]
            self.writers += build_writers(config, path, directory.meta["run_id"])
            if config["log"]["progress"]:
                self.writers.append(ProgressWriter(self.num_steps, self.step))
            directory.set_status(
                "running",
                step=self.step,
                num_steps=self.num_steps,
                epoch=round(self.step / self.num_steps_per_epoch, 4),
            )
        if state is not None and world.is_main:
            print(f"going on from step {self.step} of {self.num_steps} in {path}", file=sys.stderr)

    @property
    def evaluated_model(self) -> torch.nn.Module:
        return self.ema.module if self.ema is not None else self.model

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, over all its sessions, evaluations during training included."""
        return self.seconds_before + time.monotonic() - self.started

    def train(self, stop: StopRequest) -> None:
        train_config, world = self.config["train"], self.world
        model: torch.nn.Module = self.model
        if world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        every_epochs = self.config["eval"]["every_epochs"]
        train(
            model=model,
            criterion=build_criterion(self.config),
            optimizer=self.optimizer,
            base_lrs=self.base_lrs,
            schedule=self.schedule,
            batches=self.batches,
            world=world,
            settings=LoopSettings(
                num_steps=self.num_steps,
                num_steps_per_epoch=self.num_steps_per_epoch,
                num_micro_batches=train_config["num_micro_batches"],
                clip_norm=train_config["clip_norm"],
                precision=train_config["precision"],
                channels_last=train_config["channels_last"],
                log_every=train_config["log_every"],
                eval_every=None if every_epochs is None else every_epochs * self.num_steps_per_epoch,
                checkpoint_every=train_config["checkpoint_every"],
            ),
            start_step=self.step,
            ema=self.ema,
            writers=self.writers,
            save_checkpoint=self.save_checkpoint,
            evaluate=self.evaluate,
            stop=stop,
        )

    def save_checkpoint(self, step: int) -> None:
        self.step = step
        rng = self.world.gather(get_rng_state())
        if rng is None or step in self.checkpoints.steps():
            return
        state = TrainingState(
            step=step,
            identity=self.identity,
            seconds=self.seconds,
            optimizer=self.optimizer.state_dict(),
            ema=self.ema.state_dict() if self.ema is not None else None,
            rng=rng,
        )
        assert self.model.card is not None
        self.checkpoints.save(self.model, self.model.card, state)

    def _restore(self, state: TrainingState) -> None:
        self.optimizer.load_state_dict(state.optimizer)
        if self.ema is not None and state.ema is not None:
            self.ema.load_state_dict(state.ema)
        if len(state.rng) == self.world.size:
            set_rng_state(state.rng[self.world.rank])
        else:
            # Another number of processes than before: their dropout has no past to go on with.
            seed_everything(self.config["seed"], self.world.size * state.step + self.world.rank)

    def evaluate(self, step: int, final: bool = False) -> Evaluation | None:
        """Evaluate every stage; on rank 0 the evaluation, None elsewhere or where it exists already."""
        name = f"eval/step_{step:08d}.json"
        if not final and self.world.broadcast((self.path / name).exists() if self.directory else None):
            return None
        tables = detect(
            self.evaluated_model,
            eval_batches(self.config, self.val_set, self.world),
            self.val_set.category_ids,
            self.world,
            self.config["train"]["precision"],
        )
        if tables is None:
            return None
        assert self.directory is not None
        assert self.evaluator is not None
        evaluation = evaluate_stages(tables, self.evaluator, reference=final)
        epoch = step / self.num_steps_per_epoch
        # The file comes last: it says that this evaluation need not be repeated.
        for writer in self.writers:
            writer.log("eval", step, epoch, evaluation.flat())
        self.directory.write_evaluation(step, evaluation.to_json(step=step, epoch=round(epoch, 6)))
        return evaluation

    def finish(self) -> None:
        """The last evaluation, the weights and the results; ``results.json`` comes last and says that all is there."""
        seconds = self.seconds
        evaluation = self.evaluate(self.num_steps, final=True)
        if evaluation is None:
            return
        assert self.directory is not None
        assert self.model.card is not None
        save_detector(self.evaluated_model, self.model.card, self.path / "model.safetensors")
        write_final_results(self.directory, evaluation, self.model, self.val_set, self.config, seconds)
        self.directory.set_status(
            "finished", step=self.num_steps, epoch=round(self.num_steps / self.num_steps_per_epoch, 4)
        )

    def close(self) -> None:
        for writer in self.writers:
            with suppress(UserError):  # of a full disk the first error tells
                writer.close()
