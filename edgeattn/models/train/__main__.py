"""Command line: train a model of the registry, or write the sample files.

Examples:
    python -m edgeattn.models.train mswin_nano
    python -m edgeattn.models.train mswin_nano --development --epochs 10
    python -m edgeattn.models.train samples
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edgeattn.errors import EdgeAttnError
from edgeattn.models.train.recipes import RECIPES, train
from edgeattn.models.train.samples import write_samples
from edgeattn.models.weights_io import save_weights

_PACKAGE = Path(__file__).parents[2]
_WEIGHTS = _PACKAGE / "models" / "weights"
_SAMPLES = _PACKAGE.parent / "calib" / "samples"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgeattn.models.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=[*RECIPES, "samples"], help="a model, or the samples")
    parser.add_argument("--seed", type=int, default=0, help="fixes the run (default 0)")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--development",
        action="store_true",
        help="hold out a fifth of the training part instead, to choose settings; writes only "
        "with --output",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="weights file (default: that of the package), or folder of the samples "
        "(default: calib/samples)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.what == "samples":
            for path in write_samples(options.output or _SAMPLES):
                print(path)
        else:
            _train(options)
    except EdgeAttnError as err:
        print(f"Error: {err.message}", file=sys.stderr)
        if err.hint:
            print(f"hint: {err.hint}", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    start = time.monotonic()

    def progress(epoch: int, epochs: int, loss: float) -> None:
        elapsed_s = time.monotonic() - start
        print(f"epoch {epoch}/{epochs}: loss {loss:.4f}, {elapsed_s:.0f} s", file=sys.stderr)

    outcome = train(
        options.what,
        seed=options.seed,
        epochs=options.epochs,
        development=options.development,
        progress=progress,
    )
    path: Path | None = options.output
    if path is None and not options.development:
        path = _WEIGHTS / f"{options.what}.safetensors"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One entry: safetensors writes several in an arbitrary order, and equal runs should give
        # equal files.
        save_weights(outcome.model, path, {"training": json.dumps(outcome.metadata)})
        print(path)
    for key, value in outcome.metadata.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    sys.exit(main())
