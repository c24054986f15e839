"""Batches: every sample once, chosen by seed, and one clear sentence for whatever does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeattn.calibration.data import open_batches
from edgeattn.calibration.random_samples import RandomSamples
from edgeattn.errors import DataError
from edgeattn.inputs import ImagePreprocess, InputSpec

VECTOR = [InputSpec(("batch", 3), "x")]
FIXED = [InputSpec((4, 3), "x")]
PAIR = [InputSpec(("batch", 3), "x"), InputSpec(("batch",), "n", "int64")]
IMAGE = [InputSpec(("batch", 1, 6, 6), "x", "float32", ImagePreprocess((0.0,), (1.0,)))]

UNREADABLE = "(cannot be read|is not a whole .npz file of arrays): "


def rows(count: int) -> np.ndarray:
    """Row i is (i, i, i)."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], 3, axis=1)


def used(batches) -> list[float]:
    return [float(row.flat[0]) for batch in batches for row in batch["x"]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images in class folders; all pixels of image i are i."""
    folder = tmp_path / "images"
    for i in range(12):
        path = folder / f"class{i % 3}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), i, np.uint8)).save(path)
    return folder


@pytest.fixture
def module(tmp_path: Path, monkeypatch):
    """Make a module in the working folder; it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)

    def make(text: str) -> None:
        (tmp_path / "calib_source.py").write_text(text)
        monkeypatch.delitem(sys.modules, "calib_source", raising=False)

    yield make
    sys.modules.pop("calib_source", None)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (5, [5]), (6, [5, 1]), (13, [5, 5, 3])])
def test_every_row_comes_once_in_batches_of_one_size(count, sizes):
    batches = open_batches(rows(count), VECTOR, batch_size=5)
    found = list(batches)
    assert [len(batch["x"]) for batch in found] == sizes
    assert sorted(used(found)) == list(range(count))
    assert batches.samples == batches.total == count
    assert batches.left_out == 0


def test_a_graph_of_fixed_batch_size_gets_full_batches_and_the_rest_is_counted():
    batches = open_batches(rows(11), FIXED, batch_size=7)
    assert [batch["x"].shape for batch in batches] == [(4, 3)] * 2
    assert (batches.batch_size, batches.samples, batches.left_out) == (4, 8, 3)


def test_too_few_samples_for_a_fixed_batch_are_refused():
    with pytest.raises(DataError, match="gave 3 good samples; expected at least 4"):
        list(open_batches(rows(3), FIXED))


def test_the_seed_chooses_the_samples():
    def chosen(seed):
        return used(open_batches(rows(100), VECTOR, samples=10, seed=seed))

    assert chosen(3) == chosen(3)
    assert chosen(3) != chosen(4)
    assert len(set(chosen(3))) == 10
    assert chosen(3) != sorted(chosen(3))


def test_reading_twice_gives_the_same_again():
    batches = open_batches(rows(10), VECTOR, samples=6)
    assert used(batches) == used(batches)
    assert batches.samples == 6


def test_the_hash_depends_on_the_samples_and_nothing_else():
    def sha256(array, **options):
        batches = open_batches(array, VECTOR, **options)
        list(batches)
        return batches.sha256

    base = sha256(rows(10), batch_size=3)
    assert base == sha256(rows(10), batch_size=10, seed=9)
    assert base == sha256(rows(10)[::-1])
    assert base != sha256(rows(11))
    assert base != sha256(rows(10), samples=9)
    changed = rows(10)
    changed[4, 1] += np.float32(1e-6)
    assert base != sha256(changed)


def test_an_image_folder_is_read_with_its_class_folders(images):
    (images / "origin.txt").write_text("not data")
    (images / ".hidden.png").write_text("not data")
    batches = open_batches(images, IMAGE, batch_size=5)
    found = list(batches)
    assert [batch["x"].shape for batch in found] == [(5, 1, 6, 6), (5, 1, 6, 6), (2, 1, 6, 6)]
    np.testing.assert_allclose(sorted(np.array(used(found)) * 255), np.arange(12), atol=1e-5)
    assert batches.label == "images"
    assert batches.skipped == []
    assert batches.ignored == ["origin.txt"]


def test_a_bad_image_is_named(images):
    (images / "class1" / "notes.png").write_text("a text file")
    with pytest.raises(DataError, match=r"class1/notes\.png is not a readable image") as error:
        list(open_batches(images, IMAGE))
    assert "max_bad" in error.value.hint


def test_bad_images_are_skipped_up_to_the_limit_and_listed(images):
    (images / "class0" / "notes.png").write_text("a text file")
    whole = (images / "class1" / "01.png").read_bytes()
    (images / "class1" / "01.png").write_bytes(whole[: len(whole) // 2])
    batches = open_batches(images, IMAGE, max_bad=2)
    assert len(used(batches)) == batches.samples == 11
    assert sorted(Path(line.split(" ")[0]).name for line in batches.skipped) == [
        "01.png",
        "notes.png",
    ]
    with pytest.raises(DataError, match="2 images are bad, more than max_bad = 1") as error:
        list(open_batches(images, IMAGE, max_bad=1))
    assert "notes.png" in error.value.message
    assert "01.png" in error.value.message


def test_a_bad_image_does_not_count_as_a_sample(images):
    (images / "class0" / "notes.png").write_text("a text file")
    assert len(used(open_batches(images, IMAGE, max_bad=1, samples=12))) == 12


def test_an_image_is_bad_by_its_content_and_other_files_are_listed_by_name(images):
    (images / "class0" / "labels.csv").write_text("00.png,3")
    (images / "class2" / "list.JPG").write_text("a text file")
    batches = open_batches(images, IMAGE, max_bad=1)
    assert len(used(batches)) == 12
    assert batches.ignored == ["class0/labels.csv"]
    assert len(batches.skipped) == 1
    assert "list.JPG is not a readable image" in batches.skipped[0]


def test_the_seed_shuffles_a_folder_and_samples_limit_it(images):
    def chosen(seed, samples):
        return used(open_batches(images, IMAGE, samples=samples, seed=seed))

    assert chosen(3, 5) == chosen(3, 12)[:5]
    assert sorted(chosen(3, 12)) == sorted(chosen(4, 12))
    assert chosen(3, 12) != chosen(4, 12)


def test_random_samples_depend_on_their_seed_and_number_alone():
    def drawn(count, seed=0, inputs=VECTOR, **options):
        return used(open_batches(RandomSamples(count, seed), inputs, **options))

    assert drawn(5) == drawn(5, batch_size=2)
    assert set(drawn(5)) < set(drawn(9))
    assert not set(drawn(5)) & set(drawn(5, seed=1))
    assert len(drawn(9, samples=4)) == 4


def test_random_images_are_as_large_as_the_preprocessing_resizes():
    free = [InputSpec(("b", 1, "h", "w"), "x", "float32", ImagePreprocess((0.5,), (0.25,), 7))]
    (batch,) = open_batches(RandomSamples(3), free)
    assert batch["x"].shape == (3, 1, 7, 7)
    assert batch["x"].min() >= -2
    assert batch["x"].max() <= 2
    assert batch["x"].std() == pytest.approx(4 / 12**0.5, rel=0.2)


def test_random_samples_of_unknown_size_are_refused():
    with pytest.raises(DataError, match="random values need every size but the first"):
        open_batches(RandomSamples(3), [InputSpec(("b", 3, "h"), "x")])
    with pytest.raises(DataError, match="random is 0; expected at least 1"):
        RandomSamples(0)


def test_nothing_but_bad_images_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("a text file")
    with pytest.raises(DataError, match=r"gave 0 good samples.* and 1 images were skipped"):
        list(open_batches(tmp_path, IMAGE, max_bad=5))


def test_images_of_different_sizes_do_not_share_a_batch(images):
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(images / "tall.png")
    free = [InputSpec(("batch", 1, "h", "w"), "x", "float32", IMAGE[0].preprocess)]
    with pytest.raises(DataError, match="one batch have different shapes"):
        list(open_batches(images, free, batch_size=13))
    assert len(list(open_batches(images, free, batch_size=1))) == 13


def test_an_npz_file_feeds_inputs_by_name_and_its_labels_are_ignored(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=rows(5), n=np.arange(5), label=np.arange(5))
    batches = list(open_batches(str(path), PAIR, batch_size=2))
    assert [sorted(batch) for batch in batches] == [["n", "x"]] * 3
    for batch in batches:
        np.testing.assert_array_equal(batch["x"][:, 0], batch["n"])


def test_a_label_that_the_graph_wants_is_an_input():
    inputs = [InputSpec(("batch", 3), "x"), InputSpec(("batch",), "label", "int64")]
    (batch,) = open_batches({"x": rows(2), "label": np.arange(2)}, inputs)
    assert sorted(batch["label"]) == [0, 1]


def test_an_npy_file_feeds_the_only_input(tmp_path):
    np.save(tmp_path / "data.npy", rows(5))
    assert sorted(used(open_batches(tmp_path / "data.npy", VECTOR))) == list(range(5))


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_python_objects_are_never_loaded(tmp_path, kind):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / f"evil.{kind}"
    array = np.array([Bomb()], dtype=object)
    np.savez(path, x=array) if kind == "npz" else np.save(path, array)
    with pytest.raises(DataError, match=rf"evil\.{kind} (cannot be read|is not a whole)"):
        open_batches(path, VECTOR)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    path = tmp_path / f"data.{kind}"
    np.savez_compressed(path, x=rows(500)) if kind == "npz" else np.save(path, rows(500))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=rf"data\.{kind} (cannot be read|is not a whole)"):
        open_batches(path, VECTOR)


def test_a_file_named_after_the_other_kind_is_refused(tmp_path):
    np.save(tmp_path / "data.npy", rows(2))
    (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"data\.npz is not a whole"):
        open_batches(tmp_path / "data.npz", VECTOR)
    np.savez(tmp_path / "arrays.npz", x=rows(2))
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.npy")
    with pytest.raises(DataError, match=rf"arrays\.npy {UNREADABLE}"):
        open_batches(tmp_path / "arrays.npy", VECTOR)


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).standard_normal((500, 3)).astype("f4"))
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz is not a whole"):
        open_batches(path, VECTOR)


@pytest.mark.parametrize(
    "items",
    [
        lambda: [rows(13)],
        lambda: [rows(13)[:4], rows(13)[4:]],
        lambda: list(rows(13)),
        lambda: ({"x": row} for row in rows(13)),
        lambda: ({"x": part, "label": 0} for part in np.split(rows(13), [1, 9])),
        lambda: [memoryview(rows(13))],
    ],
    ids=["one batch", "batches", "samples", "mappings of samples", "with labels", "buffers"],
)
def test_any_iterable_of_batches_or_samples_is_cut_to_size_in_its_order(items):
    batches = open_batches(items(), VECTOR, batch_size=5)
    found = list(batches)
    assert [len(batch["x"]) for batch in found] == [5, 5, 3]
    assert used(found) == list(range(13))


def test_a_stream_is_not_read_further_than_needed():
    def endless():
        for i in range(7):
            yield rows(8)[i]
        raise AssertionError("read too far")

    batches = open_batches(endless(), VECTOR, batch_size=2, samples=7)
    assert len(used(batches)) == 7
    assert batches.total == 7


def test_a_stream_without_a_limit_does_not_know_its_length():
    assert open_batches(iter([rows(2)]), VECTOR).total is None


def test_a_function_in_the_working_folder_gives_batches(module):
    module("import numpy as np\ndef make():\n    yield np.ones((4, 3), np.float32)\n")
    path_before = list(sys.path)
    assert used(open_batches("calib_source:make", VECTOR)) == [1.0] * 4
    assert sys.path == path_before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def other(): pass", "AttributeError"),
        ("def make(): return 3", "returned a int; expected an iterable"),
        ("def make(): raise OSError('no disk')", "OSError: no disk"),
        ("def make(): yield 1 / 0", "ZeroDivisionError"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("def make(", "SyntaxError"),
    ],
)
def test_a_function_that_fails_is_named(module, text, reason):
    module(text)
    with pytest.raises(DataError, match=reason) as error:
        list(open_batches("calib_source:make", VECTOR))
    assert "calib_source:make" in error.value.message


def test_an_iterable_of_the_caller_fails_as_it_likes():
    def broken():
        yield rows(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        list(open_batches(broken(), VECTOR, batch_size=1))


def nan_rows():
    array = rows(4)
    array[2, 1] = np.nan
    return array


BAD_ARRAYS = {
    "another shape": (np.zeros((4, 2), np.float32), r"the shape \(4, 2\); expected \(any, 3\)"),
    "another rank": (np.zeros((4, 3, 1), np.float32), r"the shape \(4, 3, 1\)"),
    "no rank": (np.zeros((), np.float32), r"the shape \(\)"),
    "another type": (np.zeros((4, 3)), "the type float64; expected float32"),
    "objects": (np.full((4, 3), None), "the type object; expected float32"),
    "nothing": (np.zeros((0, 3), np.float32), "holds no sample"),
    "NaN": (nan_rows(), "holds NaN"),
}


@pytest.mark.parametrize(
    "wrap", [lambda a: a, lambda a: {"x": a}, lambda a: [a]], ids=["array", "mapping", "stream"]
)
@pytest.mark.parametrize(("array", "reason"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_an_array_that_does_not_fit_is_refused_by_name(wrap, array, reason):
    with pytest.raises(DataError, match=reason) as error:
        list(open_batches(wrap(array), VECTOR))
    assert error.value.hint
    assert "\n" not in error.value.message


def test_a_nan_is_found_in_half_precision_too():
    inputs = [InputSpec(("batch", 3), "x", "float16")]
    with pytest.raises(DataError, match="input x in sample 2 of an array holds NaN"):
        list(open_batches(nan_rows().astype(np.float16), inputs))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": rows(2)}, "holds x; the graph's inputs are x, n"),
        ({"x": rows(2), "n": np.arange(2), "m": rows(2)}, "holds x, n, m; the graph's inputs"),
        ({"x": rows(2), "n": np.arange(3)}, "different numbers of samples"),
        ({}, "holds nothing"),
    ],
)
def test_names_and_lengths_have_to_fit_the_inputs(arrays, reason):
    with pytest.raises(DataError, match=reason):
        list(open_batches(arrays, PAIR))


def test_an_array_without_a_name_feeds_no_two_inputs(images):
    with pytest.raises(DataError, match="feeds one input, but the graph has 2: x, n"):
        open_batches(rows(2), PAIR)
    with pytest.raises(DataError, match="an image folder feeds one input"):
        open_batches(images, PAIR)


def test_missing_and_empty_data_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no data at nowhere"):
        open_batches("nowhere", VECTOR)
    with pytest.raises(DataError, match="holds no image"):
        open_batches(tmp_path, IMAGE)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(DataError, match=r"notes\.txt is not data"):
        open_batches(tmp_path / "notes.txt", VECTOR)
    with pytest.raises(DataError, match="data is a int"):
        open_batches(3, VECTOR)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="gave 0 good samples"):
        list(open_batches([], VECTOR))


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"samples": 0}, {"max_bad": -1}, {"seed": -1}], ids=str
)
def test_numbers_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(DataError, match=f"{name} is "):
        open_batches(rows(2), VECTOR, **options)


def test_inputs_without_one_batch_size_are_refused():
    with pytest.raises(DataError, match="different batch sizes"):
        open_batches({}, [InputSpec((4, 3), "x"), InputSpec((2, 3), "y")])
    with pytest.raises(DataError, match="input x is a scalar"):
        open_batches({}, [InputSpec((), "x")])
