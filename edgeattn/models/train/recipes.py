"""How each shipped model is trained: the data, the changes to it and the schedule."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgeattn.errors import ModelError
from edgeattn.inputs import ImagePreprocess
from edgeattn.models.registry import get_entry
from edgeattn.models.sequence import MSSeq
from edgeattn.models.train.augment import warp_images, warp_signals
from edgeattn.models.train.data import DATA_SETS, Dataset
from edgeattn.models.train.loop import Progress, Schedule, accuracy, fit, reproducible


@dataclass(frozen=True)
class Recipe:
    """Data set, changes to its inputs and schedule of one model.

    Attributes:
        dataset: A name of `DATA_SETS`.
        warp: Changes a batch of inputs at random.
        schedule: How long and how fast.
    """

    dataset: str
    warp: Callable[[Tensor], Tensor]
    schedule: Schedule


RECIPES = {
    "mswin_nano": Recipe("mnist", warp_images, Schedule(epochs=20)),
    "pmsa_nano": Recipe("mnist", warp_images, Schedule(epochs=20)),
    "msseq_nano": Recipe(
        "basic_motions",
        warp_signals,
        Schedule(epochs=120, batch_size=20, average_decay=0.98),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """A trained model and what is known about it.

    Attributes:
        model: In eval mode.
        accuracy: Top-1 on the part that was not trained on, 0 to 1.
        metadata: What it takes to train it again and what came out, as text.
    """

    model: nn.Module
    accuracy: float
    metadata: dict[str, str]


def train(
    name: str,
    *,
    seed: int = 0,
    epochs: int | None = None,
    development: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Train a model by its recipe and measure it once, at the end.

    Args:
        name: A model that has a recipe.
        seed: Fixes initial weights, order and augmentation.
        epochs: Instead of the recipe's.
        development: Leave the held-out part alone: train on four fifths of the training part and
            measure on the fifth, to choose settings by.
        progress: Called after each epoch with its number, all epochs and its mean loss.

    Raises:
        ModelError: If the model has no recipe.
        MissingDependencyError: If the package that carries the data is not installed.
        DataError: If it carries other data.
    """
    if name not in RECIPES:
        raise ModelError(f"{name} has no training recipe", f"known: {', '.join(RECIPES)}")
    recipe, entry = RECIPES[name], get_entry(name)
    schedule = recipe.schedule if epochs is None else replace(recipe.schedule, epochs=epochs)
    dataset = DATA_SETS[recipe.dataset]()
    if development:
        dataset = development_split(dataset)
    inputs, labels = (torch.from_numpy(array) for array in dataset.part(held_out=False))
    ready = model_input(entry.input.preprocess)
    with reproducible(seed):
        model = entry.build()
        if isinstance(model, MSSeq):
            model.input_mean.copy_(inputs.mean(dim=(0, 2))[:, None])
            model.input_std.copy_(inputs.std(dim=(0, 2))[:, None])
        scaled = inputs[:, None] / 255.0 if inputs.dtype == torch.uint8 else inputs
        model = fit(model, scaled, labels, schedule, lambda x: ready(recipe.warp(x)), progress)
        score = evaluate(name, model, dataset)
    return Outcome(model, score, _metadata(name, seed, schedule, dataset, score))


def evaluate(name: str, model: nn.Module, dataset: Dataset) -> float:
    """Measure a model on the held-out part of its data.

    Args:
        name: Its name in the registry, which says how inputs are prepared.
        model: In eval mode.
        dataset: The data.

    Returns:
        Top-1 accuracy, 0 to 1.
    """
    inputs, labels = (torch.from_numpy(array) for array in dataset.part(held_out=True))
    scaled = inputs[:, None] / 255.0 if inputs.dtype == torch.uint8 else inputs
    return accuracy(model, model_input(get_entry(name).input.preprocess)(scaled), labels)


def development_split(dataset: Dataset) -> Dataset:
    """Drop the held-out part of a data set and hold out every fifth training sample instead."""
    inputs, labels = dataset.part(held_out=False)
    return replace(
        dataset,
        inputs=inputs,
        labels=labels,
        held_out=np.arange(len(labels)) % 5 == 4,
        split_rule="development: every fifth sample of the training part held out",
    )


def describe(schedule: Schedule) -> str:
    """Write a schedule as text: its values by name."""
    return ", ".join(f"{key}={value}" for key, value in asdict(schedule).items())


def model_input(preprocess: ImagePreprocess | None) -> Callable[[Tensor], Tensor]:
    """Give what brings images in [0, 1] to the model's input; signals stay in their own units."""
    if preprocess is None:
        return lambda signals: signals
    mean = torch.tensor(preprocess.mean).view(-1, 1, 1)
    std = torch.tensor(preprocess.std).view(-1, 1, 1)
    return lambda images: (images - mean) / std


def _metadata(
    name: str, seed: int, schedule: Schedule, dataset: Dataset, score: float
) -> dict[str, str]:
    options = f"--seed {seed} --epochs {schedule.epochs}"
    return {
        "model": name,
        "command": f"python -m edgeattn.models.train {name} {options}",
        "data": f"{dataset.name}, from {dataset.source}",
        "data_sha256": dataset.sha256(),
        "split": dataset.split_rule,
        "held_out_accuracy": f"{score:.4f}",
        "held_out_samples": str(int(dataset.held_out.sum())),
        "seed": str(seed),
        "schedule": describe(schedule),
        "torch": torch.__version__,
        "edgeattn": importlib.metadata.version("edgeattn"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": "1",
    }
