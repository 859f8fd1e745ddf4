"""Names of the files of a run directory, its schema version and the states of a run."""

from __future__ import annotations

SCHEMA_VERSION = 1

CONFIG = "config.json"
OVERRIDES = "overrides.txt"
META = "meta.json"
STATUS = "status.json"
DATA = "data.json"
METRICS = "metrics.jsonl"
RESULTS = "results.json"
EVALUATIONS = "eval"
VIEWS = "views"
CHECKPOINTS = "checkpoints"
TRAINING_STATE = "training_state.pt"
DIGESTS = "digests.json"
WEIGHTS = "model.safetensors"
DETECTIONS = "detections.json"
STAGE_DETECTIONS = "stage_detections.npz"
PICTURE = "detections.png"
EXPERIMENTS = "experiments.json"
NAMES = "names"  # in its place in runs from before December 2026
ERROR_LOG = "error.log"
WANDB = "wandb"
LOCK = "lock"
LOCK_HOLDER = "lock_holder.json"

ROOT_LOCK = ".lock"  # in the runs root, beside the experiments

# What a finished run has digests of in DIGESTS; evaluations, views, results and weights carry one themselves.
DIGESTED = (CONFIG, OVERRIDES, DATA, WEIGHTS, DETECTIONS, STAGE_DETECTIONS, PICTURE)

SET_ASIDE = "set_aside"  # key of the status: damaged checkpoints

CREATED, RUNNING, FINISHED, INTERRUPTED, FAILED = "created", "running", "finished", "interrupted", "failed"
STATES = (CREATED, RUNNING, FINISHED, INTERRUPTED, FAILED)


def run_id(identity: str, seed: int) -> str:
    """The name of a run and of its folder."""
    return f"{identity}-seed{seed}"


def evaluation_file(step: int) -> str:
    """The file of the evaluation after ``step`` training steps, relative to the run."""
    return f"{EVALUATIONS}/step_{step:08d}.json"
