"""The binding of the kernels' C interface: struct layouts, what arrives in C, clear refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edgeattn.errors import PluginError, SpecError
from edgeattn.plugin import kernels
from edgeattn.plugin.kernels import Emulator, KernelLibrary
from edgeattn.spec import AttentionSpec, HeadGroup

INCLUDE = Path(__file__).resolve().parents[3] / "plugins" / "include"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

# A library that computes nothing: it tells what it was given, or copies qkv's beginning to out.
LIBRARY = r"""
#include <edgeattn/edgeattn.h>
#include <stdio.h>
#include <string.h>

#ifndef ABI
#define ABI EDGEATTN_ABI_VERSION
#endif
#ifndef INFO
#define INFO "{\"kind\": \"emulator\", \"version\": \"0\", \"architectures\": []}"
#endif

extern "C" {
EDGEATTN_API int32_t edgeattn_abi_version(void) { return ABI; }
#ifndef NOTHING_ELSE
EDGEATTN_API char const* edgeattn_build_info(void) { return INFO; }

static int32_t list(char* text, size_t bytes, int32_t const* values, int32_t count) {
  int32_t used = snprintf(text, bytes, "; ");
  for (int32_t i = 0; i < count; ++i) used += snprintf(text + used, bytes - used, "%d ", values[i]);
  return used;
}

EDGEATTN_API int32_t edgeattn_check(EdgeattnAttributes const* a, int32_t in_type, int32_t out_type,
                                    char* message, size_t bytes) {
  if (in_type == out_type && in_type == EDGEATTN_FLOAT32) return EDGEATTN_SUCCESS;
  int32_t n = snprintf(message, bytes, "%d %d; %d %d %g %d %d %d %d %g %d; %g %g", in_type,
                       out_type, a->head_dim, a->qkv_heads, a->softmax_scale, a->qkv_layout,
                       a->has_bias, a->pad_mode, a->shift_pad_order, a->mask_value, a->qk_mode,
                       a->qkv_quant_scale, a->out_quant_scale);
  int32_t const g = a->num_groups;
  n += list(message + n, bytes - n, a->group_head_offset, g);
  n += list(message + n, bytes - n, a->group_num_heads, g);
  n += list(message + n, bytes - n, a->group_window, 2 * g);
  n += list(message + n, bytes - n, a->group_shift, 2 * g);
  n += list(message + n, bytes - n, a->group_mode, g);
  n += list(message + n, bytes - n, a->group_dilation, 2 * g);
  n += list(message + n, bytes - n, a->group_causal, g);
  return EDGEATTN_INVALID_ARGUMENT;
}

EDGEATTN_API int32_t edgeattn_variants(EdgeattnAttributes const*, EdgeattnProblem const* problem,
                                       int32_t* ids, int32_t capacity) {
  if (problem->in_type == EDGEATTN_INT8) return EDGEATTN_INVALID_ARGUMENT;
  int32_t const all[3] = {problem->batch, problem->height, problem->width};
  if (ids != nullptr) memcpy(ids, all, sizeof(int32_t) * (capacity < 3 ? capacity : 3));
  return 3;
}

EDGEATTN_API int32_t edgeattn_window_attention(EdgeattnAttributes const* a,
                                               EdgeattnProblem const* p,
                                               EdgeattnTensors const* t, int32_t variant,
                                               void* stream, char* message, size_t bytes) {
  if (variant < 0) return variant;
  if (variant > 0) {
    snprintf(message, bytes, "%d %d %d %d %d; %p %p %p %p %p; %d %p", p->in_type, p->out_type,
             p->batch, p->height, p->width, t->qkv, static_cast<void const*>(t->bias_table),
             static_cast<void const*>(t->pad_kv), static_cast<void const*>(t->logit_scale), t->out,
             variant, stream);
    return variant;
  }
  int64_t channels = 0;
  for (int32_t g = 0; g < a->num_groups; ++g) channels += a->group_num_heads[g] * a->head_dim;
  int32_t const size = p->out_type == EDGEATTN_FLOAT32 ? 4 : p->out_type == EDGEATTN_INT8 ? 1 : 2;
  memcpy(t->out, t->qkv, channels * p->batch * p->height * p->width * size);
  return reinterpret_cast<uintptr_t>(t->qkv) % 16 ? EDGEATTN_INVALID_ARGUMENT : EDGEATTN_SUCCESS;
}

static uint64_t seed_;
EDGEATTN_API void edgeattn_emulator_set_seed(uint64_t seed) { seed_ = seed; }
EDGEATTN_API int64_t edgeattn_emulator_report(char* text, size_t bytes) {
  snprintf(text, bytes, "seed %llu", static_cast<unsigned long long>(seed_));
  return 7;
}
EDGEATTN_API int64_t edgeattn_emulator_statistics(char* json, size_t bytes) {
  return snprintf(json, bytes, "{\"ctas\": 5}");
}
#endif
}
"""

SPEC = AttentionSpec(
    8,
    5,
    (
        HeadGroup(3, (4, 6), (1, 2), 1),
        HeadGroup(2, (1, 7), mode="neighborhood", dilation=(1, 3), causal=True),
    ),
    softmax_scale=0.5,
    qkv_layout="H3D",
    has_bias=True,
    pad_mode="bias_kv",
    shift_pad_order="roll_then_pad",
    mask_value=-100.0,
    qk_mode="cosine",
    qkv_quant_scale=0.25,
    out_quant_scale=0.125,
)
PLAIN = AttentionSpec(4, 2, (HeadGroup(2, 3),))

Compile = Callable[..., Path]


@pytest.fixture(scope="module")
def compile_library(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compile the library with other definitions, each into a file of its own."""

    def compiled(*definitions: str) -> Path:
        folder = tmp_path_factory.mktemp("library")
        (folder / "library.cpp").write_text(LIBRARY)
        library = folder / "libedgeattn_test.so"
        flags = ["-shared", "-fPIC", "-I", str(INCLUDE), *(f"-D{d}" for d in definitions)]
        subprocess.run(["g++", *flags, str(folder / "library.cpp"), "-o", library], check=True)
        return library

    return compiled


@pytest.fixture(scope="module")
def path(compile_library: Compile) -> Path:
    return compile_library()


@pytest.fixture(scope="module")
def library(path: Path) -> KernelLibrary:
    return KernelLibrary(path)


# --- the C interface ------------------------------------------------------------------------------


def test_the_structs_have_the_layout_of_the_header(tmp_path: Path) -> None:
    structs = {
        "EdgeattnAttributes": kernels.Attributes,
        "EdgeattnProblem": kernels.Problem,
        "EdgeattnTensors": kernels.Tensors,
    }
    prints = []
    for name, struct in structs.items():
        prints.append(f'printf("%zu ", sizeof({name}));')
        for field, *_ in struct._fields_:
            prints.append(f'printf("%zu ", offsetof({name}, {field}));')
            prints.append(f'printf("%zu ", sizeof((({name}*)nullptr)->{field}));')
    source = tmp_path / "layout.cpp"
    body = "\n".join(prints)
    source.write_text(
        f"#include <edgeattn/edgeattn.h>\n#include <stdio.h>\nint main() {{ {body} }}\n"
    )
    program = tmp_path / "layout"
    subprocess.run(["g++", "-I", str(INCLUDE), str(source), "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    expected = []
    for struct in structs.values():
        expected.append(kernels.ctypes.sizeof(struct))
        for field, *_ in struct._fields_:
            place = getattr(struct, field)
            expected += [place.offset, place.size]
    assert [int(number) for number in printed.split()] == expected


def test_the_constants_are_those_of_the_header() -> None:
    header = (INCLUDE / "edgeattn" / "edgeattn.h").read_text()
    constants = dict(re.findall(r"EDGEATTN_(\w+) = (-?\d+)", header))
    defined = dict(re.findall(r"#define EDGEATTN_(\w+) (\d+)", header))
    assert int(defined["ABI_VERSION"]) == kernels.ABI_VERSION
    assert int(defined["MAX_HEAD_GROUPS"]) == kernels.MAX_HEAD_GROUPS
    assert int(defined["MESSAGE_BYTES"]) == kernels.MESSAGE_BYTES
    for status in ("SUCCESS", "INVALID_ARGUMENT", "EMULATOR_VIOLATION"):
        assert int(constants[status]) == getattr(kernels, status)
    types = [constants[name.upper()] for name in kernels.ELEMENT_TYPES]
    assert types == ["0", "1", "2", "3"]


def test_every_attribute_arrives_where_the_header_has_it(library: KernelLibrary) -> None:
    with pytest.raises(SpecError) as caught:
        library.check(SPEC, "int8", "float16")
    assert caught.value.message.split("; ") == [
        "3 1",
        "8 5 0.5 1 1 1 1 -100 1",
        "0.25 0.125",
        "1 0 ",
        "3 2 ",
        "4 6 1 7 ",
        "1 2 0 0 ",
        "0 2 ",
        "1 1 1 3 ",
        "0 1 ",
    ]


def test_an_accepted_spec_passes_silently(library: KernelLibrary) -> None:
    library.check(SPEC, "float32", "float32")


def test_the_sizes_arrive_and_the_variants_come_back(library: KernelLibrary) -> None:
    assert library.variants(PLAIN, "float16", "float16", (2, 5, 9)) == [2, 5, 9]


def test_refused_variants_say_why(library: KernelLibrary) -> None:
    with pytest.raises(SpecError, match=r"^3 3; 8 5 0\.5"):
        library.variants(SPEC, "int8", "int8", (2, 5, 9))


def test_addresses_and_stream_arrive_and_a_failure_raises_the_librarys_message(
    library: KernelLibrary,
) -> None:
    with pytest.raises(PluginError) as caught:
        library.launch(
            SPEC,
            qkv=0x10,
            out=0x20,
            bias_table=0x30,
            pad_kv=0x40,
            logit_scale=0x50,
            shape=(2, 1, 9),
            in_type="bfloat16",
            out_type="bfloat16",
            variant=6,
            stream=1 << 40,
        )
    assert caught.value.message == "2 2 2 1 9; 0x10 0x30 0x40 0x50 0x20; 6 0x10000000000"


def test_absent_inputs_are_null(library: KernelLibrary) -> None:
    with pytest.raises(PluginError, match=re.escape("0x10 (nil) (nil) (nil) 0x20; 1 (nil)")):
        library.launch(
            PLAIN,
            qkv=0x10,
            out=0x20,
            shape=(1, 2, 3),
            in_type="float32",
            out_type="float32",
            variant=1,
        )


def test_a_failure_without_a_message_gives_the_status(library: KernelLibrary) -> None:
    sizes = {"shape": (1, 2, 3), "in_type": "float32", "out_type": "float32"}
    with pytest.raises(PluginError, match="the attention kernel failed: emulator violation"):
        library.launch(PLAIN, qkv=1, out=1, **sizes, variant=-2)
    with pytest.raises(PluginError, match="the attention kernel failed: invalid argument"):
        library.launch(PLAIN, qkv=1, out=1, **sizes, variant=-1)


def test_a_type_without_kernels_is_refused(library: KernelLibrary) -> None:
    with pytest.raises(SpecError, match="no type float64; expected float32, float16, bfloat16"):
        library.check(PLAIN, "float64", "float64")


# --- numpy in, numpy out --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16", "int8", ml_dtypes.bfloat16])
def test_arrays_of_every_type_come_back_in_that_type(library: KernelLibrary, dtype: str) -> None:
    qkv = np.arange(2 * 3 * 4 * 24).reshape(2, 3, 4, 24).astype(dtype)
    out = library.run(PLAIN, {"qkv": qkv})
    assert (out.shape, out.dtype) == ((2, 3, 4, 8), np.dtype(dtype))
    np.testing.assert_array_equal(out.reshape(-1), qkv.reshape(-1)[: out.size])


def test_an_output_of_another_type_is_asked_for_by_name(library: KernelLibrary) -> None:
    out = library.run(PLAIN, {"qkv": np.ones((1, 3, 4, 24), np.int8)}, out_type="float16")
    assert (out.shape, out.dtype) == ((1, 3, 4, 8), np.float16)


def test_strided_and_misaligned_arrays_are_copied(library: KernelLibrary) -> None:
    memory = kernels.aligned_empty((1 + 2 * 288,), np.dtype(np.int8))
    memory[:] = np.arange(memory.size) % 100
    misaligned = memory[1 : 1 + 288].reshape(1, 3, 4, 24)
    assert misaligned.ctypes.data % 16 == 1
    for qkv in (misaligned, memory[: 2 * 288 : 2].reshape(1, 3, 4, 24)):
        out = library.run(PLAIN, {"qkv": qkv})
        np.testing.assert_array_equal(out.reshape(-1), qkv.reshape(-1)[: out.size])


def test_no_image_gives_an_empty_output(library: KernelLibrary) -> None:
    assert library.run(PLAIN, {"qkv": np.ones((0, 3, 4, 24), np.float16)}).shape == (0, 3, 4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_kv": None}, "the attention has the inputs qkv, bias_table, logit_scale; expected"),
        ({"mask": np.ones(3)}, "the attention has the inputs qkv, bias_table, pad_kv, logit_scale"),
        ({"qkv": np.ones((1, 9, 120), np.float32)}, "qkv has the shape [1, 9, 120]; expected"),
        ({"qkv": np.ones((1, 1, 9, 60), np.float32)}, "expected [B, H, W, 120]"),
        ({"qkv": np.ones((1, 1, 9, 120))}, "the kernels have no type float64"),
        ({"pad_kv": np.ones(80)}, "pad_kv is float64 of shape [80]; expected float32"),
        ({"logit_scale": np.ones(4, np.float32)}, "logit_scale is float32 of shape [4]; expected"),
    ],
)
def test_wrong_tensors_are_refused(
    library: KernelLibrary, changes: dict[str, np.ndarray | None], message: str
) -> None:
    shapes = {"qkv": (1, 1, 9, SPEC.qkv_channels), **SPEC.input_shapes()}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | changes
    with pytest.raises(SpecError, match=re.escape(message)):
        library.run(SPEC, {name: t for name, t in tensors.items() if t is not None})


def test_a_library_of_the_gpu_takes_no_arrays(compile_library: Compile) -> None:
    info = json.dumps(json.dumps({"kind": "cuda", "architectures": [87]}))
    library = KernelLibrary(compile_library(f"INFO={info}"))
    assert not library.is_emulator
    assert library.build_info["architectures"] == [87]
    with pytest.raises(PluginError, match="computes on a GPU, not on numpy arrays"):
        library.run(PLAIN, {"qkv": np.ones((1, 3, 4, 24), np.float32)})
    with pytest.raises(PluginError, match="is a cuda library, not the emulator"):
        Emulator(library.path)


def test_the_emulators_own_functions_are_reached(path: Path) -> None:
    emulator = Emulator(path)
    assert emulator.is_emulator
    emulator.set_seed(1 << 63)
    assert emulator.take_report() == (7, f"seed {1 << 63}")
    assert emulator.take_statistics() == {"ctas": 5}


# --- files that are no kernel library -------------------------------------------------------------


def _refused(path: Path, message: str) -> None:
    with pytest.raises(PluginError, match=re.escape(message)) as caught:
        KernelLibrary(path)
    assert str(path) in caught.value.message
    assert caught.value.hint == "build it from this checkout: edgeattn plugin build"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "libedgeattn_kernels.so", "there is no kernel library")


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library.so").write_text("not an ELF file")
    _refused(tmp_path / "library.so", "cannot be loaded")


def test_a_library_of_another_interface_is_refused(compile_library: Compile) -> None:
    version = "has version 2 of the kernels' C interface; expected 1"
    _refused(compile_library("ABI=2"), version)


def test_a_library_without_the_functions_is_refused(compile_library: Compile) -> None:
    path = compile_library("NOTHING_ELSE")
    _refused(path, "is no kernel library: it has no function edgeattn_check")
    _refused(
        compile_library("edgeattn_abi_version=other"), "it has no function edgeattn_abi_version"
    )


def test_a_library_that_does_not_describe_itself_is_refused(compile_library: Compile) -> None:
    _refused(compile_library('INFO="emulator"'), "describes itself as b'emulator'")
