"""Is the CPU engine faster than what its user would otherwise run?

One Swin-T (224x224, random weights, every bias and position bias drawn, so that nothing folds
away), batch 1 and 8, five ways in one run, taking turns:

* `edgeattn`: the weights in our layers, exported, built and run by the CPU engine;
* `onnxruntime`: the Hugging Face module through `torch.onnx.export`, run by ONNX Runtime as it
  comes, and `onnxruntime-simplified`: the same after onnxsim;
* `torch-eager` and `torch-compile`: the Hugging Face module in PyTorch.

All use the same threads. Outputs are compared before anything is timed.

    python -m benchmarks.bench_cpu_engine [--batch N]... [--seconds S] [--no-compile]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import edgeattn
from benchmarks.rows import append_row
from edgeattn.engine.host import usable_cores
from edgeattn.graph.verify import relative_error
from edgeattn.models.foreign import state_dict_from_hf_swin
from edgeattn.models.mswin import MSWin
from edgeattn.profiling.measure import measure_interleaved
from edgeattn.profiling.stats import LatencyStats

MAX_RELATIVE_ERROR = 1e-4
Query = Callable[[], object]


def hugging_face_swin() -> nn.Module:
    """Build a Swin-T with random weights, biases included."""
    from tests.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    # The exporter cannot trace the module's scaled_dot_product_attention form.
    model = SwinForImageClassification._from_config(
        SwinConfig(num_labels=1000), attn_implementation="eager"
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.endswith("relative_position_bias_table"):
            is_gain = "norm" in name and name.endswith("weight")
            nn.init.normal_(parameter, 1.0 if is_gain else 0.0, 0.1)
    return model.eval()


def our_swin(reference: nn.Module) -> MSWin:
    """Fill our layers with the weights of the Hugging Face module."""
    state, keywords = state_dict_from_hf_swin(reference.state_dict())
    model = MSWin(**keywords)
    model.load_state_dict(state)
    return model.eval()


def onnxruntime_query(path: Path, image: np.ndarray, threads: int) -> Query:
    """Open a file in ONNX Runtime with its default options."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": image})[0]


def export_plainly(model: nn.Module, image: torch.Tensor, folder: Path) -> dict[str, Path]:
    """Export the module as PyTorch's documentation says, and simplify a copy with onnxsim."""
    import onnx
    import onnxsim

    plain, simplified = folder / "plain.onnx", folder / "simplified.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (image,), dynamo=True, opset_version=20, input_names=["input"], verbose=False
        )
    program.save(plain)
    onnx.save(onnxsim.simplify(onnx.load(plain))[0], simplified)
    return {"onnxruntime": plain, "onnxruntime-simplified": simplified}


def run_batch(batch: int, seconds: float, compiled: bool, folder: Path) -> None:
    """Measure every way at one batch size, print the table and keep the rows."""
    threads = usable_cores()
    torch.set_num_threads(threads)
    reference = hugging_face_swin()
    image = torch.randn(batch, 3, 224, 224)
    array = image.numpy()

    spec = edgeattn.InputSpec((batch, 3, 224, 224))
    graph = edgeattn.export(our_swin(reference), spec, folder / "swin_t.onnx")
    plan = edgeattn.build(graph, folder / "swin_t.engine", engine="cpu")
    engine = edgeattn.load(plan, threads=threads)
    queries: dict[str, Query] = {"edgeattn": lambda: engine.run({"input": array})["output"]}
    for name, path in export_plainly(reference, image, folder).items():
        queries[name] = onnxruntime_query(path, array, threads)

    def eager() -> np.ndarray:
        with torch.inference_mode():
            return reference(image).logits.numpy()

    queries["torch-eager"] = eager
    if compiled:
        optimised = torch.compile(reference)

        def compile_() -> np.ndarray:
            with torch.no_grad():
                return optimised(image).logits.numpy()

        queries["torch-compile"] = compile_

    expected = eager()
    for name, query in queries.items():
        error = relative_error([expected], [np.asarray(query())])
        if not error <= MAX_RELATIVE_ERROR:
            raise SystemExit(f"{name} differs from torch by {error:.1e} relative")

    measured = measure_interleaved(queries, duration_s=seconds, warm_up_ms=500)
    ours = LatencyStats.from_samples(measured["edgeattn"].latency_ms)
    print(f"\nSwin-T 224x224, batch {batch}, {threads} threads")
    print(f"{'':24}{'p50 ms':>9}{'p90 ms':>9}{'runs':>6}{'edgeattn is faster by':>24}")
    for name, measurement in measured.items():
        stats = LatencyStats.from_samples(measurement.latency_ms)
        ratio = stats.p50_ms / ours.p50_ms
        print(f"{name:24}{stats.p50_ms:9.1f}{stats.p90_ms:9.1f}{stats.num_samples:6}{ratio:23.2f}x")
        case = {"model": "swin_t", "way": name, "batch": batch, "threads": threads}
        result = {"p50_ratio_to_edgeattn": ratio, **stats.to_dict(), "settings": engine.settings}
        append_row("cpu_engine", case, json.loads(json.dumps(result)))
    engine.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, action="append", help="batch size; may be repeated")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each way")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    for batch in arguments.batch or [1, 8]:
        with tempfile.TemporaryDirectory() as folder:
            run_batch(batch, arguments.seconds, not arguments.no_compile, Path(folder))


if __name__ == "__main__":
    main()
