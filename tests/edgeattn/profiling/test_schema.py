"""docs/profile.schema.json against what is written: reports fit it, it has no key too many."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeattn.engine.build import build
from edgeattn.profiling.board.energy import EnergyPerQuery
from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.verdict import Verdict
from edgeattn.profiling.environment import Environment
from edgeattn.profiling.layers import engine_layers
from edgeattn.profiling.layers.roofline import Ceiling
from edgeattn.profiling.layers.rows import LayerProfile, LayerRow, ModuleRow
from edgeattn.profiling.profile import profile
from edgeattn.profiling.repeated_builds import BuildRow
from edgeattn.profiling.report_files import ReportFiles
from edgeattn.profiling.stats import LatencyStats
from edgeattn.profiling.sustained import Minute
from tests.edgeattn.profiling.page import reports
from tests.graphs import classifier, save

SCHEMA = json.loads((Path(__file__).parents[3] / "docs/profile.schema.json").read_text())


def check(values: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(values, SCHEMA, jsonschema.Draft202012Validator)


def test_a_report_with_everything_fits_and_names_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measuring it takes seconds.
    ceiling = Ceiling("made up", 10.0, {"float32": 100.0, "int8": 200.0})
    monkeypatch.setattr(engine_layers, "cpu_ceiling", lambda threads: ceiling)
    engine = build(save(classifier(1), tmp_path / "net.onnx"), threads=1)
    file = tmp_path / "net.profile.json"
    profile(
        engine,
        iterations=120,
        duration_s=0,
        warm_up_ms=0,
        layers=True,
        sustained_minutes=0.002,
        repeat_builds=1,
        output=ReportFiles(report=file),
    )
    values = json.loads(file.read_text())
    check(values)
    assert set(values) == set(SCHEMA["properties"])


def test_a_report_with_nothing_but_the_latency_fits(tmp_path: Path) -> None:
    engine = build(save(classifier(1), tmp_path / "net.onnx"), threads=1)
    options = {"iterations": 1, "duration_s": 0, "warm_up_ms": 0, "board": False}
    check(json.loads(json.dumps(profile(engine, **options).to_dict())))


def test_sensors_and_energy_of_a_board_fit() -> None:
    values = reports.full_report()
    check_part = jsonschema.Draft202012Validator(SCHEMA).evolve
    for name in ("board", "energy", "verdict", "layers"):
        schema = SCHEMA["properties"][name] | {"$defs": SCHEMA["$defs"]}
        assert values[name]
        check_part(schema=schema).validate(json.loads(json.dumps(values[name])))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("stats", LatencyStats),
        ("environment", Environment),
        ("energy", EnergyPerQuery),
        ("verdict", Verdict),
        ("layer", LayerRow),
        ("module", ModuleRow),
        ("layers", LayerProfile),
        ("minute", Minute),
        ("build", BuildRow),
    ],
)
def test_each_part_has_the_fields_of_its_class(name: str, kind: Any) -> None:
    assert set(SCHEMA["$defs"][name]["properties"]) == {field.name for field in fields(kind)}


def test_a_trace_has_a_column_for_each_field_of_a_sample() -> None:
    assert set(SCHEMA["$defs"]["board"]["properties"]) == set(BoardTrace().to_dict())


def test_a_key_that_nobody_documents_does_not_fit() -> None:
    energy = {"$ref": "#/$defs/energy", "$defs": SCHEMA["$defs"]}
    values = reports.full_report()["energy"]
    jsonschema.validate(values, energy)
    with pytest.raises(jsonschema.ValidationError, match="'joules' was unexpected"):
        jsonschema.validate(values | {"joules": 1.0}, energy)
