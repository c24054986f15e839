#!/usr/bin/env bash
# What only a GPU can show, in one go: does the library build, do the tests pass, are the memory
# checkers silent, how fast are the kernels. Under nine minutes; a failing step stops no other.
#
#   benchmarks/gpu_evidence.sh OUTPUT [STEP...]
#
# Steps: build tests memcheck racecheck initcheck synccheck benchmark peers; and all-peers, which
# takes what time is left and runs only when named, best alone. OUTPUT receives build.log, tests.log,
# sanitizer.log, benchmark.log, summary.txt and results/DEVICE/DATE.jsonl.
#
# Needs nvcc, CMake, and a Python (PYTHON, else python3) with torch for CUDA, pytest, hypothesis,
# onnx, onnxruntime, click and rich; compute-sanitizer for four of the steps. Works from a checkout
# alone: nothing is installed or fetched. With pycuda and cuda-python the tests also show what the
# TensorRT engine makes of them: buffers, page-locked memory, events, the context that PyTorch has too,
# graphs. The summary says which of them, and of TensorRT, were there. pycuda comes as source: `pip
# download --no-deps --no-binary pycuda pycuda` where there is a network, `pip install` of what that
# fetched where nvcc is.
# shellcheck disable=SC2329  # functions are called by name
set -uo pipefail

usage="usage: $0 OUTPUT [build|tests|memcheck|racecheck|initcheck|synccheck|benchmark|peers|all-peers]..."
default_steps=(build tests memcheck racecheck initcheck synccheck benchmark peers)
tools=(memcheck racecheck initcheck synccheck)
# Where the tests marked `gpu` are: other folders need packages that a board may lack.
gpu_tests=(
  tests/plugins tests/edgeattn/plugin tests/edgeattn/models/test_fused_gpu.py
  tests/edgeattn/engine/tensorrt tests/edgeattn/deploy/test_selftest.py
  tests/edgeattn/cli/test_tensorrt_path.py tests/edgeattn/profiling/board/test_nvml.py
  tests/edgeattn/test_target_figures.py tests/edgeattn/bundle
)
# One case for each way through the kernels, in every type: a checker slows them a hundredfold.
checked_cases=(
  window_7_dim_32 window_16_dim_64 three_scales_apart more_keys_than_one_pass_holds_padded
  sequence_of_100 grid_of_64_masked neighborhood_of_49 causal_dilated_over_tiles
  cosine_at_its_clamp
)
# PyTorch's ways take seconds each to compile: the cases that the goals speak of.
peer_cases=(
  'w[478]-d??-fp16-shift-bias' 'w1[246]-d32-fp16-shift-bias' 'w16-d64-fp16-shift-bias'
  'w4+8+16-d32-fp16-shift-bias' 'w[78]-d32-fp16-plain' 'w16-d32-fp16-plain' '*fp16*-model56x56'
)

if [[ $# -lt 1 || $1 == -* ]]; then
  echo "$usage" >&2
  exit 2
fi
mkdir -p "$1" || exit 1
out=$(cd "$1" && pwd)
shift
steps=("$@")
[[ $# -gt 0 ]] || steps=("${default_steps[@]}")
for step in "${steps[@]}"; do
  if [[ " ${default_steps[*]} all-peers " != *" $step "* ]]; then
    echo "there is no step $step; $usage" >&2
    exit 2
  fi
done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
python=${PYTHON:-python3}
gpu=$("$python" -c 'import torch
p = torch.cuda.get_device_properties(0)
print(f"{p.major}{p.minor} {p.total_memory >> 20} {p.name}")' 2>&1)
if [[ ! $gpu =~ ^([0-9]+)\ ([0-9]+)\ (.+)$ ]]; then
  echo "PyTorch of $python sees no CUDA device: ${gpu##*$'\n'}" >&2
  exit 77
fi
# Tests that need one of these are skipped without it.
packages=$("$python" -c '
import importlib, importlib.metadata
named = {"pycuda.driver": "pycuda", "cuda.bindings.runtime": "cuda-bindings", "tensorrt": "tensorrt"}
for module, package in named.items():
    try:
        importlib.import_module(module)
        print(f"{package} {importlib.metadata.version(package)}")
    except importlib.metadata.PackageNotFoundError:
        print(f"{package} of unknown version")
    except ImportError as err:
        print(f"{package} not there: {err}")' 2>&1)
architecture=${BASH_REMATCH[1]} memory_mib=${BASH_REMATCH[2]} name=${BASH_REMATCH[3]}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=1  # a dozen processes run side by side
export EDGEATTN_KERNEL_LIBRARY=$work/lib/libedgeattn_kernels.so
export EDGEATTN_REQUIRE_FUSED=1
# What one process compiled of PyTorch's ways, the next one finds.
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton

# Seconds for all steps together, and those kept for `peers` of them.
total_s=530 peers_s=120
# left KEEP_S: what is left of the time, less what is kept for later; at least a minute.
left() {
  local seconds=$((total_s - SECONDS - $1))
  echo $((seconds > 60 ? seconds : 60))
}

has_step() { [[ " ${steps[*]} " == *" $1 "* ]]; }

# run_step NAME LIMIT_S LOG FUNCTION...: run it, log it, note how it ended; always succeeds.
run_step() {
  local name=$1 limit=$2 log=$3 start=$SECONDS status=0 settings
  shift 3
  echo "== $name" >>"$log"
  # `timeout` needs a process: a shell that is given the functions and the variables below.
  settings=$(declare -p out work python architecture memory_mib gpu_tests checked_cases \
    only_peer_cases pytest_gpu)
  timeout --kill-after=10 "$limit" bash -c "set -uo pipefail; $settings; "'"$@"' step "$@" \
    >>"$log" 2>&1 </dev/null || status=$?
  case $status in
    0) echo "ok" ;;
    124 | 137) echo "FAILED: not done after $limit s" ;;
    *) echo "FAILED: exit code $status" ;;
  esac >"$work/$name.status"
  echo "$((SECONDS - start))" >"$work/$name.seconds"
}

build() {
  "$python" -m edgeattn plugin build --arch "$architecture" -o "$work/lib" && return
  echo "== edgeattn plugin build failed; CMake alone:"
  cmake -S plugins -B "$work/cmake" -DCMAKE_CUDA_ARCHITECTURES="$architecture" \
    && cmake --build "$work/cmake" --target edgeattn_kernels -j "$(nproc)" \
    && mkdir -p "$work/lib" \
    && find "$work/cmake" -name libedgeattn_kernels.so -exec cp {} "$work/lib/" \; \
    && [[ -f $EDGEATTN_KERNEL_LIBRARY ]]
}

# Other versions of PyTorch and its friends deprecate other things: no failure of ours.
pytest_gpu=("$python" -m pytest -m "gpu and not slow" --require gpu -q -p no:cacheprovider
  -W default::DeprecationWarning -W default::FutureWarning)

tests() {
  local workers=()
  if "$python" -c 'import xdist' 2>/dev/null; then
    workers=(-n "$((memory_mib > 16000 ? 6 : 2))")
  fi
  "${pytest_gpu[@]}" "${workers[@]}" "${gpu_tests[@]}"
}

# Each tensor has an allocation of its own, so that the checker sees its borders.
sanitizer() {
  local tool=$1 cases
  printf -v cases ' or %s' "${checked_cases[@]}"
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no --launch-timeout 120 \
    --port "$2" "${pytest_gpu[@]}" tests/plugins/test_kernels.py \
    -k "cuda and test_every_variant_computes_exact_attention and (${cases# or })"
}

bench() { "$python" -m benchmarks.bench_window_attention --results "$out/results" "$@"; }

only_peer_cases=()
for pattern in "${peer_cases[@]}"; do only_peer_cases+=(--only "$pattern"); done

# Compile PyTorch's ways in several processes beside the tests; the timed run finds them compiled.
compile_peers() {
  local shards=$((memory_mib / 16384)) cores pids=() pid status=0
  cores=$(nproc)
  shards=$((shards > cores / 3 ? cores / 3 : shards))
  shards=$((shards < 1 ? 1 : shards))
  export TORCHINDUCTOR_COMPILE_THREADS=2
  for ((i = 1; i <= shards; ++i)); do
    bench --check-only "${only_peer_cases[@]}" --shard "$i/$shards" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
  return "$status"
}

export -f build tests sanitizer bench compile_peers

rm -f "$out"/{build,tests,sanitizer,benchmark}.log "$out/summary.txt"
run_step build 150 "$out/build.log" build
if [[ -f $EDGEATTN_KERNEL_LIBRARY ]]; then
  if has_step tests; then
    run_step tests 140 "$out/tests.log" tests &
  fi
  port=49152
  for tool in "${tools[@]}"; do
    if has_step "$tool"; then
      run_step "$tool" 140 "$work/$tool.log" sanitizer "$tool" "$port" &
      port=$((port + 100))
    fi
  done
  if has_step peers; then
    run_step compile-peers 140 "$work/compile-peers.log" compile_peers &
  fi
  wait
  # Timings run alone, in the time that is left.
  has_step peers && keep=$peers_s || keep=0
  if has_step benchmark; then
    limit=$(left "$keep")
    run_step benchmark "$limit" "$out/benchmark.log" \
      bench --peers none --seconds 0.1 --time-limit $((limit - 15))
  fi
  if has_step peers; then
    limit=$(left 0)
    run_step peers "$limit" "$out/benchmark.log" \
      bench "${only_peer_cases[@]}" --seconds 0.2 --time-limit $((limit - 20))
  fi
  if has_step all-peers; then
    limit=$(left 0)
    run_step all-peers "$limit" "$out/benchmark.log" \
      bench --peers all --only '*-fp16-*' --only '*-bf16-*' --time-limit $((limit - 30))
  fi
fi
for tool in "${tools[@]}"; do
  if [[ -f $work/$tool.log ]]; then cat "$work/$tool.log" >>"$out/sanitizer.log"; fi
done
if [[ -f $work/compile-peers.log ]]; then cat "$work/compile-peers.log" >>"$out/benchmark.log"; fi

failed=0
{
  echo "$name, sm_$architecture"
  echo "$packages"
  for step in build tests "${tools[@]}" compile-peers benchmark peers all-peers; do
    if [[ -f $work/$step.status ]]; then
      printf '%-14s %5s s  %s\n' "$step" "$(<"$work/$step.seconds")" "$(<"$work/$step.status")"
    elif has_step "$step"; then
      printf '%-14s          not run: there is no library\n' "$step"
    fi
  done
  for log in "$out"/tests.log "$out"/benchmark.log; do
    if [[ -f $log ]]; then grep -E '^(=+ )?[0-9]+ (passed|failed|cases)' "$log"; fi
  done
} | tee "$out/summary.txt"
for step in build tests "${tools[@]}" benchmark peers all-peers; do
  if has_step "$step" || [[ $step == build ]]; then
    [[ -f $work/$step.status && $(<"$work/$step.status") == ok ]] || failed=1
  fi
done
exit "$failed"
