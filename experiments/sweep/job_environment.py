"""The environment of a sweep's jobs: this process's, without what makes it a part of another job."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

# What a client of SLURM needs; all else under these prefixes describes the allocation that this process runs in.
_OF_CLIENTS = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"}
_OF_ALLOCATION = ("SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SBATCH_CPU_BIND", "SBATCH_MEM_BIND")
_OF_GROUP = ("PMI_", "PMI2_", "PMIX_", "OMPI_", "PRTE_", "MPI_LOCAL", "MV2_COMM_WORLD_", "TORCHELASTIC_", "SUBMITIT_")
_TORCHRUN = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK", "ROLE_NAME",
    "ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
}  # fmt: skip
DEVICES = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}


def of_a_new_job(environ: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """The variables for a job of its own: none that names a rank, a group of processes or a SLURM allocation.

    A job that inherits them takes itself for a rank of a group, or fails at ``srun`` for limits of another allocation.

    Args:
        environ: of this process, which may run in an allocation (``salloc``, ``srun``, ``sbatch``).
        keep: names that stay whatever they describe.
    """
    in_allocation = "SLURM_JOB_ID" in environ or "SLURM_JOBID" in environ

    def is_left_out(name: str) -> bool:
        if name in keep or name in _OF_CLIENTS:
            return False
        return name in _TORCHRUN or name.startswith(_OF_GROUP) or (in_allocation and name.startswith(_OF_ALLOCATION))

    return {name: value for name, value in environ.items() if not is_left_out(name)}


@contextmanager
def outside_of_allocations() -> Iterator[None]:
    """A block whose programs see neither the allocation nor the group of this process, nor the devices given to it."""
    before = dict(os.environ)
    in_allocation = "SLURM_JOB_ID" in before or "SLURM_JOBID" in before
    after = {k: v for k, v in of_a_new_job(before).items() if not (in_allocation and k in DEVICES)}
    try:
        _replace_environment(after)
        yield
    finally:
        _replace_environment(before)


def _replace_environment(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)
