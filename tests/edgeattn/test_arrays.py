import io
import zipfile

import numpy as np
import pytest

from edgeattn.arrays import read_arrays, write_arrays
from edgeattn.errors import ArtifactError, DataError


def test_arrays_come_back_as_they_were_whatever_their_names(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "file": rng.standard_normal((3, 5)).astype(np.float32),  # numpy.savez refuses this name
        "stages.0/attention:0": rng.integers(-9, 9, (2, 0, 4)),
        "scalar": np.array(2.5),
        "transposed": rng.standard_normal((4, 3)).T,
    }
    write_arrays(tmp_path / "a.npz", arrays)
    back = read_arrays(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    with np.load(tmp_path / "a.npz") as loaded:
        np.testing.assert_array_equal(loaded["file"], arrays["file"])


def test_what_numpy_wrote_is_read_compressed_or_not(tmp_path):
    values = np.arange(7.0)
    np.savez(tmp_path / "plain.npz", x=values)
    np.savez_compressed(tmp_path / "small.npz", x=values)
    for name in ("plain.npz", "small.npz"):
        np.testing.assert_array_equal(read_arrays(tmp_path / name)["x"], values)


@pytest.mark.parametrize("keep", [0, 1, 50, -1, -30])
def test_a_truncated_archive_is_refused(keep, tmp_path):
    np.savez(tmp_path / "whole.npz", x=np.arange(100.0))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:keep])
    with pytest.raises(DataError, match="not a whole"):
        read_arrays(tmp_path / "cut.npz")


def test_damage_inside_an_archive_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.arange(1000.0))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[200:210] = b"\xff" * 10
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(DataError):
        read_arrays(tmp_path / "x.npz")


def test_an_array_file_that_is_no_archive_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(DataError, match=r"numpy\.savez|not a whole"):
        read_arrays(tmp_path / "x.npy")


def test_an_archive_of_something_else_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", b"no array")
    (tmp_path / "x.npz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError):
        read_arrays(tmp_path / "x.npz")


def test_a_missing_file_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="there is no file"):
        read_arrays(tmp_path / "absent.npz")
    with pytest.raises(ArtifactError, match="there is no folder"):
        write_arrays(tmp_path / "absent" / "x.npz", {"x": np.zeros(1)})


def test_an_array_that_cannot_be_written_leaves_nothing(tmp_path):
    objects = np.array([print], dtype=object)
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(tmp_path / "x.npz", {"good": np.zeros(2), "bad": objects})
    assert not list(tmp_path.iterdir())
