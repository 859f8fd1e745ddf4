"""One training on one process, assembled once: for the train command, the benchmark and the tests of the engine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.cli.naming import naming
from experiments.config.build import (
    Config,
    build_criterion,
    build_ema,
    build_model,
    build_optimizer,
    build_schedule,
    build_writers,
)
from experiments.run.evaluation_record import Evaluation, evaluate_stages
from experiments.run.result_files import write_final_results
from experiments.run.views import view_images, write_views
from experiments.tracking.progress_bar import ProgressWriter
from experiments.tracking.status_file import StatusWriter
from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.compilation import compile_detector, uncompiled
from sparse_rcnn.data.coco import CocoDetection
from sparse_rcnn.data.loading import TrainBatches, eval_batches
from sparse_rcnn.dataset_detection import detect
from sparse_rcnn.detector_base import Detector
from sparse_rcnn.distributed import World
from sparse_rcnn.engine import Learner, LoopSettings, train_steps
from sparse_rcnn.errors import UserError
from sparse_rcnn.evaluation import CocoEvaluator, CocoGroundTruth
from sparse_rcnn.finite import NonFinitePredictionError
from sparse_rcnn.interrupt import Interrupted, StopRequest
from sparse_rcnn.matcher import NonFiniteError
from sparse_rcnn.precision import memory_format
from sparse_rcnn.rng import get_rng_state, seed_everything, set_rng_state
from sparse_rcnn.rundir import layout
from sparse_rcnn.rundir.writer import RunDirectory
from sparse_rcnn.runlog import JsonlWriter, Writer
from sparse_rcnn.step_log import StepLog, with_advice
from sparse_rcnn.weights import save_detector


def build_training(config: Config, train_set: CocoDetection, val_set: CocoDetection, world: World) -> Training:
    """Build all objects of a training; nothing is read from a run or written.

    Args:
        config: complete (`experiments.config.build.with_num_classes`).
        train_set, val_set: of the configuration (`experiments.config.build.build_datasets`).
        world: this process among those that train together.

    Raises:
        UserError: a constructor refuses a value, or weights cannot be loaded; names the key.
    """
    seed_everything(config["seed"])  # the same on every rank: they build the same model
    model = build_model(config, train_set, world.is_main)
    model.to(world.device)
    model.to(memory_format=memory_format(config["train"]["channels_last"]))
    with naming("train.compile"):
        compile_detector(model, config["train"]["compile"], world.device)
    batches = TrainBatches(
        train_set,
        batch_size=config["train"]["batch_size"],
        num_micro_batches=config["train"]["num_micro_batches"],
        num_workers=config["data"]["num_workers"],
        seed=config["seed"],
        world=world,
        size_divisor=model.size_divisor,
    )
    schedule = build_schedule(config)
    learner = Learner(
        model=model,
        criterion=build_criterion(config),
        optimizer=build_optimizer(config, model),
        schedule=schedule,
        ema=build_ema(config, model),
        settings=_settings(config, schedule.num_steps(batches.num_steps_per_epoch), batches.num_steps_per_epoch),
        world=world,
    )
    seed_everything(config["seed"], world.rank)
    with naming("eval.backend"):
        evaluator = CocoEvaluator(CocoGroundTruth(val_set.coco), config["eval"]["backend"]) if world.is_main else None
    return Training(config, learner, batches, val_set, evaluator)


def _settings(config: Config, num_steps: int, num_steps_per_epoch: int) -> LoopSettings:
    train, every_epochs = config["train"], config["eval"]["every_epochs"]
    return LoopSettings(
        num_steps=num_steps,
        num_steps_per_epoch=num_steps_per_epoch,
        num_micro_batches=train["num_micro_batches"],
        clip_norm=train["clip_norm"],
        precision=train["precision"],
        channels_last=train["channels_last"],
        log_every=train["log_every"],
        eval_every=None if every_epochs is None else every_epochs * num_steps_per_epoch,
        checkpoint_every=train["checkpoint_every"],
    )


class Training:
    """The objects of one training on one process (`build_training`), and what becomes of them.

    ``start`` ties it to a run directory and loads a checkpoint of it, ``run`` trains to the end with checkpoints and
    evaluations, ``finish`` writes the results. ``train_to`` alone trains without a run.

    Attributes:
        step: training steps done.
        is_started: whether the checkpoint to go on from, if any, is loaded.
    """

    def __init__(
        self,
        config: Config,
        learner: Learner,
        batches: TrainBatches,
        val_set: CocoDetection,
        evaluator: CocoEvaluator | None,
    ) -> None:
        self.config, self.learner, self.batches, self.val_set = config, learner, batches, val_set
        self._evaluator = evaluator  # on rank 0, which alone evaluates what all have found
        self.step, self.is_started = 0, False
        self._writers: list[Writer] = []
        self._directory: RunDirectory | None = None

    @property
    def settings(self) -> LoopSettings:
        return self.learner.settings

    @property
    def model(self) -> Detector:
        """The detector that trains."""
        model = self.learner.detector
        assert isinstance(model, Detector)
        return model

    @property
    def evaluated_model(self) -> Detector:
        """The moving average where there is one, else the detector itself."""
        model = self.model if self.learner.ema is None else self.learner.ema.module
        assert isinstance(model, Detector)
        return model

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, over all its sessions, evaluations during training included."""
        return self._seconds_before + time.monotonic() - self._started

    def start(self, path: Path, identity: str, directory: RunDirectory | None, step: int | None) -> None:
        """Go on from a checkpoint of the run in ``path``, and open the writers; not yet distributed.

        Args:
            path: of the run.
            identity: of the run.
            directory: on rank 0, which alone writes; None elsewhere.
            step: of the checkpoint (`experiments.run.found_checkpoint`); None begins anew.

        Raises:
            UserError: the checkpoint cannot be used, or a file cannot be written.
        """
        self._path, self._identity, self._directory = path, identity, directory
        self._checkpoints = CheckpointFolder(path / layout.CHECKPOINTS)
        state = None if step is None else self._checkpoints.load(self.model, identity, step)
        if state is not None:
            self._restore(state)
        self.is_started = True
        self._seconds_before = state.seconds if state is not None else 0.0
        self._started = time.monotonic()
        # Loader processes are forked here, before a writer starts a thread: a lock that it holds would never be freed.
        self._stream = self.batches.from_step(self.step)
        if directory is not None:
            self._open_writers(directory)
        if state is not None and self.learner.world.is_main:
            print(f"resuming at step {self.step} of {self.settings.num_steps} in {path}", file=sys.stderr)

    def run(self, stop: StopRequest) -> None:
        """Train to the end, with checkpoints and evaluations on the way; all processes together.

        Raises:
            Interrupted: on request, with a checkpoint saved.
            NonFiniteError, UserError, PeerError: as ``engine.train_steps``.
        """
        settings = self.settings
        self.learner.distribute()
        # Killed after the checkpoint and before the evaluation. Evaluations of later steps, if a newer checkpoint was
        # damaged, are repeated: they are of other weights where a resume is not bitwise.
        if settings.is_evaluation_due(self.step) and not self._is_evaluated():
            with stop.at_once(self.step):
                self.evaluate()
        log = self._step_log(self._writers)
        while self.step < settings.num_steps:
            end = settings.next_checkpoint(self.step)
            try:
                train_steps(self.learner, self._stream, range(self.step, end), log, stop)
            except Interrupted as stopped:
                self.step = stopped.step
                self.save_checkpoint()
                raise
            self.step = end
            self.save_checkpoint()
            if settings.is_evaluation_due(end):
                with stop.at_once(end):
                    self.evaluate()
                log.restart()

    def train_to(self, step: int, writers: Sequence[Writer]) -> None:
        """Train to a step, without checkpoints and evaluations."""
        batches = self.batches.from_step(self.step)
        train_steps(self.learner, batches, range(self.step, step), self._step_log(writers), StopRequest())
        self.step = step

    def save_checkpoint(self) -> None:
        """Save the training as it is now; all processes together, rank 0 writes."""
        rng = self.learner.world.gather(get_rng_state())
        if rng is None or self.step in self._checkpoints.steps():
            return
        ema = self.learner.ema
        state = TrainingState(
            step=self.step,
            identity=self._identity,
            seconds=self.seconds,
            optimizer=self.learner.optimizer.state_dict(),
            ema=None if ema is None else ema.state_dict(),
            rng=rng,
        )
        assert self.model.card is not None
        self._checkpoints.save(self.model, self.model.card, state)

    def evaluate(self, final: bool = False) -> Evaluation | None:
        """Evaluate every stage; on rank 0 the evaluation, None elsewhere.

        Raises:
            NonFiniteError: the detector has diverged.
        """
        world, settings = self.learner.world, self.config["eval"]
        batches = eval_batches(
            self.val_set,
            settings["batch_size"],
            self.config["data"]["num_workers"],
            world,
            self.evaluated_model.size_divisor,
        )
        try:
            with uncompiled():
                tables = detect(
                    self.evaluated_model, batches, self.val_set.category_ids, world, self.settings.precision
                )
        except NonFinitePredictionError as error:
            lr = self.learner.optimizer.param_groups[0]["lr"]
            raise NonFiniteError(with_advice(f"evaluation: {error.fault}", self.step, lr)) from error
        if tables is None:
            return None
        assert self._directory is not None
        assert self._evaluator is not None
        evaluation = evaluate_stages(
            tables, self._evaluator, reference=final, all_stages=self.model.has_stages, max_dets=settings["max_dets"]
        )
        with uncompiled():
            views = view_images(self.evaluated_model, self.val_set, settings["num_pictures"], self.step)
        write_views(self._path / layout.VIEWS, views)
        epoch = self.step / self.settings.num_steps_per_epoch
        record = evaluation.to_json(step=self.step, epoch=round(epoch, 6))
        for writer in self._writers:
            writer.log("eval", self.step, epoch, evaluation.flat())
        for writer in self._writers:
            writer.evaluated(self.step, epoch, record, views)
        # The file comes last: its presence means that this evaluation need not be repeated.
        self._directory.write_evaluation(self.step, record)
        return evaluation

    def _is_evaluated(self) -> bool:
        exists = self._directory is not None and self._directory.has_evaluation(self.step)
        return bool(self.learner.world.broadcast(exists))

    def finish(self) -> None:
        """The last evaluation, the weights and the results; the writers learn of them last."""
        seconds = self.seconds
        evaluation = self.evaluate(final=True)
        if evaluation is None:
            return
        assert self._directory is not None
        assert self.model.card is not None
        save_detector(self.evaluated_model, self.model.card, self._path / layout.WEIGHTS)
        num_images_seen = self.settings.num_steps * self.config["train"]["batch_size"]
        results = write_final_results(
            self._directory, evaluation, self.model, self.val_set, self.config, seconds, num_images_seen
        )
        for writer in self._writers:
            writer.finished(results)

    def close(self) -> None:
        """Close the writers."""
        for writer in self._writers:
            with suppress(UserError):  # disk full: the first error is the one to report
                writer.close()

    def _restore(self, state: TrainingState) -> None:
        learner, world = self.learner, self.learner.world
        self.step = state.step
        learner.optimizer.load_state_dict(state.optimizer)
        if learner.ema is not None and state.ema is not None:
            learner.ema.load_state_dict(state.ema)
        if len(state.rng) == world.size:
            set_rng_state(state.rng[world.rank])
        else:
            # Another number of processes than before: their dropout has no past to resume.
            seed_everything(self.config["seed"], world.size * state.step + world.rank)

    def _open_writers(self, directory: RunDirectory) -> None:
        config, num_steps = self.config, self.settings.num_steps
        status = StatusWriter(directory, self.step, num_steps, self.settings.num_steps_per_epoch)
        own: list[Writer] = [JsonlWriter(directory.path / layout.METRICS), status]
        progress: list[Writer] = [ProgressWriter(num_steps, self.step)] if config["log"]["progress"] else []
        self._writers = [*own, *build_writers(config, directory.path, directory.run_id), *progress]
        for writer in self._writers:
            writer.started()

    def _step_log(self, writers: Sequence[Writer]) -> StepLog:
        settings = self.settings
        return StepLog(
            self.learner.world,
            writers,
            settings.num_steps,
            settings.num_steps_per_epoch,
            settings.log_every,
            self.learner.criterion,
        )
