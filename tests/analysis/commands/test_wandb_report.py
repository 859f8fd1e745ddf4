"""The W&B report: its panels and columns as they are sent; saving it needs a server that is not here."""

from __future__ import annotations

import json
import re

import pytest

from analysis.__main__ import main
from analysis.commands.wandb_report import DEFAULT_FACTORS, build_report, config_column

interface = pytest.importorskip("wandb_workspaces.reports.v2.interface", reason="wandb-workspaces is not installed")


@pytest.fixture
def server(monkeypatch):
    """In place of the server's API: knows the project and takes the report; the requests it got."""
    requests = []

    class Project:
        name = "project"

    class Client:
        app_url = "http://server"

    class Api:
        client = Client()

        def projects(self, entity):
            return [Project()]

    def answer(api, query, variables, *args, **kwargs):
        requests.append(variables)
        if "spec" in variables:
            project = {"name": "project", "entityName": "entity"}
            view = {"id": "abc", "name": "n", "displayName": "t", "project": project, "spec": variables["spec"]}
            return {"upsertView": {"view": view}}
        return {"project": {"internalId": "1234"}}

    monkeypatch.setattr(interface, "_get_api", Api)
    monkeypatch.setattr(interface, "execute_graphql", answer)
    return requests


def spec_of(server, **options):
    arguments = {"group": None, "num_stages": 3, "factors": list(DEFAULT_FACTORS), "title": None, **options}
    report = build_report("entity", "project", *arguments.values())
    report.save()
    (request,) = (variables for variables in server if "spec" in variables)
    return request, json.loads(request["spec"])


def test_the_report_has_the_panels_of_a_sweep(server):
    request, view = spec_of(server, group="num_stages")
    assert (request["entityName"], request["projectName"]) == ("entity", "project")
    assert request["displayName"] == "Sparse R-CNN ablations: num_stages"
    text = json.dumps(view)
    titles = re.findall(r'"chartTitle": "([^"]*)"', text)
    assert {"AP over epochs", "AP over wall time", "AP of each stage", "loss", "AP against cost"} <= set(titles)
    assert "val/stage_2/AP" in text
    assert "val/stage_3/AP" not in text
    assert '"val/views"' in text
    filters = re.findall(
        r'"filters": \[\{"key": \{"section": "run", "name": "group"\}, "op": "=", "value": "(\w+)"', text
    )
    assert filters == ["num_stages"] * 4  # every grid shows that sweep alone
    for metric in ("train/stage_0/loss_class", "train/optim/lr", "progress/epoch", "summary:val/bbox/AP"):
        assert metric in text, metric
    for column in map(config_column, DEFAULT_FACTORS):
        assert column in text, column


def test_every_metric_of_the_report_is_one_that_runs_write(server, tmp_path):
    from sparse_rcnn.rundir.reader import Run
    from tests.support import training

    run = Run(training.train(training.overrides(tmp_path)))
    written = set(run.results) | {key for event in run.events() for key in event["metrics"]}
    _, view = spec_of(server, num_stages=2)
    asked = set(re.findall(r'"(?:summary:)?((?:train|val|model)/[\w/]+)"', json.dumps(view))) - {"val/views"}
    assert len(asked) > 15
    assert asked <= written
    keys = set()

    def collect(node, path):
        for key, value in node.items():
            keys.add(f"{path}{key}")
            if isinstance(value, dict):
                collect(value, f"{path}{key}.")

    collect(run.config, "")
    assert set(DEFAULT_FACTORS) <= keys


def test_columns_are_named_as_the_server_nests_them():
    assert config_column("seed") == "config:seed.value"
    assert config_column("model.stage.reuse._target_") == "config:model.value.stage.reuse._target_"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--project", "sparse-rcnn"], "--project sparse-rcnn: give ENTITY/PROJECT"),
        (["--project", "a/b/c"], "--project a/b/c: give ENTITY/PROJECT"),
        (["--project", "a/b", "--num-stages", "0"], "--num-stages must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert main(["wandb-report", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_server_that_fails_is_one_line(monkeypatch, capsys):
    def fail():
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(interface, "_get_api", fail)
    assert main(["wandb-report", "--project", "entity/project"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: W&B did not take the report: ConnectionError: no route; it needs a key")
    assert error.count("\n") == 1
