"""python -m analysis wandb-report: a Weights & Biases report of a project's runs, saved on the W&B server."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from analysis.wandb_runs import EPOCH, STEP, split_project, wandb_error
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir import metric_keys

DEFAULT_FACTORS = (
    "model._target_",
    "num_stages",
    "num_proposals",
    "dropout",
    "model.stage.interaction._target_",
    "model.stage.reuse._target_",
    "model.proposals.init._target_",
    "model.positional_encoding._target_",
    "seed",
)
RESULTS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", required=True, metavar="ENTITY/PROJECT", help="where the runs are")
    parser.add_argument("--group", help="only the runs of this group, that is, of this sweep (default: all)")
    parser.add_argument("--num-stages", type=int, default=6, help="stages to draw the AP of (default 6)")
    parser.add_argument("--factors", nargs="+", default=list(DEFAULT_FACTORS), help="config keys of the table")
    parser.add_argument("--title", help="default: Sparse R-CNN ablations, and the group")


def run(args: argparse.Namespace) -> int:
    """Build the report, save it and print where it is.

    Raises:
        UserError: the project is not ENTITY/PROJECT, wandb-workspaces is missing, or the server cannot be reached.
    """
    entity, project = split_project(args.project, "--project")
    if args.num_stages < 1:
        raise UserError(f"--num-stages must be at least 1, got {args.num_stages}")
    try:
        report = build_report(entity, project, args.group, args.num_stages, args.factors, args.title)
        report.save()
    except ImportError as error:
        raise UserError(f"{error}: pip install wandb-workspaces") from error
    except Exception as error:  # whatever the network, the server and the key do wrong
        refusal = wandb_error("W&B did not take the report", error)
        raise UserError(f"{refusal}. Offline: python -m analysis dashboard") from error
    print(report.url)
    return 0


def config_column(key: str) -> str:
    """W&B's name of a column of the runs' table: it wraps the value of every key at the top of a configuration."""
    top, dot, rest = key.partition(".")
    return f"config:{top}.value{dot}{rest}"


def build_report(
    entity: str, project: str, group: str | None, num_stages: int, factors: list[str], title: str | None
) -> Any:
    """The report, not saved: AP over epochs and time, AP per stage, losses, views, and the table by factor.

    Runs of one experiment are drawn as their mean over seeds with the range between them.
    """
    import wandb_workspaces.reports.v2 as wr

    def runset(name: str, groupby: list[str]) -> Any:
        return wr.Runset(
            entity=entity,
            project=project,
            name=name,
            filters="" if group is None else f"Group = {group!r}",
            groupby=groupby,
            pinned_columns=["run:state", *(f"summary:{metric_keys.bbox(name)}" for name in RESULTS)],
            visible_columns=[
                *map(config_column, factors),
                "summary:train/time/seconds",
                "summary:train/speed/images_per_second",
                "summary:model/size/num_parameters",
                "summary:model/cost/forward_gflops",
            ],
        )

    def curve(title: str, y: Sequence[str], x: str = EPOCH, **other: Any) -> Any:
        return wr.LinePlot(title=title, x=x, y=list(y), groupby_aggfunc="mean", groupby_rangefunc="minmax", **other)

    stages = range(num_stages)
    by_row = [runset("rows, mean over seeds", ["config.experiment_name"])]
    heading = title or ("Sparse R-CNN ablations" + (f": {group}" if group else ""))
    return wr.Report(
        entity=entity,
        project=project,
        title=heading,
        description="Made by python -m analysis wandb-report. AP as fractions, on the validation set.",
        width="fluid",
        blocks=[
            wr.TableOfContents(),
            wr.H2("Accuracy"),
            wr.PanelGrid(
                runsets=by_row,
                panels=[
                    curve("AP over epochs", [metric_keys.AP]),
                    curve("AP over wall time", [metric_keys.AP], x="RelativeTime(Process)"),
                    wr.BarPlot(title="final AP", metrics=[metric_keys.AP]),
                    curve("AP of each stage", [metric_keys.stage(s, "AP") for s in stages]),
                    wr.BarPlot(title="final AP of each stage", metrics=[metric_keys.stage(s, "AP") for s in stages]),
                    wr.ScatterPlot(title="AP against cost", x=metric_keys.FORWARD_GFLOPS, y=metric_keys.AP),
                ],
            ),
            wr.H2("Training"),
            wr.PanelGrid(
                runsets=by_row,
                panels=[
                    curve("loss", [metric_keys.LOSS_TOTAL], log_y=True, smoothing_factor=0.8),
                    curve("class loss of each stage", [metric_keys.stage_loss(s, "loss_class") for s in stages]),
                    curve("GIoU loss of each stage", [metric_keys.stage_loss(s, "loss_giou") for s in stages]),
                    curve("learning rate", [metric_keys.LEARNING_RATE], x=STEP),
                    curve("gradient norm", [metric_keys.GRAD_NORM], x=STEP),
                    curve("images per second", [metric_keys.IMAGES_PER_SECOND], x=STEP),
                ],
            ),
            wr.H2("Images, one layer of boxes a stage, or the detections"),
            wr.PanelGrid(
                runsets=[runset("runs", [])], panels=[wr.MediaBrowser(media_keys=["val/views"], num_columns=2)]
            ),
            wr.H2("Runs by factor"),
            wr.PanelGrid(runsets=[runset("runs", [])], panels=[wr.RunComparer(diff_only="split")]),
        ],
    )
