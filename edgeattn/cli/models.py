"""`edgeattn models`: the registry, with what each model costs."""

from __future__ import annotations

from typing import Any

import click

from edgeattn.cli.console import count, print_json, print_table, shape
from edgeattn.cli.options import json_option
from edgeattn.cli.progress import working
from edgeattn.errors import MissingDependencyError


@click.command("models", epilog="Example: edgeattn models --json")
@json_option
def command(as_json: bool) -> None:
    """List the models that come with edgeattn.

    Parameters and multiply-accumulates (MACs) are those of one forward pass at the input shown.
    Counting them takes torch; without it they are left out.
    """
    from edgeattn.models.registry import get_entry, model_names

    names = model_names()
    with working() as progress:
        models = []
        for done, name in enumerate(names):
            if progress:
                progress(done, len(names), f"counting {name}")
            models.append(_describe(get_entry(name)))
    if as_json:
        print_json({"models": models})
        return
    rows = [
        (
            model["name"],
            "-" if model["parameters"] is None else count(model["parameters"]),
            "-" if model["macs"] is None else count(model["macs"]),
            f"{model['input']['name']}:{shape(model['input']['shape'])}",
            "shipped" if model["weights"] else "random",
            model["summary"],
        )
        for model in models
    ]
    print_table(("model", "parameters", "MACs", "input", "weights", "what"), rows)


def _describe(entry: Any) -> dict[str, Any]:
    from edgeattn.models.registry import count_macs, count_parameters

    described = {
        "name": entry.name,
        "family": entry.family,
        "summary": entry.summary,
        "input": {"name": entry.input.name, "shape": entry.input.shape, "dtype": entry.input.dtype},
        "weights": "shipped" if entry.weights else None,
        "classes": entry.classes,
        "parameters": None,
        "macs": None,
    }
    try:
        model = entry.build(shapes_only=True)
    except MissingDependencyError:
        return described
    return described | {
        "parameters": count_parameters(model),
        "macs": count_macs(model, entry.input),
    }
