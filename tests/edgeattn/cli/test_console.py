import json
import math
import os
import pty
import subprocess
import sys
import textwrap

import pytest

from edgeattn.cli import console


def test_sizes_counts_and_shapes_are_for_people():
    assert [console.size(n) for n in (0, 1023, 1024, 1536 * 1024, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "5120.0 GiB",
    ]
    assert [console.count(n) for n in (7, 1200, 28_288_354, 4_656_299_520)] == [
        "7",
        "1.2 k",
        "28.3 M",
        "4.66 G",
    ]
    assert console.shape((1, "batch", 28)) == "1xbatchx28"


def test_json_is_one_object_without_nan(capsys):
    console.print_json({"a": math.inf, "b": [math.nan, 1.5], "c": {"d": (1, None)}})
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": [1, None]},
    }


def test_a_table_keeps_long_cells_whole_and_lines_without_trailing_space(capsys):
    path = "a/very/long/[bold]path/" * 8
    console.print_table(("file", "ms"), [(path, "1.50"), ("b", "12.25")])
    lines = capsys.readouterr().out.splitlines()
    assert path in lines[2]
    assert all(line == line.rstrip() for line in lines)
    assert lines[2].index("1.50") == lines[3].index("12.25") + 1  # numbers end together


def test_fields_show_nested_values_and_count_long_listings(capsys):
    console.print_fields(
        {
            "flag": True,
            "one": 1,
            "nothing": None,
            "ratio": 0.123456789,
            "shape": [1, 3, 8],
            "names": ["a", "b"],
            "empty": [],
            "flat": {"x": 1, "y": "", "z": 2.5},
            "deep": {"inner": {"k": "v"}, "list": [1.5, 2.5]},
            "inputs": [{"name": "a"}, {"name": "b"}],
            "many": [{"k": k} for k in range(9)],
            "long": list("abcdefghij"),
        }
    )
    assert capsys.readouterr().out == textwrap.dedent(
        """\
        flag     yes
        one      1
        nothing  none
        ratio    0.123457
        shape    1x3x8
        names    a, b
        empty    none
        flat     x 1, z 2.5
        deep
          inner  k v
          list   1.5, 2.5
        inputs   name a
                 name b
        many     9 entries; --json shows them
        long     a, b, c, d, e, f, g, h and 2 more; --json shows them
        """
    )


WORK = """
import time
from edgeattn.cli.progress import working
with working() as progress:
    print("chatter")
    if progress:
        for done in range(4):
            progress(done, 4, "counting sheep")
            time.sleep(0.15)
print("result")
"""


def test_progress_is_silent_where_stderr_is_no_terminal():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    assert done.stdout == "result\n"
    assert done.stderr == "chatter\n"


def test_progress_is_a_bar_on_a_terminal_and_stdout_holds_the_result_alone():
    try:
        terminal, end = pty.openpty()
    except OSError as err:
        pytest.skip(f"no pseudo terminal: {err}")
    process = subprocess.Popen(
        [sys.executable, "-c", WORK],
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(end)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    out, _ = process.communicate()
    os.close(terminal)
    assert out == "result\n"
    assert b"counting sheep" in shown
    assert b"/4" in shown
