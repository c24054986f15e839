"""Optimization profiles: made whole, and each contradiction found before TensorRT sees it."""

from __future__ import annotations

import re

import pytest

from edgeattn.engine.base import TensorSpec
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.profiles import can_be_shape_tensor, resolve_profiles
from edgeattn.errors import BuildError
from edgeattn.inputs import InputSpec

IMAGE = InputSpec(("batch", 3, "height", 224), "image")
MASK = InputSpec(("batch", 7), "mask")
SIZES = TensorSpec("sizes", "int64", (2,))
COUNT = TensorSpec("count", "int32", ())
FIXED = InputSpec((1, 5), "x")


def resolve(inputs, *profiles: ShapeProfile) -> tuple[ShapeProfile, ...]:
    return resolve_profiles(TensorRtOptions(profiles=profiles), inputs)


def test_a_graph_without_free_dimensions_has_its_own_profile():
    shapes = {"x": (1, 5)}
    assert resolve([FIXED]) == (ShapeProfile(min=shapes, opt=shapes, max=shapes),)


def test_what_is_left_out_is_the_best_shape_or_the_graphs():
    (profile,) = resolve(
        [IMAGE, FIXED],
        ShapeProfile(opt={"image": (4, 3, 64, 224)}, max={"image": (8, 3, 96, 224)}),
    )
    assert profile.min == {"image": (4, 3, 64, 224), "x": (1, 5)}
    assert profile.opt == {"image": (4, 3, 64, 224), "x": (1, 5)}
    assert profile.max == {"image": (8, 3, 96, 224), "x": (1, 5)}


def test_resolving_twice_changes_nothing():
    once = resolve([IMAGE], ShapeProfile(opt={"image": (4, 3, 64, 224)}))
    assert resolve([IMAGE], *once) == once


def test_several_profiles_keep_their_order():
    first, second = resolve(
        [MASK], ShapeProfile(opt={"mask": (1, 7)}), ShapeProfile(opt={"mask": (2, 7)})
    )
    assert (first.opt["mask"], second.opt["mask"]) == ((1, 7), (2, 7))


def test_a_free_dimension_without_a_range_is_named_with_what_to_type():
    with pytest.raises(BuildError, match="image has the free dimensions batch, height") as error:
        resolve([FIXED, IMAGE])
    assert "--opt-shapes image:1x3x1x224" in error.value.hint
    with pytest.raises(BuildError, match="mask has the free dimension batch, and"):
        resolve([MASK])


def wrong(said: str, inputs, *profiles: ShapeProfile) -> str:
    with pytest.raises(BuildError, match=re.escape(said)) as error:
        resolve(inputs, *profiles)
    return error.value.hint


def test_an_input_that_the_graph_has_not_is_named():
    hint = wrong(
        "the max shapes name an input imaeg",
        [IMAGE],
        ShapeProfile(opt={"image": (1, 3, 8, 224)}, max={"imaeg": (1, 3, 8, 224)}),
    )
    assert hint == "did you mean image?"


def test_an_input_whose_shape_is_free_must_be_given():
    wrong(
        "the opt shapes of profile 1 lack the input mask, whose shape is free: batchx7",
        [MASK],
        ShapeProfile(opt={"mask": (1, 7)}),
        ShapeProfile(opt={}),
    )


def test_a_rank_that_is_not_the_graphs_is_named():
    wrong(
        "the opt shape of the input mask is 7 of rank 1; the graph has rank 2: batchx7",
        [MASK],
        ShapeProfile(opt={"mask": (7,)}),
    )


def test_a_size_that_the_graph_fixes_cannot_be_another():
    wrong(
        "the min shape of the input mask is 1x6; the graph fixes axis 1 to 7: batchx7",
        [MASK],
        ShapeProfile(min={"mask": (1, 6)}, opt={"mask": (1, 7)}),
    )


def test_an_empty_input_is_refused():
    wrong(
        "the min shape of the input mask is 0x7; expected sizes of at least 1",
        [MASK],
        ShapeProfile(min={"mask": (0, 7)}, opt={"mask": (1, 7)}),
    )


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((3, 7), (2, 7), (4, 7)), "has the min shape 3x7 and the opt shape 2x7"),
        (((1, 7), (5, 7), (4, 7)), "has the opt shape 5x7 and the max shape 4x7"),
    ],
)
def test_a_range_that_runs_backwards_is_named(shapes, said):
    smallest, best, largest = shapes
    wrong(
        said,
        [MASK],
        ShapeProfile(min={"mask": smallest}, opt={"mask": best}, max={"mask": largest}),
    )


def test_one_name_of_a_dimension_is_one_size():
    wrong(
        "the opt shapes set the dimension batch to 2 in the input image and to 3 in mask",
        [IMAGE, MASK],
        ShapeProfile(opt={"image": (2, 3, 8, 224), "mask": (3, 7)}),
    )


def test_few_integers_may_be_the_values_of_a_shape_tensor():
    (profile,) = resolve(
        [SIZES, COUNT],
        ShapeProfile(
            min={"sizes": (0, 4), "count": (0,)},
            opt={"sizes": (8, 8), "count": (3,)},
            max={"sizes": (16, 16), "count": (9,)},
        ),
    )
    assert profile.min == {"sizes": (0, 4), "count": (0,)}
    assert profile.max == {"sizes": (16, 16), "count": (9,)}
    wrong(
        "has the min shape 9x1", [SIZES], ShapeProfile(min={"sizes": (9, 1)}, opt={"sizes": (8, 8)})
    )


@pytest.mark.parametrize(
    ("spec", "can"),
    [
        (SIZES, True),
        (COUNT, True),
        (TensorSpec("x", "float32", (2,)), False),
        (TensorSpec("x", "int64", ("n",)), False),
        (TensorSpec("x", "int64", (2, 2)), False),
    ],
)
def test_a_shape_tensor_is_few_integers(spec, can):
    assert can_be_shape_tensor(spec) is can


def test_a_graph_without_inputs_has_an_empty_profile():
    assert resolve([]) == (ShapeProfile(min={}, opt={}, max={}),)
