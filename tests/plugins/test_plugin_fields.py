"""What the creator reads: attributes of a node, fields of an engine, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec, HeadGroup
from tests.plugins.plugin_host import FIELD_TYPES, REFUSED, Host, HostCase, Transcript, fields_of

# The attributes that have no default, for two head groups.
LEAST = {
    "head_dim": 8,
    "qkv_heads": 3,
    "group_num_heads": [1, 2],
    "group_window": [4, 4, 8, 8],
}
# All of them, none at its default.
FULL_SPEC = AttentionSpec(
    8,
    5,
    (
        HeadGroup(1, (4, 6), (1, 2), head_offset=1),
        HeadGroup(2, (1, 3), head_offset=3, mode="neighborhood", dilation=(1, 2), causal=True),
    ),
    softmax_scale=0.1,
    qkv_layout="H3D",
    has_bias=True,
    pad_mode="bias_kv",
    shift_pad_order="roll_then_pad",
    mask_value=-100.0,
    qk_mode="cosine",
    qkv_quant_scale=0.03,
    out_quant_scale=0.7,
)


def create(plugin: Host, folder: Path, *fields: Any) -> Transcript:
    return plugin.live(HostCase(list(fields)), folder)


def attributes_of(told: Transcript) -> dict[str, Any]:
    """Read the attributes back from the plugin's metadata."""
    (text,) = told.of("metadata")
    values: dict[str, Any] = {}
    for word in text.split(" "):
        name, value = word.split("=")
        kind = ATTRIBUTE_KINDS[name]
        if kind == "int[]":
            values[name] = [int(entry) for entry in value.strip("[]").split(",")]
        else:
            values[name] = np.float32(value) if kind == "float" else int(value)
    return values


def same_attributes(got: dict[str, Any], spec: AttentionSpec) -> bool:
    expected = spec.to_attributes()
    assert list(got) == list(expected)
    return all(
        np.float32(got[n]) == np.float32(v) if ATTRIBUTE_KINDS[n] == "float" else got[n] == v
        for n, v in expected.items()
    )


def test_creator_advertises_every_attribute_with_the_type_that_the_parser_gives_it(
    plugin: Host,
) -> None:
    # The parser reads only what is advertised.
    told = plugin.introduce()
    assert told.of("creator") == ['MultiScaleWindowAttention 1 ""']
    assert told.of("advertised") == [f"{n} {FIELD_TYPES[k]}" for n, k in ATTRIBUTE_KINDS.items()]


def test_missing_attributes_have_the_defaults_of_the_specification(
    plugin: Host, tmp_path: Path
) -> None:
    told = create(plugin, tmp_path, *fields_of(LEAST))
    assert told.exit_code == 0
    assert same_attributes(attributes_of(told), AttentionSpec.from_attributes(LEAST))


def test_every_attribute_is_read(plugin: Host, tmp_path: Path) -> None:
    told = create(plugin, tmp_path, *fields_of(FULL_SPEC.to_attributes()))
    assert told.exit_code == 0
    assert same_attributes(attributes_of(told), FULL_SPEC)


def test_order_of_the_fields_does_not_matter(plugin: Host, tmp_path: Path) -> None:
    told = create(plugin, tmp_path, *reversed(fields_of(FULL_SPEC.to_attributes())))
    assert same_attributes(attributes_of(told), FULL_SPEC)


def test_version_and_namespace_of_this_plugin_are_accepted(plugin: Host, tmp_path: Path) -> None:
    identity = [("plugin_version", "char", ["1"]), ("plugin_namespace", "char", [])]
    assert create(plugin, tmp_path, *fields_of(LEAST), *identity).exit_code == 0


def _with(**changes: Any) -> list[Any]:
    """Give the least fields with changes: a value, a whole field, or `None` for none."""
    fields = {field[0]: field for field in fields_of(LEAST)}
    for name, change in changes.items():
        fields[name] = change if isinstance(change, tuple) else (name, "int32", change)
    return [field for field in fields.values() if field[2] is not None]


REFUSALS: dict[str, tuple[list[Any], str]] = {
    "missing_integer": (
        _with(head_dim=None),
        "attribute head_dim is missing; expected one integer",
    ),
    "missing_list": (
        _with(group_window=None),
        "attribute group_window is missing; expected one for each head group",
    ),
    "unknown": (
        _with(heads=[3]),
        'attribute "heads" is unknown; expected those of the operator\'s version 1',
    ),
    "duplicate": (
        [*_with(), ("head_dim", "int32", [8])],
        "attribute head_dim is given twice; expected once",
    ),
    "tactic_in_a_graph": (
        _with(tactic=[1]),
        'attribute "tactic" is unknown; expected those of the operator\'s version 1',
    ),
    "float_for_integer": (
        _with(head_dim=("head_dim", "float32", [8.0])),
        "attribute head_dim is of type kFLOAT32; expected kINT32",
    ),
    "integer_for_float": (
        _with(softmax_scale=[1]),
        "attribute softmax_scale is of type kINT32; expected kFLOAT32",
    ),
    "double_for_float": (
        _with(mask_value=("mask_value", "float64", [-1.0])),
        "attribute mask_value is of type kFLOAT64; expected kFLOAT32",
    ),
    "long_for_list": (
        _with(group_window=("group_window", "int64", [4, 4, 8, 8])),
        "attribute group_window is of type kINT64; expected kINT32",
    ),
    "text_for_integer": (
        _with(head_dim=("head_dim", "char", ["8"])),
        "attribute head_dim is of type kCHAR; expected kINT32",
    ),
    "list_for_integer": (
        _with(head_dim=[8, 8]),
        "attribute head_dim has 2 entries; expected 1",
    ),
    "empty_list": (
        _with(group_num_heads=[]),
        "attribute group_num_heads has no entries; expected at least 1",
    ),
    "pair_missing": (
        _with(group_window=[4, 4]),
        "attribute group_window has 2 entries; expected 4 for 2 head groups",
    ),
    "entry_too_many": (
        _with(group_causal=[0, 0, 0]),
        "attribute group_causal has 3 entries; expected 2 for 2 head groups",
    ),
    "one_entry_for_two_groups": (
        _with(group_mode=[0]),
        "attribute group_mode has 1 entry; expected 2 for 2 head groups",
    ),
    "pairs_for_one_group": (
        _with(group_num_heads=[1]),
        "attribute group_window has 4 entries; expected 2 for 1 head group",
    ),
    "other_version": (
        _with(plugin_version=("plugin_version", "char", ["2"])),
        'attribute plugin_version is "2"; this library is "1"',
    ),
    "other_namespace": (
        _with(plugin_namespace=("plugin_namespace", "char", ["acme"])),
        'attribute plugin_namespace is "acme"; this library is ""',
    ),
    "version_as_number": (
        _with(plugin_version=[1]),
        "attribute plugin_version is of type kINT32; expected kCHAR",
    ),
}


@pytest.mark.parametrize(("fields", "message"), REFUSALS.values(), ids=REFUSALS)
def test_wrong_fields_are_refused_with_one_sentence(
    fields: list[Any], message: str, plugin: Host, tmp_path: Path
) -> None:
    told = create(plugin, tmp_path, *fields)
    assert (told.exit_code, told.of("refused")) == (REFUSED, ["create"])
    assert told.errors == [message]


@pytest.mark.parametrize("name", ATTRIBUTE_KINDS)
def test_every_attribute_of_the_wrong_type_is_refused(
    name: str, plugin: Host, tmp_path: Path
) -> None:
    wrong = (name, "char", ["x"])
    fields = [
        wrong if field[0] == name else field for field in fields_of(FULL_SPEC.to_attributes())
    ]
    told = create(plugin, tmp_path, *fields)
    expected = "kFLOAT32" if ATTRIBUTE_KINDS[name] == "float" else "kINT32"
    assert told.errors == [f"attribute {name} is of type kCHAR; expected {expected}"]


def test_values_that_the_kernels_refuse_are_refused_in_their_words(
    plugin: Host, tmp_path: Path
) -> None:
    told = create(plugin, tmp_path, *_with(qkv_layout=[7]))
    assert told.exit_code == REFUSED
    (message,) = told.errors
    assert "qkv_layout" in message
    assert "7" in message


def test_message_goes_to_stderr_where_there_is_no_logger(plugin: Host, tmp_path: Path) -> None:
    case = HostCase(_with(head_dim=None))
    told = plugin.live(case, tmp_path, with_logger=False)
    assert told.exit_code == REFUSED
    assert told.of("log") == []
    assert told.stderr == (
        "MultiScaleWindowAttention layer_7: attribute head_dim is missing; expected one integer\n"
    )


def test_equal_attributes_share_their_timings_and_no_others_do(
    plugin: Host, tmp_path: Path
) -> None:
    def timing_cache_id(spec: AttentionSpec) -> str:
        return create(plugin, tmp_path, *fields_of(spec.to_attributes())).of("timing_cache_id")[0]

    base = timing_cache_id(FULL_SPEC)
    assert timing_cache_id(FULL_SPEC) == base
    others = [
        replace(FULL_SPEC, softmax_scale=np.nextafter(np.float32(0.1), np.float32(1))),
        replace(FULL_SPEC, mask_value=-np.inf),
        replace(FULL_SPEC, head_groups=FULL_SPEC.head_groups[::-1]),
        replace(FULL_SPEC, head_groups=FULL_SPEC.head_groups[:1]),
    ]
    assert len({base, *map(timing_cache_id, others)}) == len(others) + 1
