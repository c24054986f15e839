"""`edgeattn compare`: what a second engine loses in accuracy and gains in speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_json, print_table
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
from edgeattn.cli.report_text import STATISTICS, latency_row
from edgeattn.cli.tensorrt_options import tensorrt_run_options
from edgeattn.errors import EdgeAttnError

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions
    from edgeattn.profiling.compare import Comparison


@click.command(
    "compare",
    cls=EngineVerb,
    epilog="Example: edgeattn compare net.engine net.int8.engine --inputs images.npz "
    "--fail-if 'top1_drop > 0.3'",
)
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
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
    help="Exit with 1 if this holds: a figure, < <= > >= == or !=, and a number, such as "
    "'sqnr_db < 30' or 'latency_ratio > 1.05'.",
)
@batch_size_option
@click.option("--no-latency", is_flag=True, help="Compare outputs only.")
@timing_options
@threads_option
@json_option
@tensorrt_run_options
def command(
    a: Path,
    b: Path,
    inputs: Path | None,
    shapes: dict[str, tuple[int, ...]],
    fail_if: tuple[str, ...],
    batch_size: int,
    no_latency: bool,
    iterations: int,
    duration: float,
    warm_up: float,
    threads: int | None,
    as_json: bool,
    tensorrt: TensorRtRunOptions | None,
) -> None:
    """Compare two engines' outputs and latency on the same inputs.

    A is the reference. Either may be an ONNX graph. The figures of --fail-if are those that
    --json prints under `figures`.
    """
    import edgeattn
    from edgeattn.arrays import read_arrays

    with working() as progress:
        comparison = edgeattn.compare(
            a,
            b,
            read_arrays(inputs) if inputs else None,
            fail_if=fail_if,
            batch_size=batch_size,
            latency=not no_latency,
            iterations=iterations,
            duration_s=duration,
            warm_up_ms=warm_up,
            shapes=shapes,
            threads=threads,
            tensorrt=tensorrt,
            progress=progress,
        )
    if as_json:
        print_json(comparison.to_dict())
    else:
        _print(comparison)
    if comparison.violations:
        raise EdgeAttnError(
            f"{b} fails what --fail-if asks for: {'; '.join(comparison.violations)}",
            "the figures are above" if not as_json else "the figures are on stdout",
        )


def _print(comparison: Comparison) -> None:
    columns = ("max abs error", "max rel error", "SQNR dB", "centred", "cosine", "top-1 agreement")
    rows = [
        [
            name,
            f"{output.max_abs_error:.3g}",
            f"{output.max_rel_error:.3g}",
            f"{output.sqnr_db:.1f}",
            "-" if output.centred_sqnr_db is None else f"{output.centred_sqnr_db:.1f}",
            f"{output.cosine:.6f}",
            "-" if output.top1_agreement is None else f"{output.top1_agreement:.2f}%",
        ]
        for name, output in comparison.outputs.items()
    ]
    print_table((f"output, {comparison.num_samples} samples", *columns), rows)
    if comparison.latency_a and comparison.latency_b:
        latencies = (("A", comparison.latency_a), ("B", comparison.latency_b))
        print_table(("ms", *STATISTICS), [[name, *latency_row(stats)] for name, stats in latencies])
    if comparison.latency_ratio is not None:
        click.echo(f"latency     B takes {comparison.latency_ratio:.2f} of A's median")
    if comparison.top1_drop is not None:
        click.echo(
            f"top-1       A {comparison.top1_a:.2f}%, B {comparison.top1_b:.2f}%: "
            f"{comparison.top1_drop:.2f} points lost"
        )
