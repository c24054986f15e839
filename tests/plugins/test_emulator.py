"""The emulator: its instructions, what it finds, and how it is built."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin.emulator import SANITIZE_FLAGS, SOURCE_FOLDERS, build_emulator

PLUGINS = Path(__file__).parents[2] / "plugins"
SUITES = (
    "matrices",
    "shared_memory",
    "copies",
    "global_memory",
    "barriers",
    "launches",
    "statistics",
    "arithmetic",
)
HALF, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


def copy_sources(folder: Path) -> Path:
    """Copy what the emulator is made of; its own tests stand where the kernels would."""
    for part in SOURCE_FOLDERS:
        if part != "launch":
            shutil.copytree(PLUGINS / part, folder / part)
    (folder / "launch").mkdir()
    for path in (PLUGINS / "tests").glob("emulator_*"):
        shutil.copy(path, folder / "launch")
    return folder


def run_suite(library: Path, suite: str) -> None:
    """Run a suite in a process of its own: a crash is a failure of that suite alone."""
    program = (
        "import ctypes, sys\n"
        "text = ctypes.create_string_buffer(1 << 16)\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "count = library.edgeattn_emulator_test(sys.argv[2].encode(), text, len(text))\n"
        "sys.exit(text.value.decode() or (None if count > 0 else 'there is no such suite'))\n"
    )
    command = [sys.executable, "-c", program, str(library), suite]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"


@pytest.fixture(scope="module")
def tests_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the emulator with its own tests in place of kernels, warnings being errors."""
    return build_emulator(copy_sources(tmp_path_factory.mktemp("plugins")), flags=["-Werror"])


@pytest.fixture(scope="module")
def conversions(tests_library: Path) -> ctypes.CDLL:
    """Load the conversions of 16-bit numbers."""
    return ctypes.CDLL(str(tests_library))


@pytest.mark.parametrize("suite", SUITES)
def test_the_emulator_passes_its_own_tests(tests_library: Path, suite: str) -> None:
    run_suite(tests_library, suite)


def test_every_suite_is_run() -> None:
    files = {path.stem.removeprefix("emulator_") for path in PLUGINS.glob("tests/emulator_*.cpp")}
    assert files - {"testing", "conversions"} == set(SUITES)


# --- 16-bit numbers -------------------------------------------------------------------------------


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def widened(library: ctypes.CDLL, bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    values = np.empty(bits.shape, np.float32)
    function = library.edgeattn_half_to_float if dtype == HALF else library.edgeattn_bf16_to_float
    function(pointer(bits), pointer(values), ctypes.c_int64(bits.size))
    return values


def rounded(library: ctypes.CDLL, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    bits = np.empty(values.shape, np.uint16)
    half = dtype == HALF
    function = library.edgeattn_half_from_float if half else library.edgeattn_bf16_from_float
    function(pointer(values), pointer(bits), ctypes.c_int64(values.size))
    return bits


ALL_BITS = np.arange(1 << 16, dtype=np.uint16)


@pytest.mark.parametrize("dtype", [HALF, BF16], ids=["half", "bf16"])
def test_every_16_bit_number_widens_and_comes_back(
    conversions: ctypes.CDLL, dtype: np.dtype
) -> None:
    values = widened(conversions, ALL_BITS, dtype)
    with np.errstate(invalid="ignore"):
        expected = ALL_BITS.view(dtype).astype(np.float32)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(
        values[numbers].view(np.uint32), expected[numbers].view(np.uint32)
    )
    assert np.isnan(values[~numbers]).all()
    back = rounded(conversions, values, dtype)
    np.testing.assert_array_equal(back[numbers], ALL_BITS[numbers])
    assert (back[~numbers] == 0x7FFF).all()


@pytest.mark.parametrize("dtype", [HALF, BF16], ids=["half", "bf16"])
def test_floats_round_to_nearest_even(conversions: ctypes.CDLL, dtype: np.dtype) -> None:
    finite = widened(conversions, ALL_BITS, dtype)
    finite = np.sort(finite[np.isfinite(finite)].astype(np.float64))
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)  # exact: one bit more
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    largest = np.float32(finite[-1])
    values = np.concatenate(
        [
            ties,
            np.nextafter(ties, np.float32(np.inf)),
            np.nextafter(ties, np.float32(-np.inf)),
            random.view(np.float32),
            np.float32([0, -0.0, np.inf, -np.inf, 3.4028235e38, -3.4028235e38, 1e-45, -1e-45]),
            # What becomes infinite: from half a step beyond the largest number on.
            *(np.float32([s * largest * f]) for s in (1, -1) for f in (1, 1.0002, 1.0005, 1.002)),
        ]
    )
    values = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        expected = values.astype(dtype).view(np.uint16)
    np.testing.assert_array_equal(rounded(conversions, values, dtype), expected)


def test_every_nan_becomes_the_one_of_the_device(conversions: ctypes.CDLL) -> None:
    payloads = np.array([0x7F800001, 0x7FC00000, 0xFF800001, 0xFFFFFFFF], np.uint32)
    for dtype in (HALF, BF16):
        assert (rounded(conversions, payloads.view(np.float32), dtype) == 0x7FFF).all()


def exact_half(value: Fraction) -> np.float16:
    """Round a rational number to half precision, ties to even."""
    with np.errstate(over="ignore"):
        guess = np.float16(float(value))
    if np.isinf(guess):
        return guess
    nearby = [np.nextafter(guess, np.float16(s)) for s in (-np.inf, np.inf)]
    choices = [half for half in (guess, *nearby) if np.isfinite(half)]
    return min(
        choices,
        key=lambda half: (abs(Fraction(float(half)) - value), int(half.view(np.uint16)) & 1),
    )


@pytest.mark.parametrize("operation", ["+", "-", "*", "f"])
def test_half_arithmetic_is_the_exact_result_rounded_once(
    conversions: ctypes.CDLL, operation: str
) -> None:
    rng = np.random.default_rng(ord(operation))
    # Exponents near each other, where roundings are hard, and all of them.
    near = rng.integers(0x2C00, 0x4C00, (3, 3000), dtype=np.uint16)
    any_exponent = rng.integers(0, 0x7C00, (3, 3000), dtype=np.uint16)
    bits = np.concatenate([near, any_exponent], axis=1)
    bits |= rng.integers(0, 2, bits.shape, dtype=np.uint16) << 15
    pairs = np.ascontiguousarray(bits).view(np.uint32)
    results = np.empty(pairs.shape[1], np.uint32)
    conversions.edgeattn_half2(
        ctypes.c_char(operation.encode()),
        *(pointer(row) for row in pairs),
        pointer(results),
        ctypes.c_int64(results.size),
    )
    for got, *operands in zip(results.view(np.float16), *bits.view(np.float16), strict=True):
        a, b, c = (Fraction(float(operand)) for operand in operands)
        exact = {"+": a + b, "-": a - b, "*": a * b, "f": a * b + c}[operation]
        expected = exact_half(exact)
        assert got == expected, f"{operands}: {got}, expected {expected}"


# --- the build ------------------------------------------------------------------------------------


@pytest.fixture
def small_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a source that compiles in no time, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "source"
    for part in SOURCE_FOLDERS:
        (source / part).mkdir(parents=True)
    (source / "include/answer.h").write_text("#define ANSWER 42\n")
    (source / "launch/kernel.cu").write_text(
        '#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n'
    )
    (source / "launch/other.cpp").write_text(
        'extern "C" char const* version() {\n  return EDGEATTN_VERSION; }\n'
    )
    (source / "emulator/state.cpp").write_text("int state = 0;\n")
    return source


def count_compilations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a compiler in place that notes what it is asked to compile or link."""
    log = tmp_path / "compilations"
    log.write_text("")
    compiler = tmp_path / "counting-g++"
    compiler.write_text(
        f'#!/bin/sh\ncase " $* " in *" -c "*) echo compile >> {log};;'
        f' *" -shared "*) echo link >> {log};; esac\nexec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return log


def answer(library: Path) -> int:
    return ctypes.CDLL(str(library)).answer()


def test_a_second_build_finds_the_first(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = count_compilations(monkeypatch, tmp_path)
    first = build_emulator(small_source)
    assert answer(first) == 42
    assert log.read_text().split() == ["compile"] * 3 + ["link"]
    assert build_emulator(small_source) == first
    assert len(log.read_text().split()) == 4


def test_a_changed_source_is_compiled_and_nothing_else(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = count_compilations(monkeypatch, tmp_path)
    first = build_emulator(small_source)
    (small_source / "include/answer.h").write_text("#define ANSWER 43\n")
    log.write_text("")
    second = build_emulator(small_source)
    assert (answer(first), answer(second)) == (42, 43)
    assert log.read_text().split() == ["compile", "link"]


def test_a_copy_of_the_source_elsewhere_compiles_nothing(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = count_compilations(monkeypatch, tmp_path)
    build_emulator(small_source)
    log.write_text("")
    build_emulator(Path(shutil.copytree(small_source, tmp_path / "copy")))
    assert "compile" not in log.read_text()


def test_other_flags_make_another_library(small_source: Path) -> None:
    first = build_emulator(small_source)
    second = build_emulator(small_source, flags=["-DANSWER=44", "-include", "include/answer.h"])
    assert first != second


def test_the_library_is_copied_where_it_is_asked_for(small_source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.so"
    assert build_emulator(small_source, output=output) == output
    assert answer(output) == 42


def test_processes_that_build_at_a_time_get_one_library(small_source: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from edgeattn.plugin.emulator import build_emulator\n"
        "print(build_emulator(pathlib.Path(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", program, str(small_source)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(paths) == 1
    assert answer(Path(paths.pop())) == 42


def test_a_compile_error_is_one_clear_error(small_source: Path) -> None:
    (small_source / "launch/kernel.cu").write_text("int f() { return missing; }\n")
    with pytest.raises(PluginError, match=r"compiling launch/kernel\.cu .*kernel\.cu:1.*missing"):
        build_emulator(small_source)


def test_a_missing_header_is_one_clear_error(small_source: Path) -> None:
    (small_source / "include/answer.h").unlink()
    with pytest.raises(PluginError, match=r"compiling launch/kernel\.cu .*answer\.h"):
        build_emulator(small_source)


def test_a_missing_function_is_found_when_linking(small_source: Path) -> None:
    (small_source / "launch/kernel.cu").write_text("void g();\nvoid f() { g(); }\n")
    with pytest.raises(PluginError, match=r"linking the emulator failed: .*undefined reference"):
        build_emulator(small_source)


def test_a_missing_compiler_is_named(small_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependencyError, match="no-such-compiler was not found"):
        build_emulator(small_source)


# --- other builds ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [SANITIZE_FLAGS, ("-DEDGEATTN_EMULATOR_UCONTEXT",), ("-O0",)],
    ids=["undefined behaviour ends it", "ucontext switches fibers", "not optimized"],
)
def test_the_emulator_passes_its_tests_built_otherwise(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    library = build_emulator(copy_sources(tmp_path), flags=flags)
    for suite in SUITES:
        run_suite(library, suite)


@pytest.mark.slow
def test_the_emulator_passes_its_tests_on_aarch64(tmp_path: Path) -> None:
    compiler, runner = "aarch64-linux-gnu-g++", "qemu-aarch64"
    if platform.machine() == "aarch64":
        pytest.skip("this machine is one: the other tests show it")
    if not shutil.which(compiler) or not shutil.which(runner):
        pytest.skip(f"needs {compiler} and {runner}")
    source = copy_sources(tmp_path)
    units = [str(path) for part in ("emulator", "launch") for path in (source / part).glob("*.cpp")]
    flags = ["-std=c++17", "-O1", "-static", "-DEDGEATTN_EMULATOR", "-ffp-contract=off"]
    program = tmp_path / "tests"
    subprocess.run(
        [compiler, *flags, f"-I{source / 'include'}", *units, "-o", str(program)], check=True
    )
    suites = [suite for suite in SUITES if suite != "launches"]  # static: kernels have no names
    done = subprocess.run([runner, str(program), *suites], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
