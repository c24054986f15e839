"""`edgeattn compare`: what engines lose in accuracy and gain in speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.compare_text import print_comparisons
from edgeattn.cli.console import print_json
from edgeattn.cli.options import (
    FILE,
    EngineVerb,
    batch_size_option,
    json_option,
    shapes_option,
    threads_option,
    timing_options,
)
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_run_options
from edgeattn.errors import EdgeAttnError

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions
    from edgeattn.profiling.comparison.result import Comparisons


@click.command(
    "compare",
    cls=EngineVerb,
    epilog="Example: edgeattn compare net.engine net.int8.engine --inputs images.npz "
    "--fail-if 'top1_drop > 0.3' --fail-if 'p99 > +5%'",
)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.argument("others", type=FILE, nargs=-1, metavar="[C]...")
@click.option(
    "--inputs",
    type=FILE,
    help="A .npz file: arrays by input name, samples along axis 0, and class indices as "
    "`label` if there are any. Default: random.",
)
@shapes_option
@click.option(
    "--fail-if",
    multiple=True,
    metavar="EXPR",
    help="Exit with 1 if this holds of a candidate: a figure, < <= > >= == or !=, and a number, "
    "such as 'sqnr_db < 30'; or a percentile and by how much it differs from A's, such as "
    "'p99 > +5%', which holds where all of its 95 % interval lies beyond.",
)
@click.option("--strict", is_flag=True, help="Exit with 1, too, where that is too close to call.")
@batch_size_option
@click.option("--no-latency", is_flag=True, help="Compare outputs only.")
@click.option("--layers", is_flag=True, help="Measure where the time of engines goes, by module.")
@click.option("--any-mode", is_flag=True, help="Compare reports of different modes all the same.")
@timing_options
@threads_option
@click.option("--html", type=FILE, help="Page to write, to read in any browser: NAME.html")
@json_option
@tensorrt_run_options
def command(
    a: Path,
    b: Path,
    others: tuple[Path, ...],
    inputs: Path | None,
    shapes: dict[str, tuple[int, ...]],
    fail_if: tuple[str, ...],
    strict: bool,
    batch_size: int,
    no_latency: bool,
    layers: bool,
    any_mode: bool,
    iterations: int,
    duration: float,
    warm_up: float,
    threads: int | None,
    html: Path | None,
    as_json: bool,
    tensorrt: TensorRtRunOptions | None,
) -> None:
    """Compare engines, or reports of them: outputs, latency, modules.

    A is the reference, the others are held against it. Each may be an engine, an ONNX graph or a
    report, NAME.profile.json. The latencies of engines are measured in turns; of reports, those in
    them are compared. The figures of --fail-if are those that --json prints under `figures`.
    """
    from edgeattn.arrays import read_arrays
    from edgeattn.profiling.compare import compare_many

    with working() as progress:
        found = compare_many(
            a,
            (b, *others),
            read_arrays(inputs) if inputs else None,
            fail_if=fail_if,
            batch_size=batch_size,
            latency=not no_latency,
            layers=layers,
            any_mode=any_mode,
            iterations=iterations,
            duration_s=duration,
            warm_up_ms=warm_up,
            html=html,
            shapes=shapes,
            threads=threads,
            tensorrt=tensorrt,
            progress=progress,
        )
    if as_json:
        print_json(found.pairs[0].to_dict() if not others else found.to_dict())
    else:
        print_comparisons(found)
        if html:
            click.echo(f"wrote {html}")
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    _judge(found, (b, *others), strict, as_json)


def _judge(found: Comparisons, candidates: tuple[Path, ...], strict: bool, as_json: bool) -> None:
    """Fail where a gate does; say where one is too close to call.

    Raises:
        EdgeAttnError: If a gate fails.
    """
    failures = []
    for file, pair in zip(candidates, found.pairs, strict=True):
        failed = pair.violations + (pair.undecided if strict else ())
        if failed:
            failures.append(f"{file} fails what --fail-if asks for: {'; '.join(failed)}")
        elif pair.undecided:
            click.echo(f"warning: {file}: {'; '.join(pair.undecided)}", err=True)
    if failures:
        raise EdgeAttnError(
            "; ".join(failures),
            "the figures are above" if not as_json else "the figures are on stdout",
        )
