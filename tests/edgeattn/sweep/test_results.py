import errno
import json
import os
from pathlib import Path

import pytest

from edgeattn.errors import ArtifactError
from edgeattn.sweep.results import FILE_NAME, Results, read_rows


def row(case, status="ok", **more):
    rest = {"label": case, "parameters": {}, "parents": {}, "figures": {}, "error": None}
    return {"row_version": 1, "case": case, "status": status, **rest, **more}


def filled(folder, *rows):
    with Results(folder) as results:
        for each in rows:
            results.append(each)
    return folder / FILE_NAME


def test_a_row_is_in_the_file_when_append_returns(tmp_path):
    with Results(tmp_path / "new" / "folder") as results:
        results.append(row("a", figures={"p50_ms": 1.5}))
        assert read_rows(results.path) == [row("a", figures={"p50_ms": 1.5})]


def test_a_row_is_flushed_to_disk_before_append_returns(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("os.fsync", lambda file: flushed.append(Path(f"/proc/self/fd/{file}")))
    with Results(tmp_path) as results:
        results.append(row("a"))
        (file,) = flushed
        assert file.readlink() == tmp_path / FILE_NAME


def test_a_disk_that_is_full_leaves_whole_rows_alone(tmp_path, monkeypatch):
    write = os.write
    with Results(tmp_path) as results:
        results.append(row("a"))
        with monkeypatch.context() as patched:
            patched.setattr("os.write", lambda file, data: write(file, data[: len(data) // 2]))
            with pytest.raises(ArtifactError, match="the disk is full"):
                results.append(row("b"))
        results.append(row("b"))  # somebody made room
    assert [r["case"] for r in read_rows(tmp_path / FILE_NAME)] == ["a", "b"]


def test_nan_and_infinity_become_null_in_the_file_and_in_memory(tmp_path):
    with Results(tmp_path) as results:
        results.append(row("a", figures={"sqnr_db": float("inf"), "x": [float("nan")]}))
        assert results.rows == read_rows(results.path)
        assert results.rows[0]["figures"] == {"sqnr_db": None, "x": [None]}


def test_rows_that_are_there_are_refused_unless_they_are_gone_on_with(tmp_path):
    filled(tmp_path, row("a"))
    with pytest.raises(ArtifactError, match="has rows of 1 cases already") as caught:
        Results(tmp_path)
    assert "--resume" in caught.value.hint
    with Results(tmp_path, resume=True) as results:
        results.append(row("b"))
    assert [r["case"] for r in read_rows(tmp_path / FILE_NAME)] == ["a", "b"]


def test_the_beginning_of_a_line_that_a_kill_left_is_cut_off(tmp_path):
    path = filled(tmp_path, row("a"))
    whole = json.dumps(row("b", figures={"p50_ms": 1.0}))
    for length in (1, len(whole) // 2, len(whole)):
        with path.open("a") as stream:
            stream.write(whole[:length])
        with Results(tmp_path, resume=True) as results:
            assert [r["case"] for r in results.rows] == ["a"]
        assert path.read_bytes().endswith(b"}\n")
    with Results(tmp_path, resume=True) as results:
        results.append(row("b"))
    assert [r["case"] for r in read_rows(path)] == ["a", "b"]


def test_rows_are_dropped_if_their_cases_run_again(tmp_path):
    path = filled(tmp_path, row("a", "failed"), row("b"))
    with Results(tmp_path, resume=True) as results:
        assert [r["case"] for r in results.rows] == ["a", "b"]

    def has_failed(row):
        return row["status"] == "failed"

    with Results(tmp_path, resume=True, again=has_failed) as results:
        assert [r["case"] for r in results.rows] == ["b"]
        results.append(row("a"))
    assert [r["status"] for r in read_rows(path)] == ["ok", "ok"]


def test_no_case_gets_a_second_row(tmp_path):
    with Results(tmp_path) as results:
        results.append(row("a"))
        with pytest.raises(ArtifactError, match="the case a has a row already"):
            results.append(row("a"))
    with (tmp_path / FILE_NAME).open("a") as stream:
        stream.write(json.dumps(row("a")) + "\n")
    with pytest.raises(ArtifactError, match=r"line 2 .* is a second row of the case a"):
        read_rows(tmp_path / FILE_NAME)


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    with Results(tmp_path), pytest.raises(ArtifactError, match="another sweep is writing"):
        Results(tmp_path, resume=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Results(tmp_path, resume=True):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_that_cannot_be_written_or_locked_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="file cannot be made: File exists"):
        Results(tmp_path / "file")
    (tmp_path / "a" / "sweep.lock").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"sweep\.lock is not writable: Is a directory"):
        Results(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / FILE_NAME).symlink_to(tmp_path / "nowhere" / "rows")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ArtifactError, match="jsonl is not writable: No such file"):
        Results(tmp_path / "b")
    assert len(list(Path("/proc/self/fd").iterdir())) == before

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")  # as some network disks do

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ArtifactError, match=r"cannot be locked .*: No locks available"):
        Results(tmp_path / "c")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "line 1 .* is no row"),
        ("[1]", "line 1 .* is no row"),
        ('{"case', "line 1 .* is no row"),
        ('{"case": "a", "row_version": 1, "label": "a"}', "it lacks error, figures, parameters"),
        ('{"case": "a", "row_version": 99}', "line 1 .* has version 99"),
    ],
)
def test_a_line_that_is_no_row_is_refused(tmp_path, line, message):
    (tmp_path / FILE_NAME).write_text(line + "\n")
    with pytest.raises(ArtifactError, match=message):
        Results(tmp_path, resume=True)
