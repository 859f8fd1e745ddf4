"""The objects of one training run on one process, and what the loop asks of them."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from experiments.build import (
    build_criterion,
    build_dashboards,
    build_ema,
    build_optimizer,
    build_schedule,
    eval_batches,
    train_batches,
)
from experiments.evaluation import Evaluation, evaluate_stages, write_final_results
from experiments.naming import naming
from experiments.views import view_images, write_views
from experiments.writers import Dashboard, ProgressWriter, StatusWriter
from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.dataset_detection import detect
from sparse_rcnn.detector import SparseRCNN
from sparse_rcnn.distributed import World
from sparse_rcnn.engine import LoopSettings, train
from sparse_rcnn.errors import UserError
from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth
from sparse_rcnn.interrupt import StopRequest
from sparse_rcnn.rng import get_rng_state, seed_everything, set_rng_state
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.writer import RunDirectory
from sparse_rcnn.runlog import JsonlWriter, Writer
from sparse_rcnn.weights import save_detector


class Session:
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
        self.checkpoints = CheckpointFolder(path / layout.CHECKPOINTS)
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
        self.dashboards: list[Dashboard] = []
        if directory is not None:
            ground_truth = CocoGroundTruth(config["data"]["val"]["annotations"], val_set.image_ids)
            with naming("eval.backend"):
                self.evaluator = CocoEvaluator(ground_truth, config["eval"]["backend"])
            self.writers = [JsonlWriter(path / layout.METRICS), StatusWriter(directory, self.num_steps)]
            self.dashboards = build_dashboards(config, path, directory.meta["run_id"])
            self.writers += self.dashboards
            if config["log"]["progress"]:
                self.writers.append(ProgressWriter(self.num_steps, self.step))
            directory.set_status(
                layout.RUNNING,
                step=self.step,
                num_steps=self.num_steps,
                epoch=round(self.step / self.num_steps_per_epoch, 4),
            )
            for dashboard in self.dashboards:
                dashboard.started()
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
        views = view_images(self.evaluated_model, self.val_set, self.config["eval"]["num_pictures"])
        write_views(self.path / layout.VIEWS, views, step)
        # The file comes last: it says that this evaluation need not be repeated.
        for writer in self.writers:
            writer.log("eval", step, epoch, evaluation.flat())
        record = evaluation.to_json(step=step, epoch=round(epoch, 6))
        for dashboard in self.dashboards:
            dashboard.evaluated(step, epoch, record, views)
        self.directory.write_evaluation(step, record)
        return evaluation

    def finish(self) -> None:
        """The last evaluation, the weights and the results; ``results.json`` comes last and says that all is there."""
        seconds = self.seconds
        evaluation = self.evaluate(self.num_steps, final=True)
        if evaluation is None:
            return
        assert self.directory is not None
        assert self.model.card is not None
        num_images_seen = self.num_steps * self.config["train"]["batch_size"]
        save_detector(self.evaluated_model, self.model.card, self.path / layout.WEIGHTS)
        results = write_final_results(
            self.directory, evaluation, self.model, self.val_set, self.config, seconds, num_images_seen
        )
        for dashboard in self.dashboards:
            dashboard.finished(results)
        self.directory.set_status(
            layout.FINISHED, step=self.num_steps, epoch=round(self.num_steps / self.num_steps_per_epoch, 4)
        )

    def close(self) -> None:
        for writer in self.writers:
            with suppress(UserError):  # of a full disk the first error tells
                writer.close()
