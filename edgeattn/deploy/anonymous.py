"""What may be pasted into a public bug report: paths without the names of people in them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edgeattn.deploy.findings import Finding

# Where systems keep homes and the disks that people plug in.
_OF_PEOPLE = re.compile(r"(?P<place>/home|/Users|/media|/run/media)/[^/\s:,;'\")]+")


def anonymous(finding: Finding, home: Path) -> Finding:
    """Take the names of users out of a finding.

    Args:
        finding: What was found; nothing in it but paths tells who works here.
        home: The user's home, which becomes `~`.
    """
    return replace(
        finding, text=_without_names(finding.text, home), fix=_without_names(finding.fix, home)
    )


def _without_names(text: str, home: Path) -> str:
    if home != Path(home.anchor):
        text = re.sub(rf"{re.escape(str(home))}(?=$|[/\s:,;'\")])", "~", text)
    return _OF_PEOPLE.sub(r"\g<place>/USER", text)
