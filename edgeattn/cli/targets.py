"""`edgeattn targets`: the boards and GPUs that engines are built for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from edgeattn.cli.console import print_fields, print_json, print_table
from edgeattn.cli.options import json_option
from edgeattn.targets.listing import describe_target, list_targets

_GIB = 1 << 30
_FIGURES = {
    "SMs": "sm_count",
    "clock GHz": "clock_ghz",
    "GB/s": "memory_gb_s",
    "FP16 TFLOPS": "fp16_tflops",
    "INT8 TOPS": "int8_tops",
    "FP8 TFLOPS": "fp8_tflops",
    "FP4 TFLOPS": "fp4_tflops",
}


@click.command("targets", epilog="Example: edgeattn targets jetson-orin-nano")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the boards that engines are built for.

    With their modules' memory, bandwidth and peak rates, and the JetPack releases whose TensorRT is
    supported. NAME shows one in full, with power modes and the source of every figure: a target, a
    module of a board, or a GPU such as "RTX 4090". --json has all of it.
    """
    if name is None:
        everything = list_targets()
        print_json(everything) if as_json else _print_all(everything)
        return
    found = describe_target(name)
    if as_json:
        print_json(found)
    elif "target" in found:
        _print_target(found["target"])
    elif "module" in found:
        _print_module(found["module"])
    else:
        _print_gpus(found["gpus"])
        click.echo()
        _print_sources(found["gpus"])


def _print_all(everything: Mapping[str, Any]) -> None:
    targets = everything["targets"]
    print_table(
        ("target", "machine", "GPU", "modules", "JetPack"),
        [
            (
                target["name"],
                target["machine"],
                _sms(target["architectures"]),
                ", ".join(module["name"] for module in target["modules"]) or "-",
                ", ".join(jetpack["version"] for jetpack in target["jetpacks"]) or "-",
            )
            for target in targets
        ],
    )
    click.echo()
    _print_gpus(gpu for target in targets for module in target["modules"] for gpu in _both(module))
    click.echo()
    _print_releases({j["version"]: j for target in targets for j in target["jetpacks"]}.values())
    click.echo(f"\n{len(everything['gpus'])} desktop and server GPUs: edgeattn targets desktop")


def _print_target(target: Mapping[str, Any]) -> None:
    everything = list_targets()
    print_fields({"target": f"{target['name']}: {target['title']}", "machine": target["machine"]})
    click.echo()
    print_table(
        ("architecture", "what has it", "multiplies in"),
        [
            (f"sm_{sm['number']}", sm["gpus"], ", ".join(sm["precisions"]))
            for sm in everything["architectures"]
            if sm["number"] in target["architectures"]
        ],
    )
    if not target["modules"]:
        click.echo()
        _print_gpus(everything["gpus"])
        click.echo("\nThe source of each figure: edgeattn targets GPU")
    for module in target["modules"]:
        click.echo()
        _print_module(module)
    if target["jetpacks"]:
        click.echo()
        _print_releases(target["jetpacks"])
        click.echo()
        rows = [(f"JetPack {j['version']}", j["source"]) for j in target["jetpacks"]]
        print_table(("release", "source"), rows)


def _print_module(module: Mapping[str, Any]) -> None:
    print_fields({"module": module["name"], "deep learning accelerators": module["dla_cores"]})
    click.echo()
    _print_gpus(_both(module))
    click.echo()
    print_table(
        ("power mode", "number", "watts", "GPU MHz", "memory MHz", "SMs", "flashed for"),
        [
            (
                mode["name"],
                str(mode["number"]),
                *(_plain(mode[name]) for name in ("watts", "gpu_mhz", "memory_mhz", "sm_count")),
                "Super" if mode["is_super"] else "any",
            )
            for mode in module["modes"]
        ],
    )
    click.echo()
    _print_sources(_both(module))
    print_fields({"power modes": module["modes_source"], "accelerators": module["dla_source"]})


def _print_gpus(gpus: Iterable[Mapping[str, Any]]) -> None:
    print_table(
        ("GPU", "SM", "GiB", *_FIGURES),
        [
            (
                gpu["name"],
                f"sm_{gpu['architecture']}",
                _plain(gpu["memory_bytes"] and gpu["memory_bytes"] // _GIB),
                *(_plain(gpu[figure]) for figure in _FIGURES.values()),
            )
            for gpu in gpus
        ],
    )


def _print_sources(gpus: Iterable[Mapping[str, Any]]) -> None:
    rows: list[tuple[str, str, str]] = []
    for gpu in gpus:
        by_source: dict[str, list[str]] = {}
        for figure, source in gpu["sources"].items():
            by_source.setdefault(source, []).append(figure)
        rows += [(gpu["name"], ", ".join(names), source) for source, names in by_source.items()]
    print_table(("GPU", "figures", "source"), rows)


def _print_releases(jetpacks: Iterable[Mapping[str, Any]]) -> None:
    columns = ("version", "l4t", "tensorrt", "cuda", "python")
    rows = [tuple(jetpack[column] for column in columns) for jetpack in jetpacks]
    print_table(("JetPack", "L4T", "TensorRT", "CUDA", "Python"), sorted(rows))


def _both(module: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List a module's figures without and with Super modes."""
    return [gpu for gpu in (module["gpu"], module["super_gpu"]) if gpu]


def _sms(numbers: Iterable[int]) -> str:
    return ", ".join(f"sm_{number}" for number in numbers)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
