"""Weights files: what goes in comes out, and what does not fit is refused by name."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeattn.errors import ArtifactError, EdgeAttnError, ModelError
from edgeattn.models.weights_io import load_weights, save_weights


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def is_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_weights_come_back_from_safetensors(tmp_path):
    model, other = small_model(0), small_model(1)
    save_weights(model, tmp_path / "w.safetensors", {"recipe": "none"})
    load_weights(other, tmp_path / "w.safetensors")
    assert is_equal(model.state_dict(), other.state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("is_archive", [True, False])
def test_weights_come_back_from_a_checkpoint(tmp_path, suffix, wrapper, is_archive):
    model, other = small_model(0), small_model(1)
    content = {wrapper: model.state_dict(), "epoch": 3} if wrapper else model.state_dict()
    path = tmp_path / f"w{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=is_archive)
    load_weights(other, path)
    assert is_equal(model.state_dict(), other.state_dict())


def test_missing_unexpected_and_misshapen_tensors_are_named_and_nothing_is_loaded(tmp_path):
    state = small_model(0).state_dict()
    del state["0.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["2.weight"] = torch.zeros(5, 4)
    torch.save(state, tmp_path / "w.pt")
    model = small_model(1)
    with pytest.raises(ModelError) as error:
        load_weights(model, tmp_path / "w.pt")
    message = error.value.message
    assert "missing 0.bias" in message
    assert "unexpected extra.weight" in message
    assert "2.weight [5, 4] where the model has [2, 4]" in message
    assert is_equal(model.state_dict(), small_model(1).state_dict())


def test_only_the_first_of_many_names_are_listed(tmp_path):
    torch.save({f"tensor_{i}": torch.zeros(1) for i in range(40)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"unexpected tensor_0, .* and 35 more"):
        load_weights(small_model(), tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    state = small_model().state_dict()
    state["2.weight"][1, 3] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"not finite .*: 2\.weight"):
        load_weights(small_model(1), tmp_path / "w.pt")


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = small_model()
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(ModelError, match=r"0\.weight"):
        save_weights(model, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_weights_are_written_as_safetensors_only(tmp_path):
    with pytest.raises(ModelError, match=r"w\.pt"):
        save_weights(small_model(), tmp_path / "w.pt")


class Attack:
    """Runs a command when unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["archive", "old", "bare pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, form):
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    attack = {"0.weight": Attack(f"touch {trace}")}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(attack))
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(ModelError, match="could run code") as error:
        load_weights(small_model(), path)
    assert "\n" not in error.value.message
    assert error.value.hint
    assert not trace.exists()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "w.pt")
    with pytest.raises(ModelError, match="not a state dict"):
        load_weights(small_model(), tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_truncated_file_is_refused_at_every_length(tmp_path, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    if suffix == ".pt":
        torch.save(small_model().state_dict(), whole)
    else:
        save_weights(small_model(), whole)
    data = whole.read_bytes()
    for length in [0, 1, 4, 9, len(data) // 3, len(data) // 2, len(data) - 1]:
        cut.write_bytes(data[:length])
        with pytest.raises(ArtifactError) as error:
            load_weights(small_model(), cut)
        assert str(cut) in error.value.message


def test_a_damaged_old_checkpoint_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save(small_model().state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EdgeAttnError):
        load_weights(small_model(), path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w.safetensors", "there is no file"),
        ("w.pt", "there is no file"),
        ("w.onnx", "not a weights file"),
        ("folder.pt", "is a folder"),
        ("folder.safetensors", "is a folder"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(tmp_path, name, message):
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(EdgeAttnError, match=message):
        load_weights(small_model(), Path(tmp_path, name))
