"""The files of a report: itself, its page, its trace, and the lists that trtexec writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeattn.artifacts import check_writable, write_bytes, write_json
from edgeattn.errors import ArtifactError
from edgeattn.profiling.page.render import require_jinja2
from edgeattn.profiling.page.report import render_page
from edgeattn.profiling.report import LatencyReport
from edgeattn.profiling.trace import write_trace


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

    report: Path | None = None
    html: Path | None = None
    trace: Path | None = None
    export_times: Path | None = None
    export_profile: Path | None = None

    def paths(self) -> Iterator[Path]:
        """Give the files that are wanted."""
        yield from (path for path in vars(self).values() if path is not None)

    def check(self, engine: Path | None) -> None:
        """Refuse what cannot be written, before anything is measured.

        Args:
            engine: The file that is measured, which is not to be overwritten.

        Raises:
            ArtifactError: If a file cannot be written, or is to be two at once.
            MissingDependencyError: If the page is wanted without jinja2.
        """
        taken = set() if engine is None else {engine.absolute()}
        for path in self.paths():
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
        values = report.to_dict() if any(True for _ in self.paths()) else {}
        if self.report is not None:
            write_json(self.report, values)
        if self.html is not None:
            render_page(values, self.html)
        if self.trace is not None:
            write_trace(values, self.trace)
        if self.export_times is not None:
            _write_list(self.export_times, values["exportTimes"])
        if self.export_profile is not None:
            if values["exportProfile"] is None:
                raise ArtifactError(
                    f"{self.export_profile} cannot be written: the layers were not measured",
                    "the warnings say why; or measure them: --layers, layers=True",
                )
            _write_list(self.export_profile, values["exportProfile"])


def _write_list(path: Path, entries: object) -> None:
    write_bytes(path, (json.dumps(entries, indent=1, allow_nan=False) + "\n").encode())
