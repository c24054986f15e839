"""`edgeattn inspect`: what a file is and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeattn.cli.console import print_fields, print_json, print_table, shape, size
from edgeattn.cli.options import FILE, json_option, output_option

# Those of edgeattn.profiling.report_files, which the help must not import to know.
REPORT_FILES = ("html", "trace", "export-times", "export-profile")


@click.command("inspect", epilog="Example: edgeattn inspect net.int8.onnx")
@click.argument("file", type=FILE)
@json_option
@click.option(
    "--as",
    "notation",
    type=click.Choice(["trt-cache", *REPORT_FILES]),
    help="Give a file as another tool wants it. Of a calibration table trt-cache: the calibration "
    "cache of TensorRT 10, for --tensorrt. Of a latency report, with -o: its page, its trace, or "
    "the lists that trtexec writes.",
)
@click.option(
    "--tensorrt", metavar="VERSION", help="The TensorRT that shall read the cache: 10.3, 10.13.3."
)
@click.option(
    "--calibrator",
    type=click.Choice(["entropy", "minmax"]),
    help="The calibrator that shall read it. Default: entropy, which is trtexec's.",
)
@output_option("Write what --as gives to a file")
def command(
    file: Path,
    as_json: bool,
    notation: str | None,
    tensorrt: str | None,
    calibrator: str | None,
    output: Path | None,
) -> None:
    """Describe any file that edgeattn writes or reads.

    Graphs, calibration tables, engines and reports; any other ONNX graph and TensorRT's calibration
    caches too.
    """
    if notation == "trt-cache":
        _print_cache(file, tensorrt, calibrator, output, as_json)
        return
    if tensorrt or calibrator:
        raise click.UsageError("--tensorrt and --calibrator go with --as trt-cache")
    if notation:
        _write_report(file, notation, output, as_json)
        return
    if output:
        raise click.UsageError("-o goes with --as")
    from edgeattn.inspection import describe

    described = describe(file)
    if as_json:
        print_json(described)
        return
    attention, ranges = described.pop("attention", []), described.pop("ranges", [])
    manifest = described.get("manifest", {})
    lines = _tuning_lines(manifest)
    lines = [*_tensorrt_lines(manifest), *lines]
    print_fields(described)
    for line in lines:
        click.echo(line)
    if ranges:
        columns = ("tensor", "method", "largest", "amax", "clipped %", "scale")
        print_table(columns, map(_range_row, ranges))
    if attention:
        rows = [
            (node["name"] if g == 0 else "", *_group_row(group))
            for node in attention
            for g, group in enumerate(node["groups"])
        ]
        print_table(("attention node", "heads", "window", "shift", "mode", "dilation"), rows)


def _tensorrt_lines(manifest: dict[str, Any]) -> list[str]:
    """Take the report of a TensorRT engine out of its manifest; returns it in lines."""
    if manifest.get("target") != "tensorrt" or "precision" not in manifest.get("report", {}):
        return []
    from edgeattn.engine.tensorrt.build_report import describe_report

    return describe_report(manifest.pop("report"))


def _tuning_lines(manifest: dict[str, Any]) -> list[str]:
    """Take out of an engine's manifest how the engines did that were tried; in lines."""
    if "autotune" not in manifest.get("report", {}):
        return []
    from edgeattn.engine.autotune import autotune_lines

    return autotune_lines(manifest["report"].pop("autotune"))


def _group_row(group: dict[str, Any]) -> tuple[str, ...]:
    first, last = group["head_offset"], group["head_offset"] + group["num_heads"] - 1
    return (
        f"{first}" if first == last else f"{first} to {last}",
        shape(tokens or "all" for tokens in group["window_size"]),
        shape(group["shift_size"]),
        group["mode"] + (", causal" if group["causal"] else ""),
        shape(group["dilation"]),
    )


def _range_row(entry: dict[str, Any]) -> tuple[str, ...]:
    observed = entry.get("observed", {})
    clipped = observed.get("clipped_percent")
    return (
        entry["tensor"],
        entry["method"],
        f"{observed['amax']:.5g}" if observed else "-",
        f"{entry['amax']:.5g}",
        "-" if clipped is None else f"{clipped:.4g}",
        f"{entry['quant_scale']:.5g}",
    )


def _write_report(report: Path, notation: str, output: Path | None, as_json: bool) -> None:
    """Make of a report, which a board without jinja2 may have written, what it did not."""
    from edgeattn.profiling.report import read_report
    from edgeattn.profiling.report_files import ReportFiles

    if output is None or as_json:
        raise click.UsageError(f"--as {notation} needs -o, and goes without --json")
    files = ReportFiles(**{notation.replace("-", "_"): output})
    files.check(report)
    files.write(read_report(report))
    click.echo(f"wrote {output}")


def _print_cache(
    table: Path, tensorrt: str | None, calibrator: str | None, output: Path | None, as_json: bool
) -> None:
    from edgeattn.calibration.table import CalibTable
    from edgeattn.calibration.trt_cache import trt_cache_from_table

    if not tensorrt or as_json:
        raise click.UsageError("--as trt-cache needs --tensorrt, and goes without --json")
    cache = trt_cache_from_table(CalibTable.load(table), tensorrt, calibrator or "entropy")
    if output:
        cache.save(output)
        click.echo(f"wrote {output} ({size(output.stat().st_size)}), {cache.header}")
    else:
        click.echo(cache.to_bytes(), nl=False)
