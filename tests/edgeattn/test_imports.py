"""What an import may pull in: a board has no torch, and `--help` must answer at once."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

HEAVY = (
    "torch",
    "tensorrt",
    "pycuda",
    "onnxruntime",
    "onnxscript",
    "onnxsim",
    "safetensors",
    "transformers",
    "timm",
    "torchvision",
)

# Imports every module but those of edgeattn.models, which may use torch, with the heavy packages
# made unimportable.
IMPORT_EVERYTHING = f"""
import importlib, json, pkgutil, sys, traceback
for name in {HEAVY}:
    sys.modules[name] = None
import edgeattn
imported, failures = [], {{}}
def visit(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if module.name.startswith("edgeattn.models.") or module.name.endswith("__main__"):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except Exception:
            failures[module.name] = traceback.format_exc()
            continue
        imported.append(module.name)
        if module.ispkg:
            visit(loaded)
visit(edgeattn)
print(json.dumps([imported, failures]))
"""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )


def test_everything_but_the_models_imports_without_the_heavy_packages() -> None:
    imported, failures = json.loads(_python("-c", IMPORT_EVERYTHING).stdout)
    assert not failures, "\n".join(failures.values())
    # The walk went down into the packages.
    assert {"edgeattn.spec", "edgeattn.models", "edgeattn.graph.op"} <= set(imported)


def test_the_registry_lists_the_models_without_torch() -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"
        "from edgeattn.models.registry import model_names\n"
        "print('\\n'.join(model_names()))"
    )
    assert "mswin_nano" in _python("-c", code).stdout.split()


def test_help_imports_neither_a_framework_nor_onnx() -> None:
    code = (
        "import sys; from edgeattn.cli.main import run; status = run(['--help'])\n"
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    process = _python("-c", code)
    assert "Usage: edgeattn" in process.stdout
    loaded = {name.partition(".")[0] for name in process.stderr.split()}
    assert not loaded & {*HEAVY, "onnx", "onnx_ir"}


def test_help_takes_less_than_a_fifth_of_a_second_of_processor_time() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _python("-c", "from edgeattn.cli.main import main; main(['--help'])")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.2
