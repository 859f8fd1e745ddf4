"""Every mistake in a configuration fails in `validate`, in one line that names the dotted key."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from omegaconf import OmegaConf

from experiments.config.validation import ConfigError, instantiate_options, validate
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.writer import config_text

if TYPE_CHECKING:
    from nowhere import Unknown

HERE = "tests.experiments.config.test_validation"


class Base:
    pass


class Inner(Base):
    def __init__(self, num_layers: int, rate: float) -> None:
        self.num_layers = num_layers
        self.rate = rate


class Other:
    def __init__(self) -> None:
        pass


class Outer:
    def __init__(
        self,
        num_classes: int,
        inner: Base,
        strides: Sequence[int] = (),
        pair: tuple[float, float] | None = None,
        mode: Literal["a", "b"] = "a",
        norms: list[float] | None = None,
        flag: bool = False,
        name: str | None = None,
        weights: dict[str, float] | None = None,
        folder: str | Path | None = None,
        activation: Callable[[int], int] | None = None,
        unknown: Unknown | None = None,
    ) -> None:
        pass

    @classmethod
    def create(cls, num_classes: int) -> Outer:
        return cls(num_classes, Base())


class Anything:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


@dataclass
class Train:
    num_steps: int = 10
    lr: float = 0.1

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.lr <= 0:
            raise ValueError("the learning rate must be positive")


@dataclass
class Root:
    seed: int = 0
    train: Train = field(default_factory=Train)
    model: Any = None


def inner(**changes: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.Inner", "num_layers": 2, "rate": 0.5, **changes}


def outer(**changes: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.Outer", "num_classes": 3, "inner": inner(), **changes}


def check(node: dict[str, Any], **options: Any) -> dict[str, Any]:
    return validate(OmegaConf.create({"a": {"model": node}}), **options)


def refused(node: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(node, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_correct_config_comes_back_plain_and_resolved() -> None:
    node = outer(strides=[4, 8], pair=[1, 0.5], mode="b", norms=None, flag=True, weights={"l1": 2}, folder="/x")
    node["inner"] = inner(num_layers="${depth}")
    cfg = OmegaConf.create({"depth": 4, "a": {"model": node}})
    config = validate(cfg)
    assert config["a"]["model"]["inner"] == inner(num_layers=4)
    assert type(config["a"]["model"]["strides"]) is list
    assert json.loads(config_text(config)) == config


def test_misspelt_key_three_levels_deep_is_named_with_a_suggestion() -> None:
    node = inner(num_layer=2)
    del node["num_layers"]
    message = refused(outer(inner=node))
    assert message.startswith("a.model.inner.num_layer: unknown key; did you mean 'num_layers'?")
    assert f"{HERE}.Inner accepts: num_layers, rate" in message


def test_misspelt_key_inside_a_list_is_named_with_its_index() -> None:
    cfg = OmegaConf.create({"steps": [inner(), inner(rato=1.0)]})
    with pytest.raises(ConfigError, match=r"^steps\[1\]\.rato: unknown key; did you mean 'rate'\?"):
        validate(cfg)


def test_missing_required_argument_is_named() -> None:
    node = inner()
    del node["rate"]
    assert refused(outer(inner=node)) == f"a.model.inner.rate: missing, {HERE}.Inner requires it"


def test_a_partial_node_may_lack_arguments_but_not_misspell_them() -> None:
    partial = {"_target_": f"{HERE}.Inner", "_partial_": True}
    check({**partial, "rate": 1.0})
    assert refused({**partial, "rat": 1.0}).startswith("a.model.rat: unknown key")


@pytest.mark.parametrize("where", ["a.model", f"{HERE}.Outer"])
def test_injected_arguments_need_not_and_may_not_be_in_the_config(where: str) -> None:
    node = outer()
    del node["num_classes"]
    check(node, injected={where: {"num_classes"}})
    assert refused(outer(), injected={where: ["num_classes"]}).startswith("a.model.num_classes: is passed to")
    assert refused(node, injected={"a.other": {"num_classes"}}).startswith("a.model.num_classes: missing")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{HERE}.Iner", f"a.model._target_: {HERE}.Iner does not exist .* did you mean 'Inner'"),
        (
            "tests.experiments.config.test_validaton.Inner",
            "does not exist .* did you mean 'test_validation'",
        ),
        ("nowhere.Thing", "a.model._target_: nowhere.Thing does not exist .*no module 'nowhere'"),
        (f"{HERE}.HERE", "a.model._target_: .* is not a class or function"),
        ("a b", "a.model._target_: expected the dotted name of a class, got 'a b'"),
        (None, "a.model._target_: expected the dotted name"),
    ],
)
def test_a_target_that_does_not_exist_is_named(target: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check({"_target_": target})


def test_a_target_whose_module_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_needs_more.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    message = refused({"_target_": "module_that_needs_more.Thing"})
    assert message.startswith("a.model._target_: module_that_needs_more.Thing cannot be imported")
    assert "absent_dependency" in message


def test_positional_arguments_and_bad_control_values_are_refused() -> None:
    assert refused(inner(_args_=[1])).startswith("a.model._args_: positional arguments are not accepted")
    assert refused(inner(_partial_="yes")).startswith("a.model._partial_: expected true or false")
    assert refused(inner(_convert_="list")).startswith("a.model._convert_: expected one of")
    assert refused(inner(_patrial_=True)).startswith("a.model._patrial_: unknown key; did you mean '_partial_'")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": "three"}, "a.model.num_classes: expected int, got 'three' (str)"),
        ({"num_classes": 3.0}, "a.model.num_classes: expected int, got 3.0 (float)"),
        ({"num_classes": True}, "a.model.num_classes: expected int, got True (bool)"),
        ({"num_classes": None}, "a.model.num_classes: expected int, got null"),
        ({"flag": 1}, "a.model.flag: expected bool, got 1 (int)"),
        ({"name": 5}, "a.model.name: expected str | null, got 5 (int)"),
        ({"strides": 4}, "a.model.strides: expected a list, got 4 (int)"),
        ({"strides": "48"}, "a.model.strides: expected a list, got '48' (str)"),
        ({"strides": [4, "8"]}, "a.model.strides[1]: expected int, got '8' (str)"),
        ({"norms": [1.0, None]}, "a.model.norms[1]: expected float, got null"),
        ({"weights": {"l1": "x"}}, "a.model.weights.l1: expected float, got 'x' (str)"),
        ({"mode": "c"}, "a.model.mode: expected Literal['a', 'b'], got 'c' (str)"),
        ({"inner": 3}, f"a.model.inner: expected {HERE}.Base, got 3 (int)"),
        ({"inner": None}, f"a.model.inner: expected {HERE}.Base, got null"),
        (
            {"inner": {"num_layers": 1}},
            f"a.model.inner: expected {HERE}.Base, got a mapping without a _target_",
        ),
        ({"inner": {"_target_": f"{HERE}.Other"}}, f"expected {HERE}.Base, but {HERE}.Other is none"),
    ],
)
def test_values_of_the_wrong_type_are_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refused(outer(**changes))


def test_a_list_of_the_wrong_length_is_refused() -> None:
    assert "expected" in refused(outer(pair=[1.0, 2.0, 3.0]))
    assert refused(outer(pair=[1.0, 2.0, 3.0])).startswith("a.model.pair: ")


def test_a_float_takes_an_integer_and_refuses_a_quoted_number_with_a_hint() -> None:
    check(inner(rate=1))
    message = refused(inner(rate="1e-4"))
    assert message == "a.model.rate: expected float, got '1e-4' (str) (write the number without quotes)"
    assert refused(inner(rate="fast")).endswith("got 'fast' (str)")
    assert refused(outer(pair="1e-4")).startswith("a.model.pair: expected")


def test_one_annotation_that_cannot_be_evaluated_does_not_switch_off_the_others() -> None:
    check(outer(unknown=7))
    assert refused(outer(flag="no")).startswith("a.model.flag: expected bool")


def test_functions_classmethods_and_constructors_that_take_any_key() -> None:
    check({"_target_": f"{HERE}.Outer.create", "num_classes": 2})
    assert refused({"_target_": f"{HERE}.Outer.create", "classes": 2}).startswith("a.model.classes: unknown key")
    check({"_target_": f"{HERE}.Anything", "whatever": 1})


def test_missing_values_are_named_with_what_to_do() -> None:
    cfg = OmegaConf.create({"file": "${data.root}/x", "data": {"root": "???"}, "x": "???"})
    with pytest.raises(ConfigError, match=r"^data\.root: has no value; set it on the command line: data\.root=.*x"):
        validate(cfg)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"b": "${nowhere.x}"}}, r"^a\.b: .*nowhere\.x"),
        ({"a": [1, "${oc.env:SURELY_NOT_SET}"]}, r"^a\[1\]: .*SURELY_NOT_SET"),
        ({"a": {"b": "${a}"}}, r"^a\.b: "),
        ({"a": {"b": "${c}"}, "c": "${a.b}"}, r"^a\.b: "),
    ],
)
def test_interpolations_that_do_not_resolve_are_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(OmegaConf.create(content))


def test_ranges_of_dataclass_nodes_are_checked_and_named() -> None:
    cfg = OmegaConf.structured(Root)
    assert validate(cfg) == {"seed": 0, "train": {"num_steps": 10, "lr": 0.1}, "model": None}
    cfg.train.num_steps = 0
    with pytest.raises(ConfigError, match=r"^train\.num_steps must be at least 1, got 0$"):
        validate(cfg)
    cfg.train.num_steps, cfg.train.lr = 1, 0.0
    with pytest.raises(ConfigError, match=r"^train: the learning rate must be positive$"):
        validate(cfg)


def test_a_key_added_to_a_dataclass_node_is_refused() -> None:
    cfg = OmegaConf.structured(Root)
    OmegaConf.update(cfg, "train.num_step", 3, force_add=True)  # what `+train.num_step=3` does
    with pytest.raises(ConfigError, match=r"^train\.num_step: unknown key; did you mean 'num_steps'\?"):
        validate(cfg)


def test_json_is_sorted_exact_and_refuses_what_it_cannot_hold() -> None:
    text = config_text({"b": 0.1 + 0.2, "a": [1e-5, None, True]})
    assert text.index('"a"') < text.index('"b"')
    assert json.loads(text)["b"] == 0.1 + 0.2
    with pytest.raises(UserError, match=r"^a\.b\[1\]: nan is not a finite number"):
        config_text({"a": {"b": [1.0, float("nan")]}})


def test_instantiate_gets_only_what_this_hydra_knows() -> None:
    from hydra.utils import instantiate

    node = {"_target_": "sparse_rcnn.errors.UserError", "message": "built"}
    assert str(instantiate(node, **instantiate_options(node))) == "built"
