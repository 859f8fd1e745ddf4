"""A run on Weights & Biases: curves, tables, pictures with one layer of boxes a stage, and the final numbers."""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from experiments.tracking.call_queue import CallQueue
from experiments.tracking.wandb_history import last_position
from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir import layout, remote_copy
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.views import View
from sparse_rcnn.runlog import Writer

MODES = ("auto", "online", "offline")
MAX_TAG_LENGTH = 64  # W&B's own
MAX_WAITING = 1000
OWN_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # under which `wandb login` keeps its key, older and newer

Media = Callable[[], Mapping[str, Any]]  # made only for a row that is written


class WandbWriter(Writer):
    """Writes from a thread of its own, so that W&B can be slow, down or out of disk without any effect on the training.

    Every row has a position (``_step``) made of the training step, not a running number. A resumed run first writes
    what metrics.jsonl has and W&B has not, killed as it was; what it repeats then has a position that exists, and is
    dropped. Charts run over ``progress/step``. The summary has a copy of what the run directory says of the run (meta,
    status, results, experiments), from which ``python -m analysis tables --wandb`` reads it.

    An agent of a W&B sweep has opened a run already, and that one is written, also where the run was finished before:
    so the sweep has its numbers.

    Args:
        project, entity: where the run goes; entity None is the key's own.
        mode: ``online``, ``offline`` (into the run's directory, for ``wandb sync``), or ``auto``: online where a key is
            set (``wandb login`` or WANDB_API_KEY). WANDB_MODE wins over all.
        group: of the run; None takes the sweep's name.
        max_boxes: of each stage in a picture, the surest.
        timeout: seconds that the end of a training waits for W&B.
        settings: more of ``wandb.Settings``.
        run_path, run_id, config: of the run.
    """

    def __init__(
        self,
        project: str,
        entity: str | None,
        mode: str,
        group: str | None,
        max_boxes: int,
        timeout: float,
        settings: dict[str, Any],
        run_path: Path,
        run_id: str,
        config: dict[str, Any],
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if max_boxes < 1 or not timeout > 0:
            raise ValueError(f"max_boxes and timeout must be positive, got {max_boxes} and {timeout}")
        self.project, self.entity, self.mode, self.group = project, entity, mode, group
        self.max_boxes, self.timeout, self.settings = max_boxes, timeout, settings
        self._path, self._run_id, self._config = Path(run_path), run_id, config
        self._hydra_group, self._overrides = _sweep_of_job()
        self._background: CallQueue | None = None
        self._run: Any = None
        self._last = -1
        self._copied: dict[str, Any] = {}  # of the run directory, as W&B has it
        self._is_finished = False

    def started(self) -> None:
        """Open the run and write what W&B lacks of it."""
        try:
            events = Run(self._path).events()
        except RunError:  # damaged, or no run directory at all
            events = []
        what = f"What it took lies in {self._path / layout.WANDB}: wandb sync sends it; log=none switches W&B off."
        self._background = CallQueue("W&B", MAX_WAITING, f"the training goes on without it. {what}")
        self._background.put(lambda: self._start(events))

    def log(self, event: str, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        if event != "eval":  # comes with pictures, see `evaluated`
            self._put(event, step, epoch, dict(metrics), dict)

    def evaluated(self, step: int, epoch: float, record: Mapping[str, Any], views: Sequence[View]) -> None:
        """Write an evaluation: its numbers, AP per class, and the views with their boxes."""
        self._put("eval", step, epoch, dict(record["metrics"]), lambda: self._media(record, views))

    def finished(self, results: Mapping[str, float]) -> None:
        """Write the final numbers, which tables of runs show."""
        self._is_finished = True
        self._later(lambda: self._run.summary.update(dict(results)))

    def close(self) -> None:
        if self._background is None:
            return
        self._later(self._copy_directory)
        self._later(lambda: self._run.finish(exit_code=0 if self._is_finished else 1))
        if self._background.close(self.timeout):
            offline = self._run.settings.mode == "offline"
            where = f"wandb sync {Path(self._run.dir).parent}" if offline else self._run.url
            if where:  # none with WANDB_MODE=disabled
                print(f"W&B:           {where}", file=sys.stderr)

    def skipped(self, results: Mapping[str, float]) -> None:
        """Write a finished run to the one that an agent of a W&B sweep has opened for it."""
        if os.environ.get("WANDB_SWEEP_ID"):
            self.started()
            self.finished(results)
            self.close()

    def _put(self, event: str, step: int, epoch: float, metrics: dict[str, float], media: Media) -> None:
        def write() -> None:
            self._write(position(event, step), step, epoch, metrics, media)
            self._copy_directory()

        self._later(write)

    def _write(self, where: int, step: int, epoch: float, metrics: Mapping[str, float | None], media: Media) -> None:
        if where > self._last:
            self._last = where
            progress = {"progress/step": step, "progress/epoch": epoch}
            self._run.log({**progress, **metrics, **media()}, step=where, commit=True)

    def _copy_directory(self) -> None:
        try:
            copy = remote_copy.copy_of(Run(self._path))
        except (RunError, OSError):  # whoever reads the directory learns of it
            return
        if new := {key: value for key, value in copy.items() if key not in self._copied or self._copied[key] != value}:
            self._copied |= new
            self._run.summary.update(new)

    def _rows(self) -> list[str]:
        """The experiments that the run is, the one to call it by first."""
        try:
            run = Run(self._path)
        except (RunError, OSError):
            return [self._config["experiment_name"]]
        return list(dict.fromkeys((run.name, *run.experiments)))

    def _later(self, call: Callable[[], None]) -> None:
        assert self._background is not None, "started() comes first"
        self._background.put(call)

    def _start(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        config = self._config
        rows = self._rows()
        names = (*rows, config["recipe_name"], config["data"]["name"], *self._overrides)
        self._open(
            name=f"{rows[0]}-seed{config['seed']}",
            group=self.group or self._hydra_group,
            job_type="train",
            tags=list(dict.fromkeys(name for name in names if len(name) <= MAX_TAG_LENGTH)),
            config=config,
        )
        # Online the server knows what it has, offline the files of the sessions before.
        offline = self._run.settings.mode == "offline"
        # An agent's run has an id of its own, which W&B takes in place of ours.
        self._last = last_position(self._path / layout.WANDB, self._run.id) if offline else self._run.starting_step - 1
        known = {position(event["event"], event["step"]): event for event in earlier}
        for where, event in sorted(known.items()):
            self._write(where, event["step"], event["epoch"], event["metrics"], dict)
        self._copy_directory()

    def _open(self, **about: Any) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or self.mode
        if mode == "auto":
            mode = "online" if has_key() else "offline"
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            id=self._run_id,
            resume="allow",
            reinit="create_new",  # never the run before it in this process, should that hang
            mode=mode,
            dir=str(self._path),
            settings=wandb.Settings(
                **{
                    "silent": True,
                    "console": "off",
                    "finish_timeout": 0.8 * self.timeout,
                    "finish_timeout_raises": True,
                    **self.settings,
                }
            ),
            **about,
        )
        for group in ("train/*", "val/*"):
            self._run.define_metric(group, step_metric="progress/step")

    def _media(self, record: Mapping[str, Any], views: Sequence[View]) -> dict[str, Any]:
        import wandb

        rows = [[name, values["AP"], values["AP50"]] for name, values in record["per_class"].items()]
        table = wandb.Table(columns=["class", "AP", "AP50"], data=rows)
        images = [
            wandb.Image(view.picture, boxes=layers(view, self.max_boxes), caption=view.file_name) for view in views
        ]
        return {"val/per_class": table, **({"val/views": images} if images else {})}


def position(event: str, step: int) -> int:
    """W&B's ``_step`` of an event: that of an evaluation comes after that of the step before it."""
    return 2 * step + (event == "eval")


def layers(view: View, max_boxes: int) -> dict[str, Any]:
    """The boxes of a view as W&B's layers: ground truth, the learned proposals where there are any, and one for each
    stage, or the detections of a detector without stages.
    """
    names = dict(enumerate(view.class_names))
    result = {"ground_truth": _layer(view.truth_boxes_xyxy_abs, view.truth_labels, None, names)}
    if view.proposals_xyxy_abs is not None:
        proposal = len(names)  # a class of its own: proposals have none
        labels_of_proposals = [proposal] * len(view.proposals_xyxy_abs)
        result["proposals"] = _layer(view.proposals_xyxy_abs, labels_of_proposals, None, {proposal: "proposal"})
    for s, (boxes, scores, labels) in enumerate(zip(view.boxes_xyxy_abs, view.scores, view.labels, strict=True)):
        chosen = (-scores).argsort(kind="stable")[:max_boxes]
        result[f"stage_{s}" if view.has_stages else "detections"] = _layer(
            boxes[chosen], labels[chosen], scores[chosen], names
        )
    return result


def has_key() -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    base_url = os.environ.get("WANDB_BASE_URL")
    hosts = [urlparse(base_url).hostname or ""] if base_url else OWN_HOSTS
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return path.is_file() and any(netrc.netrc(str(path)).authenticators(host) for host in hosts)
    except (netrc.NetrcParseError, OSError):
        return False


def _layer(boxes_xyxy_abs: Any, labels: Any, scores: Any, names: dict[int, str]) -> dict[str, Any]:
    data = []
    for i, (x1, y1, x2, y2) in enumerate(boxes_xyxy_abs.tolist()):
        label = int(labels[i])
        box = {
            "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2},
            "domain": "pixel",
            "class_id": label,
            "box_caption": names[label],
        }
        if scores is not None:
            score = float(scores[i])
            box |= {"box_caption": f"{names[label]} {score:.2f}", "scores": {"score": score}}
        data.append(box)
    return {"box_data": data, "class_labels": names}


def _sweep_of_job() -> tuple[str | None, list[str]]:
    """The name of the sweep that this job is of, None for a single run, and the overrides that say what it is."""
    if not HydraConfig.initialized():
        return None, []
    hydra = HydraConfig.get()
    overrides = [o for o in hydra.overrides.task if "/" not in o.split("=", 1)[-1]]  # no paths
    if hydra.mode != RunMode.MULTIRUN:
        return None, overrides
    name = hydra.runtime.choices.get("sweep")
    return (name if name and name != "none" else f"multirun-{Path(str(hydra.sweep.dir)).name}"), overrides
