"""Hydra's sweeper for -m: trains each distinct run of a sweep once, and only what is not finished."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from experiments.sweep.job_return import LoggedJobReturn


class SuiteSweeper(BasicSweeper):
    """Expands values as Hydra's own sweeper; then skips, launches, and ends with a table of how it went.

    One failed run does not end the others. The launcher gets only runs that are left, so a finished sweep starts
    nothing.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Train what ``arguments`` and ``hydra.sweeper.params`` select.

        Raises:
            UserError: nothing is selected, or a configuration is wrong: then nothing was started.
            SweepError: a run failed or is missing at the end.
        """
        from experiments.config.rows import RowSource
        from experiments.sweep.plan import check, name_runs, pending, plan, print_rows, record, record_stop

        assert self.hydra_context is not None
        assert self.launcher is not None
        assert self.config is not None
        loader, of_sweep = self.hydra_context.config_loader, self.config
        params = [f"{key}={value}" for key, value in (self.params or {}).items()]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*params, *arguments])
        (jobs,) = self.split_arguments(overrides, None)

        def compose(job: list[str]) -> DictConfig:
            config = loader.load_sweep_config(of_sweep, job)
            OmegaConf.set_struct(config, False)
            del config["hydra"]
            return config

        rows = plan(jobs, compose)
        watchable = self.launcher.living_jobs() if hasattr(self.launcher, "living_jobs") else ()
        left = pending(rows, watchable)
        if left:
            if hasattr(self.launcher, "check"):
                self.launcher.check()
            prepare_data(left)
            try:
                results = self.launcher.launch([row.overrides for row in left], initial_job_idx=0)
            except (KeyboardInterrupt, SystemExit):
                record_stop(left, self.launcher.living_jobs() if hasattr(self.launcher, "living_jobs") else ())
                print_rows(rows)
                raise
            for row, result in zip(left, results, strict=True):
                record(row, job_error(result), result.log if isinstance(result, LoggedJobReturn) else None)
        print_rows(rows)
        name_runs(rows, RowSource.of_command(of_sweep.hydra))
        check(rows)
        return [JobReturn(overrides=row.overrides, status=JobStatus.COMPLETED) for row in rows]


def prepare_data(rows: list[Any]) -> None:
    """Make the embedded data once, and not in every job at the same time."""
    from experiments.run.embedded_data import ensure_data

    made = set()
    for row in rows:
        root = row.config["data"]["root"]
        if root not in made:
            ensure_data(row.config)
        made.add(root)


def job_error(result: JobReturn) -> BaseException | None:
    """What a job ended with, None for a good one."""
    # Not result.return_value, which says to the terminal what the table will say.
    return result._return_value if result.status is JobStatus.FAILED else None
