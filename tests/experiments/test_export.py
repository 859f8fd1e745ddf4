"""The export command: a checked file, or the older one as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sparse_rcnn.export
from experiments.export import main
from sparse_rcnn.weights import save_detector
from tests.support.detectors import small_card, small_detector


def test_a_file_gets_its_name_once_it_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = small_detector(card=small_card()), tmp_path / "out" / "model.pt2"
    save_detector(model, model.card, tmp_path / "model.safetensors")
    out.parent.mkdir()
    out.write_bytes(b"older")
    monkeypatch.setattr(sys, "argv", ["export", str(tmp_path / "model.safetensors"), str(out)])
    with monkeypatch.context() as strict:
        strict.setattr(sparse_rcnn.export, "TOLERANCE", -1.0)
        with pytest.raises(SystemExit):
            main()
    assert "model.pt2: outputs differ from PyTorch's by" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["model.pt2"]
    assert out.read_bytes() == b"older"
    main()
    assert "equal to PyTorch's outputs within" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["model.pt2"]
    assert out.stat().st_size > 1000
