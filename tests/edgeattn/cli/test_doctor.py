"""`edgeattn doctor` as a user types it."""

from __future__ import annotations

import json

import pytest

from edgeattn.cli.main import run
from edgeattn.deploy import doctor
from edgeattn.deploy.doctor import Examination
from edgeattn.deploy.findings import Finding

FINDINGS = (
    Finding("ok", "Python", "3.10.12"),
    Finding("warning", "swap", "0.0 GiB of swap on disk are free", "sudo swapon /swapfile"),
)
ERROR = Finding("error", "NumPy", "NumPy 2.0 with TensorRT 10.3", "pip install 'numpy<2'")


def found(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(doctor, "examine", lambda progress=None: Examination(None, findings))


def test_findings_and_their_remedies_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, *FINDINGS)
    assert run(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "0.0 GiB of swap on disk are free" in printed
    assert "warning, swap: sudo swapon /swapfile" in printed


def test_an_error_ends_with_exit_code_1_and_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, *FINDINGS, ERROR)
    assert run(["doctor"]) == 1
    printed = capsys.readouterr()
    assert "error, NumPy: pip install 'numpy<2'" in printed.out
    assert printed.err.startswith("Error: 1 findings are errors: NumPy: NumPy 2.0 with TensorRT")
    assert "hint: pip install 'numpy<2'" in printed.err


def test_json_is_one_object_with_and_without_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, *FINDINGS, ERROR)
    assert run(["doctor", "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert (values["passed"], values["board"], len(values["findings"])) == (False, None, 3)
    assert values["findings"][2] == ERROR.to_dict()
    assert "selftest" not in values


def test_the_self_test_adds_its_cases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found(monkeypatch, *FINDINGS)
    assert run(["doctor", "--selftest", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["passed"] is True
    assert [case["precision"] for case in values["selftest"]] == ["fp32", "fp16", "int8"]
    assert {case["engine"] for case in values["selftest"]} <= {"cpu", "tensorrt"}


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--help"]) == 0
    assert "Example: edgeattn doctor --selftest" in capsys.readouterr().out
