"""Timings kept between builds; what needs TensorRT is played by `tests.tensorrt_builder_double`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edgeattn.engine.tensorrt.gpu import GpuIdentity
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.timing_cache import default_timing_cache
from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import ArtifactError
from tests.tensorrt_builder_double import timings_text
from tests.tensorrt_builds import PROFILE, build


def options(cache: Path | None = None, **values: bool) -> TensorRtOptions:
    return TensorRtOptions(profiles=(PROFILE,), timing_cache=cache, **values)


def unusable(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.unusable"))


def test_the_default_file_is_one_of_device_driver_and_version(script, tmp_path):
    gpu = GpuIdentity("NVIDIA GeForce RTX 3060 / Laptop", 86, "12.6")
    path = default_timing_cache(TensorRtVersion(10, 3, 0, 30), gpu)
    assert path.parent == tmp_path / "cache/edgeattn/timing"
    assert path.name == "nvidia-geforce-rtx-3060-laptop-sm86-trt10.3.0.30-cuda12.6.timing"


def test_timings_of_one_build_are_there_for_the_next(script, tmp_path):
    cache = tmp_path / "net.timing"
    first = build(tmp_path, options(cache)).timing_cache
    text = timings_text("conv 3")
    assert cache.read_bytes() == text
    assert first == {"path": str(cache), "state": "new", "merged": False, "bytes": len(text)}
    script.timings = ("gemm 5",)
    second = build(tmp_path, options(cache)).timing_cache
    assert cache.read_bytes() == timings_text("conv 3", "gemm 5")
    assert second["state"] == "used"


def test_the_default_file_is_used_where_none_is_named(script, tmp_path):
    path = build(tmp_path, options()).timing_cache["path"]
    assert Path(path).read_bytes() == timings_text("conv 3")
    assert f"-trt{installed_version()}-cuda" in path


def test_no_timings_are_kept_where_none_are_wanted(script, tmp_path):
    built = build(tmp_path, options(no_timing_cache=True))
    assert built.timing_cache == {"path": None, "state": "off", "merged": False, "bytes": 0}
    assert "cache" not in script.calls
    assert not (tmp_path / "cache").exists()


def test_two_builds_that_share_a_file_keep_the_timings_of_both(script, tmp_path):
    cache = tmp_path / "net.timing"
    cache.write_bytes(timings_text("old 1"))

    def other_build_ends(step: int) -> None:
        cache.write_bytes(timings_text("old 1", "other 2"))

    script.on_step = other_build_ends
    built = build(tmp_path, options(cache)).timing_cache
    assert cache.read_bytes() == timings_text("old 1", "other 2", "conv 3")
    assert built["state"] == "used"
    assert built["merged"] is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\xff garbage", "timingCache.cpp"),
        (timings_text("conv 1", version="10.2.0"), "Timing cache of another TensorRT"),
    ],
)
def test_a_file_that_tensorrt_refuses_is_moved_aside_and_said(
    content, reason, script, tmp_path, caplog
):
    cache = tmp_path / "net.timing"
    cache.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        built = build(tmp_path, options(cache)).timing_cache
    assert built["state"] == "recovered"
    assert cache.read_bytes() == timings_text("conv 3")
    (aside,) = unusable(tmp_path)
    assert aside.read_bytes() == content
    assert aside.name in caplog.text
    assert reason in caplog.text


def test_a_broken_file_that_another_build_has_mended_meanwhile_stays(script, tmp_path, monkeypatch):
    cache = tmp_path / "net.timing"
    cache.write_bytes(b"garbage")
    play = script.play

    def mend(what: str, logger: object) -> None:
        play(what, logger)
        if what == "cache" and cache.read_bytes() == b"garbage":
            cache.write_bytes(timings_text("other 2"))

    monkeypatch.setattr(script, "play", mend)
    assert build(tmp_path, options(cache)).timing_cache["state"] == "recovered"
    assert cache.read_bytes() == timings_text("other 2", "conv 3")
    assert unusable(tmp_path) == []


def test_an_empty_file_is_a_new_one(script, tmp_path):
    cache = tmp_path / "net.timing"
    cache.touch()
    assert build(tmp_path, options(cache)).timing_cache["state"] == "new"
    assert unusable(tmp_path) == []


def test_what_another_build_left_and_cannot_be_merged_is_moved_aside(script, tmp_path, caplog):
    cache = tmp_path / "net.timing"
    other = timings_text("conv 1", version="10.2.0")
    script.on_step = lambda step: cache.write_bytes(other) and None
    with caplog.at_level(logging.WARNING):
        built = build(tmp_path, options(cache)).timing_cache
    assert built["merged"] is False
    assert cache.read_bytes() == timings_text("conv 3")
    assert [path.read_bytes() for path in unusable(tmp_path)] == [other]
    assert "cannot be merged" in caplog.text


def test_a_failed_build_keeps_no_timings(script, tmp_path):
    cache = tmp_path / "net.timing"
    script.plan = None
    with pytest.raises(Exception, match="TensorRT built no engine"):
        build(tmp_path, options(cache))
    assert not cache.exists()


def test_tensorrt_that_takes_no_cache_builds_without(script, tmp_path, caplog):
    cache = tmp_path / "net.timing"
    script.refuses = {"cache"}
    with caplog.at_level(logging.WARNING):
        built = build(tmp_path, options(cache))
    assert built.timing_cache["state"] == "refused"
    assert "TensorRT takes no timing cache: TensorRT gave no reason" in caplog.text
    assert built.plan.exists()


def test_timings_that_tensorrt_does_not_give_out_fail_no_build(script, tmp_path, caplog):
    script.nothing = {"serialize"}
    cache = tmp_path / "net.timing"
    with caplog.at_level(logging.WARNING):
        assert build(tmp_path, options(cache)).plan.exists()
    assert "does not give the timings" in caplog.text
    assert not cache.exists()


def test_a_named_file_that_cannot_be_written_is_refused_before_the_build(script, tmp_path):
    with pytest.raises(ArtifactError, match="there is no folder"):
        build(tmp_path, options(tmp_path / "nowhere" / "net.timing"))
    assert script.calls == []


def test_a_cache_folder_that_cannot_be_made_is_done_without(script, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file stands where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert build(tmp_path, options()).timing_cache["state"] == "off"
    assert "no timings are kept" in caplog.text


def test_a_folder_that_goes_away_during_the_build_costs_the_timings_alone(script, tmp_path, caplog):
    folder = tmp_path / "timings"
    folder.mkdir()

    def remove(step: int) -> None:
        if folder.is_dir():
            folder.rmdir()
        folder.write_text("now a file")

    script.on_step = remove
    with caplog.at_level(logging.WARNING):
        assert build(tmp_path, options(folder / "net.timing")).plan.exists()
    assert "the timings of this build are lost" in caplog.text
