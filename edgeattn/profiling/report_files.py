"""The files of a report: itself, its page, its trace, and the lists that trtexec writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeattn.artifacts import check_writable, write_bytes, write_json
from edgeattn.errors import ArtifactError
from edgeattn.profiling.page.render import require_jinja2
from edgeattn.profiling.page.report import render_page
from edgeattn.profiling.report import LatencyReport
from edgeattn.profiling.trace import write_trace

_Values = Mapping[str, Any]


@dataclass(frozen=True)
class ReportFiles:
    """Where to write what; `None` for what is not wanted.

    Attributes:
        report: All of it, `NAME.profile.json`.
        html: A page, `NAME.html`.
        trace: A trace for Perfetto, `NAME.trace.json`.
        export_times: The queries alone, as trtexec's `--exportTimes`.
        export_profile: The layers alone, as trtexec's `--exportProfile`.
    """

    report: Path | str | None = None
    html: Path | str | None = None
    trace: Path | str | None = None
    export_times: Path | str | None = None
    export_profile: Path | str | None = None

    def paths(self) -> dict[str, Path]:
        """Give the files that are wanted, by role."""
        return {role: Path(path) for role, path in vars(self).items() if path is not None}

    def check(self, engine: Path | None) -> None:
        """Refuse what cannot be written, before anything is measured.

        Args:
            engine: The file that is measured, which is not to be overwritten.

        Raises:
            ArtifactError: If a file cannot be written, or is to be two at once.
            MissingDependencyError: If the page is wanted without jinja2.
        """
        taken = set() if engine is None else {engine.absolute()}
        for path in self.paths().values():
            if path.absolute() in taken:
                raise ArtifactError(f"{path} would be two files at once", "choose another name")
            taken.add(path.absolute())
            check_writable(path)
        if self.html is not None:
            require_jinja2()

    def write(self, report: LatencyReport) -> None:
        """Write what is wanted.

        Raises:
            ArtifactError: If a file cannot be written, or the layers are wanted and not known.
        """
        paths = self.paths()
        values = report.to_dict() if paths else {}
        for role, path in paths.items():
            _WRITERS[role](values, path)


def _write_report(values: _Values, path: Path) -> None:
    write_json(path, values)


def _write_times(values: _Values, path: Path) -> None:
    _write_list(values["exportTimes"], path)


def _write_profile(values: _Values, path: Path) -> None:
    if values["exportProfile"] is None:
        raise ArtifactError(
            f"{path} cannot be written: the layers were not measured",
            "the warnings say why; or measure them: --layers, layers=True",
        )
    _write_list(values["exportProfile"], path)


def _write_list(entries: Any, path: Path) -> None:
    write_bytes(path, (json.dumps(entries, indent=1, allow_nan=False) + "\n").encode())


_WRITERS: dict[str, Callable[[_Values, Path], None]] = {
    "report": _write_report,
    "html": render_page,
    "trace": write_trace,
    "export_times": _write_times,
    "export_profile": _write_profile,
}
