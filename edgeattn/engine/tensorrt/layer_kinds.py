"""What a layer of an engine does, and in which type it computes: the evidence for each.

TensorRT documents neither the names of layers and kernels nor what they mean; what is told from
them here has been seen in the sources below. Where a layer is not known, nothing is claimed of it.

    attention  one kernel for both products and the softmax between them: `_gemm_mha_v2…`, or
               `_gemv_mha…` for single queries, in the name of the layer or of its tactic
    plugin     a layer of type `PluginV2` or `PluginV3`
    product    a convolution or matrix product, told by the type of the layer, by the types in the
               name of its tactic, or by the operators in the name of a kernel of Myelin's
    quantize   Q or DQ as a layer of its own
    reformat   a change of layout or type that TensorRT put between two layers
    move       a kernel of Myelin's that only moves or casts values
    control    waits, signals, constants, shapes: no arithmetic on tensors
    opaque     a part of the graph in one black box, whose kernels the engine does not tell
    other      everything else: normalization, softmax, pointwise kernels

References:
    NVIDIA/TensorRT issues #3243 (a maintainer: fused attention has `_mha` in its kernel's name),
    #3665 and #4397 (gemm, kgen, wait and signal layers; names of tactics), #4020 (reformats).
    pytorch/TensorRT pull request 4204: `_gemm_mha` and `_gemv_mha` for attention operators too.
    NVIDIA/TensorRT, tools/experimental/trt-engine-explorer: Q/DQ as layers of type Reformat.
"""

from __future__ import annotations

import re
from typing import Literal

from edgeattn.engine.tensorrt.inspector import EngineLayer, dtype_of_words

LayerKind = Literal[
    "attention",
    "plugin",
    "product",
    "quantize",
    "reformat",
    "move",
    "control",
    "opaque",
    "other",
]

# Those that do the model's arithmetic, and those of them with matrix products.
COMPUTE_KINDS: frozenset[LayerKind] = frozenset({"attention", "plugin", "product", "other"})
PRODUCT_KINDS: frozenset[LayerKind] = frozenset({"attention", "plugin", "product"})

# Layers are named after the nodes they come from, and a model may call one of them `fmha`; so the
# name counts where it begins as a kernel's. Tactics are named by TensorRT alone.
_FUSED_NAME = re.compile(r"(?:__my[a-z][0-9]+)?_*(?:gemm|gemv)_mha")
_FUSED_TACTIC = re.compile(r"(?:^|_)(?:(?:gemm|gemv)_mha|fmha)")

_CONTROL_TYPES = {
    "constant",
    "devicetoshapehost",
    "noop",
    "shape_call",
    "shapehosttodevice",
    "signal",
    "trainstation",
    "wait",
}

_QUANTIZE_TYPES = {"quantize", "dequantize"}
_PRODUCT_TYPES = re.compile(
    r"conv(?!ert)|gemm|gemv|matmul|matrixmultiply|fullyconnected", re.IGNORECASE
)

# Myelin names its kernels after the operators in them: __myl_TranReshMove_myl3_3.
_MYELIN = re.compile(r"__myl_(?:bb[0-9]+_[0-9]+_)?((?:[A-Z][a-z]+)+)(?:_|$)")
_PRODUCT_OPERATORS = {"Conv", "Fc", "Gemm"}
_MOVING_OPERATORS = {
    "Cas",
    "Cast",
    "Con",
    "Conc",
    "Copy",
    "Mov",
    "Move",
    "Res",
    "Resh",
    "Sli",
    "Slic",
    "Tra",
    "Tran",
}

_TACTIC_DTYPES = {
    "bf16": "bfloat16",
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "tf32": "tf32",
}
# Types of input and output, then of factors and sum: sm80_xmma_gemm_f16f16_f16f32_f32_…
_TYPE = "(?:" + "|".join(_TACTIC_DTYPES) + "|i32)"
_TACTIC_TYPES = re.compile(f"_{_TYPE}{_TYPE}_({_TYPE}){_TYPE}_{_TYPE}(?:_|$)")
# Older kernels name one type: volta_int8x4_icudnn_int8x4_128x32_…, volta_scudnn_128x64_…
_TACTIC_WORDS = {
    "fp16": "float16",
    "int8": "int8",
    "int8x4": "int8",
    "int8x32": "int8",
    "scudnn": "float32",
    "sgemm": "float32",
}

# Arithmetic on these is bookkeeping: indices, masks, shapes.
_INTEGERS = {"bool", "int32", "int64", "uint8", ""}


def kind_of_layer(layer: EngineLayer) -> LayerKind:
    """Tell what a layer does, from its type and from the names of it and its tactic."""
    layer_type = layer.layer_type.lower()
    if is_fused_attention(layer):
        return "attention"
    if "plugin" in layer_type:
        return "plugin"
    if layer_type in _QUANTIZE_TYPES or layer.raw.get("Origin") == "QDQ":
        return "quantize"
    if layer_type == "reformat" or layer.name.startswith("Reformatting CopyNode"):
        return "reformat"
    if layer_type in _CONTROL_TYPES:
        return "control"
    if layer.foreign_range is not None:
        return "opaque"
    operators = _myelin_operators(layer)
    if operators and operators <= _MOVING_OPERATORS:
        return "move"
    is_product = _PRODUCT_TYPES.search(layer.layer_type) or _TACTIC_TYPES.search(layer.tactic)
    return "product" if is_product or operators & _PRODUCT_OPERATORS else "other"


def is_fused_attention(layer: EngineLayer) -> bool:
    """Tell whether the name of a layer or of its tactic is that of a fused attention kernel."""
    return bool(_FUSED_NAME.match(layer.name) or _FUSED_TACTIC.search(layer.tactic))


def precision_of_layer(layer: EngineLayer) -> str:
    """Tell in which type a layer computes.

    The types in the name of the tactic decide; then the type of the weights; then that of the
    first tensor that it reads, sizes and masks aside: a layer that reads INT8 computes in INT8 if
    nothing says otherwise.

    Returns:
        numpy's (or ml_dtypes') name of the type of its factors, or `tf32`; empty if the engine
        does not tell, as for black boxes.
    """
    if kind_of_layer(layer) == "opaque":
        return ""
    match = _TACTIC_TYPES.search(layer.tactic)
    if match and match[1] in _TACTIC_DTYPES:
        return _TACTIC_DTYPES[match[1]]
    weights = layer.raw.get("Weights")
    if isinstance(weights, dict) and (dtype := dtype_of_words(str(weights.get("Type")))):
        return dtype
    for tensor in (*layer.inputs, *layer.outputs):
        # One number alone is a factor of the result: alpha and beta of a product are.
        if tensor.dtype not in _INTEGERS and tensor.dims not in ((), (1,)):
            return tensor.dtype
    words = re.split(r"[_/]", layer.tactic)
    return next((_TACTIC_WORDS[word] for word in words if word in _TACTIC_WORDS), "")


def is_same_type(asked: str, got: str) -> bool:
    """Tell whether a layer computes in the type that was asked for: TF32 is the default of FP32."""
    return asked == got or (asked, got) == ("float32", "tf32")


def _myelin_operators(layer: EngineLayer) -> set[str]:
    match = _MYELIN.search(layer.name) or _MYELIN.search(layer.tactic)
    return set(re.findall(r"[A-Z][a-z]+", match[1])) if match else set()
