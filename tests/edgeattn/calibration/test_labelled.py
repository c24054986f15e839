"""Samples with their labels: row by row, however they come."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.calibration.labelled import load_samples
from edgeattn.errors import DataError
from edgeattn.inputs import InputSpec

INPUT = (InputSpec(("batch", 2), "x"),)
ROWS = np.arange(14, dtype=np.float32).reshape(7, 2)
LABELS = np.arange(7) * 2  # each its row's first entry


def fits(found):
    return np.array_equal(found.arrays["x"][:, 0], found.labels)


@pytest.mark.parametrize("most", [1, 4, 7, 100])
def test_labels_stay_with_their_rows(most, tmp_path):
    np.savez(tmp_path / "both.npz", x=ROWS, label=LABELS)
    np.save(tmp_path / "labels.npy", LABELS)
    np.savez(tmp_path / "labels.npz", label=LABELS)
    for data, labels in (
        (tmp_path / "both.npz", None),
        (str(tmp_path / "both.npz"), None),
        ({"x": ROWS, "label": LABELS}, None),
        (ROWS, LABELS),
        (ROWS, list(LABELS)),
        (ROWS, tmp_path / "labels.npy"),
        (ROWS, str(tmp_path / "labels.npz")),
        (iter([ROWS[:3], ROWS[3:]]), LABELS),
    ):
        found = load_samples(data, INPUT, labels, most=most)
        assert len(found) == len(found.labels) == min(most, 7)
        assert fits(found)


def test_halves_share_no_sample_and_leave_none_out():
    found = load_samples(ROWS, INPUT, LABELS)
    halves = [found.half(0), found.half(1)]
    assert [len(half) for half in halves] == [4, 3]
    assert all(fits(half) for half in halves)
    assert sorted(np.concatenate([half.labels for half in halves])) == sorted(LABELS)


def test_without_labels_there_are_none():
    found = load_samples(ROWS, INPUT)
    assert found.labels is None
    assert found.half(1).labels is None
    assert len(found.parent.sha256) == 64


def test_an_input_called_label_is_an_input():
    inputs = (*INPUT, InputSpec(("batch",), "label", "int64"))
    found = load_samples({"x": ROWS, "label": LABELS}, inputs)
    assert found.labels is None
    assert set(found.arrays) == {"x", "label"}


def test_accuracy_takes_more_samples_than_noise_does():
    rows = np.zeros((1100, 2), np.float32)
    assert len(load_samples(rows, INPUT)) == 64
    assert len(load_samples(rows, INPUT, np.zeros(1100, int))) == 1000


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:6], "6 labels for 7 samples"),
        (LABELS.astype(float), "expected integers"),
        (LABELS.reshape(7, 1), "expected integers"),
        ("missing.npy", "there are no labels at"),
        ("other.npz", "expected an array label"),
        ("broken.npy", "cannot be read"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message, tmp_path):
    np.savez(tmp_path / "other.npz", classes=LABELS)
    (tmp_path / "broken.npy").write_bytes(b"no array")
    labels = tmp_path / labels if isinstance(labels, str) else labels
    with pytest.raises(DataError, match=message):
        load_samples(ROWS, INPUT, labels)


def test_a_stream_with_too_few_labels_is_refused():
    with pytest.raises(DataError, match="6 labels for 7 samples"):
        load_samples(iter([ROWS]), INPUT, LABELS[:6])


def test_samples_of_several_shapes_are_refused():
    inputs = (InputSpec(("batch", "length"), "x"),)
    data = iter([np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)])
    with pytest.raises(DataError, match="2 different shapes"):
        load_samples(data, inputs)
