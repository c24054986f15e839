"""Bugs to plant into a copy of the kernels: each must fail a check.

A bug is a replacement in one source file. All other tests ask whether the kernels are right; these
ask whether the tests would tell if they were not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# What must be found: a broken rule of the hardware, a wrong result, or either.
VIOLATION = r"violations, seed"
NUMBERS = r"times the framework's own|of what rounding allows|than one step off|Not equal|NaN"
EITHER = f"{VIOLATION}|{NUMBERS}"


@dataclass(frozen=True)
class Bug:
    """A mistake in the source.

    Attributes:
        file: In `plugins/`.
        pattern: Regular expression that the file holds exactly once.
        replacement: What stands there instead.
        found_by: Regular expression of the message that must come.
        form: Types to run, a key of `FORMS`.
        case: The case that meets the line.
    """

    file: str
    pattern: str
    replacement: str
    found_by: str = EITHER
    form: str = "float16"
    case: str = "windows"


def _text(text: str) -> str:
    return re.escape(text)


_BIAS_LAYOUT = "include/edgeattn/bias_layout.h"
_EPILOGUE = "include/edgeattn/epilogue.h"
_INDEX = "include/edgeattn/window_index.h"
_ITEM = "include/edgeattn/work_item.h"
_LOADER = "include/edgeattn/key_value_loader.h"
_PLAIN = "include/edgeattn/window_attention_plain.h"
_PLAN = "launch/plan.cpp"
_QUERY = "include/edgeattn/query_tile.h"
_RESIDENT = "include/edgeattn/window_attention_resident.h"
_SCORES = "include/edgeattn/scores.h"
_SOFTMAX = "include/edgeattn/softmax.h"
_STREAMED = "include/edgeattn/window_attention_streamed.h"
_TRANSPOSE = "include/edgeattn/quad_transpose.h"
_WINDOW_ROWS = "include/edgeattn/window_rows.h"

_BARRIER = r"\n *sync_cta\(\);  // "
_TOKEN = r"(static_cast<int64_t>\(token[^)]*)"

# Those that every run plants.
COMMON_BUGS: dict[str, Bug] = {
    "a barrier is missing before keys and values are used": Bug(
        _RESIDENT, rf"{_BARRIER}the step.*", "", VIOLATION
    ),
    "two fragment registers of Q are swapped": Bug(
        _QUERY, _text("[row % 2 + 2 * (w % 2)]"), "[2 * (row % 2) + w % 2]", NUMBERS
    ),
    "queries are read one row too far": Bug(
        _QUERY, rf"{_TOKEN}\) \* params", r"\1 + 1) * params", r"reads \d+ bytes at qkv .*outside"
    ),
}

BUGS: dict[str, Bug] = {
    # Barriers and copies.
    "a barrier is missing before the rows are used": Bug(
        _STREAMED, rf"{_BARRIER}the rows are known.*", "", VIOLATION
    ),
    "a barrier is missing before streamed keys are used": Bug(
        _STREAMED, rf"{_BARRIER}chunk i of.*", "", VIOLATION
    ),
    "a barrier is missing before the lengths of keys are used": Bug(
        _RESIDENT, rf"{_BARRIER}the lengths of.*", "", VIOLATION, case="cosine"
    ),
    "a barrier is missing before the lengths of streamed keys are used": Bug(
        _STREAMED, rf"{_BARRIER}the lengths of.*", "", VIOLATION, case="cosine"
    ),
    "a warp does not wait for the factors of its queries": Bug(
        _QUERY, r"\n *sync_warp\(\);  // the factors.*", "", VIOLATION, case="small_cosine"
    ),
    "the next windows overwrite the present ones": Bug(
        _RESIDENT, _text("step % 2 * layout.stage_bytes"), "0", VIOLATION, case="small"
    ),
    "the rows of the next windows overwrite the present ones": Bug(
        _RESIDENT, _text("step % kRowStages"), "step % 2", VIOLATION, case="small"
    ),
    "a barrier is missing before FP32 keys are overwritten": Bug(
        _PLAIN, rf"{_BARRIER}all warps are done.*", "", VIOLATION, "float32"
    ),
    "a barrier is missing before FP32 keys are used": Bug(
        _PLAIN, rf"{_BARRIER}the rows of all warps.*", "", VIOLATION, "float32"
    ),
    "copies are not waited for": Bug(
        _RESIDENT, _text("copy_async_wait<0>();"), "", VIOLATION
    ),
    "streamed copies are waited for one too late": Bug(
        _STREAMED, _text("copy_async_wait<0>();"), "copy_async_wait<1>();", VIOLATION
    ),
    # Fragments.
    "two fragment registers of V are swapped": Bug(
        _SOFTMAX,
        _text("low[2] = {channels[0], channels[1]};"),
        "low[2] = {channels[1], channels[0]};",
        NUMBERS,
    ),
    "two fragments of V are taken for one": Bug(
        _SOFTMAX, _text("[2 * p + 1], a[r], high"), "[2 * p + 1], a[r], low", NUMBERS
    ),
    "two fragment registers of K are swapped": Bug(
        _SCORES,
        _text("{words.word[2 * step], words.word[2 * step + 1]}"),
        "{words.word[2 * step + 1], words.word[2 * step]}",
        NUMBERS,
    ),
    "two fragment registers of the weights are swapped": Bug(
        _SOFTMAX, _text("&scores[i / 2][2 * (i % 2)]"), "&scores[i % 2][2 * (i / 2)]", NUMBERS
    ),
    "lanes exchange the wrong words of the output": Bug(
        _TRANSPOSE,
        _text("exchange(word[2], word[3], 1, is_odd);"),
        "exchange(word[3], word[2], 1, is_odd);",
        NUMBERS,
    ),
    # Memory.
    "keys and values are read one row too far": Bug(
        _LOADER, rf"{_TOKEN}\) \* params", r"\1 + 1) * params", r"at qkv .*outside"
    ),
    "values are read one row too far from shared memory": Bug(
        _SOFTMAX, _text("16 * t * Tile::kRowBytes"), "(16 * t + 1) * Tile::kRowBytes"
    ),
    "rows of no token are not filled with zeros": Bug(
        _LOADER,
        r"(\n *)(int32_t const bytes = token < 0)",
        r"\1if (token < 0) return;\1\2",
        VIOLATION,
        case="masked",
    ),
    "keys are read without the swizzle": Bug(
        _SCORES,
        r"\+ RowTile<kHeadDim>::offset\(g, 4 \* block \+ c\)",
        "+ (g * RowTile<kHeadDim>::kRowBytes + (4 * block + c) * 16)",
        NUMBERS,
    ),
    "values are read without the swizzle": Bug(
        _SOFTMAX,
        r"\+ Tile::offset\(lane_index\(\) % 16, 2 \* p \+ lane_index\(\) / 16\)",
        "+ (lane_index() % 16 * Tile::kRowBytes + (2 * p + lane_index() / 16) * 16)",
        NUMBERS,
    ),
    "queries past the end of a window are stored": Bug(
        _EPILOGUE, r"token >= 0 && (is_channel\) store\(.*Vec16>)", r"\1", VIOLATION
    ),
    "the last item takes more windows than there are": Bug(
        _WINDOW_ROWS, r"exists = first_window \+ window < .*;", "exists = true;", case="small"
    ),
    "the last item takes more heads than there are": Bug(
        _ITEM, _text("heads_left < group.item_heads ? heads_left : "), "", case="heads"
    ),
    "the first head of the group is forgotten": Bug(
        _RESIDENT, _text("group.head_offset + queries.head"), "queries.head", NUMBERS
    ),
    # The rule.
    "labels forget the shift": Bug(
        _INDEX, _text("label = i < padded - axis.shift ? 1 : 2;"), "label = 1;", NUMBERS
    ),
    "a shifted window is taken for a plain one": Bug(
        _INDEX,
        _text("has_padding || (axis.shift > 0 && a == axis.num_windows - 1)"),
        "has_padding",
        NUMBERS,
        case="shifted",
    ),
    "an even neighborhood reaches right": Bug(
        _INDEX, _text("j - window / 2"), "j - (window - 1) / 2", NUMBERS, case="neighborhood"
    ),
    "the bias is looked up one column off": Bug(
        _BIAS_LAYOUT, _text("group.cols.keys - 1, second_copy"), "group.cols.keys - 2, second_copy"
    ),
    "padded tokens have their key for a value": Bug(
        _LOADER, r"static_cast<int64_t>\(tensor\) \* params_\.qkv_heads \+ head", "head", NUMBERS
    ),
    # Softmax and scales.
    "the sum is not rescaled to a new maximum": Bug(
        _SOFTMAX, _text("state.sum[i] *= factor;"), "", NUMBERS
    ),
    "the output is not rescaled to a new maximum": Bug(
        _SOFTMAX, _text("state.out[n][i] *= factor;"), "state.out[n][i] *= 1.0f;", NUMBERS
    ),
    "the output is not divided by the sum": Bug(
        _EPILOGUE, r"float factor = .*state\.sum.*;", "float factor = 1.0f;", NUMBERS
    ),
    "INT8 forgets the square of its scale": Bug(
        _PLAN, _text("scale *= step * step;"), "scale *= step;", NUMBERS, "int8"
    ),
    "INT8 forgets the scale of its output": Bug(
        _EPILOGUE, _text("factor *= params.out_scale;"), ";", NUMBERS, "int8"
    ),
    "INT8 does not put padding on its steps": Bug(
        _LOADER, _text("step = params_.pad_quant_scale;"), "step = 1.0f;", NUMBERS, "int8"
    ),
    "half of a row of INT8 is not widened": Bug(
        _LOADER, r"\n *store\(\(tile \+ second\).*", "", EITHER, "int8"
    ),
    "cosine forgets the length of the queries": Bug(
        _QUERY, _text("scale * inverse_length(sum_of_quad(square))"), "scale", NUMBERS,
        case="cosine",
    ),
}  # fmt: skip
