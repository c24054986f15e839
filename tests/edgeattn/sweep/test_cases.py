import shutil

import numpy as np
import pytest

from edgeattn.artifacts import sha256_of_file
from edgeattn.errors import ArtifactError, ModelError, SpecError
from edgeattn.models.registry import get_entry
from edgeattn.sweep.cases import expand
from edgeattn.sweep.spec import read_spec
from tests.edgeattn.sweep.sweeps import PRODUCT, write_sweep


def cases_of(folder, text=PRODUCT):
    return expand(read_spec(write_sweep(folder, text)))


def values(cases):
    return [(case.parameters["precision"], case.parameters["batch_size"]) for case in cases]


def test_the_axes_are_multiplied_out_in_their_order(tmp_path):
    expected = [("fp32", 1), ("fp32", 3), ("int8", 1), ("int8", 3)]
    assert values(cases_of(tmp_path)) == expected


def test_an_exclude_takes_out_what_has_all_its_values_and_an_include_adds_one(tmp_path):
    text = PRODUCT + (
        '[[exclude]]\nprecision = "int8"\nbatch_size = 1\n[[include]]\nbatch_size = 64\n'
    )
    assert values(cases_of(tmp_path, text)) == [("fp32", 1), ("fp32", 3), ("int8", 3), ("fp32", 64)]


def test_a_sweep_without_cases_and_a_case_that_is_there_twice_are_refused(tmp_path):
    with pytest.raises(SpecError, match="has no case"):
        cases_of(tmp_path, PRODUCT + '[[exclude]]\nmodel = "net"')
    with pytest.raises(SpecError, match="the case net fp32 batch 3 cpu is there twice"):
        cases_of(tmp_path, PRODUCT + "[[include]]\nbatch_size = 3")


def test_two_names_for_the_same_options_are_the_same_case(tmp_path):
    text = PRODUCT.replace("[models", 'options = ["a", "b"]\n[options.a]\n[options.b]\n[models', 1)
    with pytest.raises(SpecError, match="is there twice"):
        cases_of(tmp_path, text)


def test_ids_follow_from_values_and_file_contents_alone(tmp_path):
    here = [case.id for case in cases_of(tmp_path)]
    assert len(set(here)) == 4
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in tmp_path.glob("*.*"):
        shutil.copy(file, moved)
    assert [case.id for case in expand(read_spec(moved / "sweep.toml"))] == here


def test_other_samples_for_int8_make_other_int8_cases_only(tmp_path):
    before = cases_of(tmp_path)
    np.savez(tmp_path / "samples.npz", x=np.ones((2, 8), np.float32))
    after = expand(read_spec(tmp_path / "sweep.toml"))
    changed = [a.id != b.id for a, b in zip(before, after, strict=True)]
    # The file of the calibration is a parent of the cases that are calibrated.
    assert changed == [False, False, True, True]


def test_a_recipe_of_the_users_is_a_parent_and_so_are_shipped_weights(tmp_path):
    (tmp_path / "mine.toml").write_text('data = "samples.npz"')
    recipe = PRODUCT.replace('data = "samples.npz"', 'recipe = "mine.toml"')
    assert "recipe" in cases_of(tmp_path, recipe)[2].parents
    (case,) = cases_of(tmp_path, '[axes]\nmodels = ["mswin_nano"]')
    assert case.parents == {"shipped_weights": sha256_of_file(get_entry("mswin_nano").weights)}
    assert not case.files


def test_a_model_that_the_registry_lacks_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ModelError, match="mswin_nono"):
        cases_of(tmp_path, '[axes]\nmodels = ["mswin_nono"]')


def test_another_measurement_is_another_case(tmp_path):
    before = {case.id for case in cases_of(tmp_path)}
    after = {case.id for case in cases_of(tmp_path, PRODUCT.replace("iterations = 2", ""))}
    assert not before & after


def test_the_names_of_data_may_have_the_resolution_in_them(tmp_path):
    text = PRODUCT.replace("labelled.npz", "labelled-{resolution}.npz").replace(
        "[models", 'resolutions = ["9x11"]\n[models', 1
    )
    with pytest.raises(ArtifactError, match=r"labelled-9x11.npz, the sweep's accuracy"):
        cases_of(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("calibration =", "# calibration =", "int8 needs calibration data for net"),
        (
            "[models",
            'options = ["a"]\n[options.a]\ntf32 = false\n[models',
            "have tf32, which the engine cpu lacks",
        ),
        (
            "[models",
            'engines = ["tensorrt"]\noptions = ["a"]\n[options.a]\nthreads = 1\n[models',
            "have threads, which the engine tensorrt lacks",
        ),
        (
            "[models",
            'options = ["a"]\n[options.a]\nrecipe = "full"\n[models',
            "have a recipe, and fp32 quantizes nothing",
        ),
        (
            "[measure]",
            '[measure]\nmode = "device"',
            "the mode device is not for engines that run on cpu",
        ),
    ],
)
def test_a_case_that_cannot_be_is_refused_before_anything_runs(tmp_path, old, new, message):
    with pytest.raises(SpecError) as caught:
        cases_of(tmp_path, PRODUCT.replace(old, new, 1))
    assert message in caught.value.message
