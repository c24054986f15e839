r"""What TensorRT's messages mean: a table of patterns, causes and hints.

Each pattern is searched in one message of TensorRT's logger. Behind each stands a message that was
seen somewhere public, kept with its source in `tests/fixtures/tensorrt/logs/KEY.log`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# From cause to consequence: what stands earlier explains what stands later. A driver that fails
# fails everything; a refusal of the graph is certain, where tactics that were skipped for memory
# may be harmless; and a node without an implementation is the end of either.
Kind = Literal["environment", "refusal", "memory", "limit", "consequence", "suspicion"]
KINDS: tuple[Kind, ...] = (
    "environment",
    "refusal",
    "memory",
    "limit",
    "consequence",
    "suspicion",
)


@dataclass(frozen=True)
class Failure:
    """One way in which TensorRT fails.

    Attributes:
        key: Names the row.
        kind: How near to the root it is.
        patterns: Regular expressions; one of them is in the message.
        cause: One sentence without a full stop. Groups of that name stand in its braces; the group
            `bytes` is written in MiB.
        hint: What to do, for somebody in front of the board.
        source: Where the message, or what it means, was found.
    """

    key: str
    kind: Kind
    patterns: tuple[str, ...]
    cause: str
    hint: str
    source: str


_SHORT_OF_MEMORY = (
    "on a Jetson stop the desktop (sudo systemctl isolate multi-user.target); stop other programs "
    "on the GPU; try a smaller --workspace, --optimization-level 2 and smaller --max-shapes"
)
_REBUILD = "build it again from its ONNX file where it shall run: `edgeattn build`"
_PROFILE = "give --min-shapes, --opt-shapes and --max-shapes for every input with free dimensions"

FAILURES = (
    # The machine
    Failure(
        "cuda_driver_old",
        "environment",
        (
            r"CUDA initialization failure with error:? 35\b",
            r"CUDA driver version is insufficient for CUDA runtime version",
        ),
        "the driver is older than the CUDA that this TensorRT was built for, or there is no driver",
        "nvidia-smi shows the newest CUDA that the driver runs; install the TensorRT for it "
        "(`pip install tensorrt-cu12` for CUDA 12; JetPack's own on a Jetson), and start a "
        "container with --runtime nvidia",
        "NVIDIA/TensorRT issue 2913",
    ),
    Failure(
        "cuda_driver_mismatch",
        "environment",
        (
            r"CUDA initialization failure with error:? 80[34]\b",
            r"unsupported display driver / cuda driver combination",
            r"forward compatibility was attempted on non supported HW",
        ),
        "the libcuda that was loaded does not belong to the driver that is running",
        "reboot if the driver was updated; take CUDA's compat folder out of LD_LIBRARY_PATH; in a "
        "container, use an image for this driver or this JetPack",
        "NVIDIA/TensorRT issue 1354; NVIDIA/nvidia-docker issue 1256",
    ),
    Failure(
        "cuda_unavailable",
        "environment",
        (
            r"CUDA initialization failure with error",
            r"NvRmMem(?:Mgr)?Init(?:Nvmap)? failed",
            r"no CUDA-capable device is detected",
        ),
        "CUDA cannot be initialized",
        "nvidia-smi shows whether the driver runs; on a Jetson the user must be in the groups "
        "video and render (sudo usermod -aG video,render $USER, then log in again), and a "
        "container needs --runtime nvidia",
        "Megvii-BaseDetection/YOLOX issue 515; UsingNet/nvjpeg-python issue 13",
    ),
    Failure(
        "gpu_unsupported",
        "environment",
        (
            r"Target GPU SM (?P<sm>\S+) is not supported by this TensorRT release",
            r"Unsupported SM: (?P<sm>0x[0-9a-fA-F]+)",
        ),
        "this TensorRT does not know the GPU's architecture, SM {sm}",
        "`edgeattn targets` lists which boards run which TensorRT; 10.0 dropped Pascal, 10.5 "
        "dropped Volta, and the GeForce RTX 50 needs 10.8 or later",
        "NVIDIA/TensorRT issue 3826; NVIDIA/TensorRT-LLM issue 2400",
    ),
    Failure(
        "dla_compiler_missing",
        "environment",
        (r"libnvdla_compiler\.so: (?:cannot open shared object|file too short)",),
        "the board lacks libnvdla_compiler.so, which TensorRT links even where no DLA is used",
        "sudo apt install nvidia-l4t-dla-compiler (on the host, for a container with --runtime "
        "nvidia); JetPack 7.2 has none: use an image made for it",
        "dusty-nv/jetson-inference issue 1920; Jonah-May-OSS/wyoming-whisper-trt issue 1038",
    ),
    Failure(
        "library_missing",
        "environment",
        (
            r"Unable to (?:load|open) library: (?P<library>[\w.+-]*nvinfer[\w.+-]*)",
            r"(?P<library>libnv(?!dla)\w*\.so[\w.]*): cannot open shared object file",
        ),
        "TensorRT cannot load {library}, a part of itself",
        "install the whole of one TensorRT (sudo apt install tensorrt libnvinfer-bin on a Jetson) "
        "and let LD_LIBRARY_PATH name no other; ldconfig -p | grep nvinfer shows what is found",
        "TNTwise/REAL-Video-Enhancer issue 85; NVIDIA/TensorRT issue 3983",
    ),
    Failure(
        "lean_runtime_only",
        "environment",
        (r"Unexpected call to stub",),
        "TensorRT's lean or dispatch runtime was loaded instead of the whole",
        "load libnvinfer.so only: the lean runtime runs nothing but engines that were built with "
        "--version-compatible",
        "NVIDIA/TensorRT issues 3307 and 4339",
    ),
    # An engine file and what it is loaded by
    Failure(
        "engine_of_another_version",
        "refusal",
        (
            r"Version tag does not match",
            r"not compatible with this version of TensorRT, expecting library version",
        ),
        "the engine was built by another version of TensorRT than the one that loads it",
        _REBUILD + "; if it was built here, two TensorRTs are on the machine: ldconfig -p | grep "
        "nvinfer and pip list | grep tensorrt",
        "NVIDIA/TensorRT issue 2195; GeekAlexis/FastMOT issue 127",
    ),
    Failure(
        "engine_of_another_gpu",
        "refusal",
        # What it expects is the GPU at hand: issue 3130 ran on a T4, which is 7.5.
        (r"incompatible device, expecting compute (?P<here>[\d.]+) got compute (?P<built>[\d.]+)",),
        "the engine was built for compute capability {built}, and this GPU has {here}",
        _REBUILD,
        "NVIDIA/TensorRT issues 564 and 3130",
    ),
    Failure(
        "engine_of_another_platform",
        "refusal",
        (r"Platform specific tag mismatch",),
        "the engine was built on another platform (processor or operating system)",
        _REBUILD,
        "pytorch/TensorRT pull request 3090",
    ),
    Failure(
        "not_an_engine",
        "refusal",
        (r"[Mm]agic ?[Tt]ag(?:Read)? ?(?:==|does not match)",),
        "the file is no engine of this TensorRT: it is truncated, of another kind (an ONNX file, "
        "say) or of a much older version",
        "`edgeattn inspect FILE` tells what it is; " + _REBUILD,
        "NVIDIA/TensorRT issue 2915; lix19937/tensorrt-insight issue 65",
    ),
    Failure(
        "plugin_missing",
        "refusal",
        (
            r"Cannot find plugin: (?P<plugin>[^,\s]+)",
            r"getPluginCreator could not find plugin:? (?P<plugin>\S+)",
            r"operator: (?P<plugin>\w+) \(\w+\): [\s\S]*Plugin not found",
        ),
        "TensorRT knows neither an operator nor a plugin called {plugin}",
        "if it is edgeattn's, build its plugin library with `edgeattn plugin build` and see that "
        "`edgeattn plugin check` accepts it, or do without with --attention native; load other "
        "plugin libraries with --plugin",
        "onnx/onnx-tensorrt issue 800; open-mmlab/mmdeploy issue 2758",
    ),
    Failure(
        "plugin_not_found",
        "consequence",
        (
            r"Plugin not found, are the plugin name, version, and namespace correct",
            r"IPluginCreator not found in Plugin Registry",
        ),
        "a plugin that the graph or the engine uses is not loaded",
        "build the plugin library with `edgeattn plugin build`, or name it with --plugin; an "
        "engine that was built with --embed-plugin carries it",
        "onnx/onnx-tensorrt issue 800; NVIDIA/TensorRT issue 1913",
    ),
    Failure(
        "plugin_registered_twice",
        "refusal",
        (r"Cannot register the library as plugin creator of (?P<plugin>\S+) exists already",),
        "the engine carries the plugin {plugin}, which is loaded already",
        "load an engine that was built with --embed-plugin without a plugin library beside it",
        "laugh12321/TensorRT-YOLO, docs/en/model_export.md",
    ),
    Failure(
        "plugin_library_unfit",
        "refusal",
        (r"SymbolAddress for (?P<symbol>\w+) could not be loaded",),
        "the library has no function {symbol}, by which TensorRT asks for its plugins",
        "`edgeattn plugin check LIB` says what the library is; `edgeattn plugin build` makes one "
        "for this TensorRT",
        "NVIDIA/TensorRT issues 4051 and 4121",
    ),
    Failure(
        "plugin_formats",
        "refusal",
        (r"(?P<node>[^\s(]+): could not find any supported formats consistent",),
        "the plugin of {node} accepts no combination of the types and formats of its tensors",
        "`edgeattn plugin check LIB --onnx GRAPH` says which types the library has kernels for; "
        "quantize or cast the graph to one of them",
        "NVIDIA/TensorRT issues 3844 and 3959",
    ),
    Failure(
        "plugin_not_int8",
        "refusal",
        (r"All of the candidates were removed, which points to the node being incorrectly marked",),
        "a plugin was given INT8 tensors that it has no kernel for",
        "give the plugin a Q before it and a DQ after it and nothing between (`edgeattn quantize` "
        "does), or leave its attention in FP16 with --recipe linear",
        "NVIDIA/TensorRT issues 3055 and 3314",
    ),
    Failure(
        "plugin_failed",
        "refusal",
        (r"plugin\w*Runner\.cpp::execute::\d+\].*status == kSTATUS_SUCCESS",),
        "a plugin reported that it could not run",
        "edgeattn's plugin says why in a message before this one; `edgeattn plugin check LIB "
        "--onnx GRAPH` tries its kernels on this GPU",
        "NVIDIA/TensorRT issues 1898 and 3141",
    ),
    # The graph
    Failure(
        "types_differ",
        "refusal",
        (
            r"must have same input types\. But they are of types (?P<one>\w+) and (?P<other>\w+)",
            r"must have same input types\. `A` is of type (?P<one>\w+) and `B` is of type "
            r"(?P<other>\w+)",
        ),
        "an operator gets inputs of the types {one} and {other}, which a strongly typed network "
        "never casts by itself",
        "`edgeattn quantize G.onnx --precision fp16` puts the casts where they belong; a graph of "
        "another tool needs a Cast before the operator that the message names",
        "public notes on TensorRT 11.2 (trtexec --stronglyTyped) and on FP16 exports",
    ),
    Failure(
        "type_unsupported",
        "refusal",
        (
            r"input has type \w+ but must have type",
            r"[Dd]equantize\w*: only activation types allowed as input",
        ),
        "an operator gets a type that TensorRT does not take there",
        "leave INT32 biases and UINT8 tensors unquantized: Q/DQ belong on activations and weights "
        "only, in INT8 (`edgeattn quantize`; ONNX Runtime's quantizer: QuantizeBias=False)",
        "rustnn/rustnn issue 153; microsoft/onnxruntime issue 14229",
    ),
    Failure(
        "zero_point",
        "refusal",
        (
            r"only supports symmetric quantization",
            r"zeroPt must be all zeros",
            r"operator must be all zeros",
            r"Non-zero zero point is not supported",
        ),
        "the graph is quantized with zero points, and TensorRT takes symmetric scales only",
        "quantize the float graph with `edgeattn quantize`, or symmetrically with the other tool "
        "(ONNX Runtime: ActivationSymmetric and WeightSymmetric)",
        "NVIDIA/TensorRT issue 2774",
    ),
    Failure(
        "scale_not_positive",
        "refusal",
        (r"[Ss]cale coefficients must all be positive", r"scaleAllPositive"),
        "a quantization scale of the graph is zero, negative or NaN",
        "a channel of weights or an activation was always zero: calibrate on other data, or "
        "quantize with `edgeattn quantize`, which never writes such a scale",
        "NVIDIA/TensorRT issue 2267; NVIDIA-AI-IOT/Lidar_AI_Solution issue 182",
    ),
    Failure(
        "int8_without_scales",
        "refusal",
        (r"must have dynamic range set when no calibrator is used",),
        "the graph has INT8 tensors and no Q/DQ nodes that give their scales",
        "`edgeattn quantize` writes Q/DQ nodes; --implicit-int8 DATA lets TensorRT 10 find scales",
        "NvInfer.h 10.16, ITensor::setDynamicRange; a public sample of a quantized input",
    ),
    Failure(
        "precision_needs_other_gpu",
        "refusal",
        (r"require hardware with (?P<type>\w+) support",),
        "the GPU has no {type} arithmetic",
        "quantize to INT8 or FP16 (`edgeattn quantize`): Orin has neither FP8 nor FP4",
        "public notes on FP8 engines of TensorRT-LLM",
    ),
    Failure(
        "topk_limit",
        "refusal",
        (r"K exceeds the maximum value allowed \((?P<most>\d+)\)",),
        "TensorRT selects at most {most} elements in a TopK",
        "lower K in the graph: detectors often keep 5000 boxes before suppression",
        "users' notes on YOLOX with TensorRT 10.3 on Orin",
    ),
    Failure(
        "weights_file",
        "refusal",
        (
            r"(?:WeightsContext|onnx2trt_utils)\.cpp:\d+: Failed to open file: (?P<file>\S+)",
            r"Failed to read weights from external file: (?P<file>\S+)",
        ),
        "the weights of the graph lie in {file}, which cannot be read",
        "keep the file beside the ONNX file, under the name that it was written with",
        "NVIDIA/TensorRT issue 4257; onnx/onnx-tensorrt issue 818",
    ),
    # Shapes
    Failure(
        "no_profile",
        "refusal",
        (r"dynamic or shape inputs, but no optimization profile has been defined",),
        "the graph has free dimensions and the build was given no range of shapes for them",
        _PROFILE,
        "NVIDIA/TensorRT issue 1116",
    ),
    Failure(
        "profile_incomplete",
        "refusal",
        (
            r"optimization profile is missing values for shape input",
            r"is missing dimensions in profile",
        ),
        "the range of shapes leaves out an input",
        _PROFILE + "; `edgeattn inspect G.onnx` lists them",
        "NVIDIA/TensorRT issues 939 and 4204",
    ),
    Failure(
        "profile_contradicts_graph",
        "refusal",
        (
            r"violate shape constraints",
            r"has static dimensions that\s+don't\s+match kMIN",
            r"Dimension mismatch\s+for tensor \S+ and profile",
            r"number of dimensions is \d+ but profile \d+ has \d+",
            r"for dimension number \d+ in profile \d+ does not match network definition",
            r"contradictory IOptimizationProfile",
            r"must satisfy MIN<=OPT<=MAX",
        ),
        "the range of shapes does not fit the graph",
        "only free dimensions may vary, min <= opt <= max, and what belongs together must match; "
        "`edgeattn inspect G.onnx` shows the inputs",
        "NVIDIA/TensorRT issues 939 and 1947; NVIDIA/Stable-Diffusion-WebUI-TensorRT pull 57",
    ),
    Failure(
        "shape_outside_profile",
        "refusal",
        (
            r"does not satisfy any optimization profile",
            r"exceed min ~ max range",
        ),
        "an input has a shape outside the range that the engine was built for",
        "`edgeattn inspect E.engine` shows the range; build with wider --min-shapes/--max-shapes",
        "yuvraj108c/ComfyUI-Upscaler-Tensorrt issue 31; NVIDIA/TensorRT issue 2739",
    ),
    Failure(
        "shape_not_static",
        "refusal",
        (r"Static dimension mismatch while setting input shape for (?P<tensor>\S+?)\.",),
        "the input {tensor} has a fixed shape in this engine and was given another",
        "give that shape, or export with --dynamic and build with a range of shapes",
        "users' notes on TensorRT 10; NvInferRuntime.h, IExecutionContext::setInputShape",
    ),
    Failure(
        "graph_shapes",
        "refusal",
        (r"broadcast dimensions must be conformable", r"Axis must be in the range \[0, nbDims"),
        "the shapes of two tensors of the graph do not go together",
        "`edgeattn build G.onnx --engine cpu` and `edgeattn run` tell whether the graph runs at "
        "all; if it does, export it without the operator that the message names",
        "public notes on exporting with TensorRT 10.13 and TensorRT-RTX",
    ),
    # DLA
    Failure(
        "dla_layer",
        "refusal",
        (r"[Ll]ayer '(?P<layer>[^']+)' is not supported on DLA but GPU fallback is not enabled",),
        "DLA cannot run the layer {layer} and may not leave it to the GPU",
        "--allow-gpu-fallback lets the GPU run what DLA cannot; attention never runs on DLA",
        "NVIDIA/TensorRT issue 3438; notes on YOLOX on a Jetson's DLA",
    ),
    Failure(
        "dla_absent",
        "refusal",
        (r"Cannot create DLA engine, (?P<core>\d+) not available",),
        "this board has no DLA core {core}",
        "build without --dla: Orin Nano and Thor have none; AGX Orin and Orin NX have, with "
        "TensorRT up to 10.7 (AGX Orin again from 11.4.1 on)",
        "trtexec, samples/common/sampleEngines.cpp",
    ),
    Failure(
        "dla_standalone",
        "refusal",
        (r"built with EngineCapability::kDLA_STANDALONE",),
        "the file holds a program for DLA alone, which TensorRT builds and does not run",
        "build it without --buildDLAStandalone, as `edgeattn build` does; cuDLA runs such files",
        "NVIDIA/TensorRT issues 3615 and 4106",
    ),
    Failure(
        "dla_failed",
        "refusal",
        (r"Error Code \d+: DLA \((?P<what>[^)]*)\)", r"DLA Error in \w+: \d+ \((?P<what>[^)]*)\)"),
        "DLA failed: {what}",
        "give it less (smaller --max-shapes, other --memory-pool limits for DLA), one process at a "
        "time, and look into `sudo dmesg`; without --dla the GPU runs everything",
        "NVIDIA/TensorRT issues 2252 and 2426",
    ),
    # Memory
    Failure(
        "memory_tactic",
        "memory",
        (r"Tactic Device request: (?P<asked>\d+ ?Mi?B) Available: (?P<free>\d+ ?Mi?B)",),
        "memory is short: a kernel wanted {asked} where {free} were free",
        _SHORT_OF_MEMORY,
        "NVIDIA/TensorRT issue 3355; ultralytics/ultralytics issues 17640 and 22271",
    ),
    Failure(
        "memory_request",
        "memory",
        (
            r"Requested amount of (?:GPU )?memory \((?P<bytes>\d+) bytes\) could not be allocated",
            r"User allocator error allocating (?P<bytes>\d+)-byte buffer",
            r"OutOfMemory \(Requested size was (?P<bytes>\d+) bytes",
        ),
        "memory is short: {bytes} in one piece could not be allocated",
        _SHORT_OF_MEMORY,
        "NVIDIA/TensorRT issues 4254, 4258 and 3017",
    ),
    Failure(
        "memory_out",
        "memory",
        (
            r"Error Code \d+: (?:Cuda Runtime|Cuda Driver|Myelin) \([^)]*out of memory",
            r"\bOutOfMemory \(no further information",
            r"Out of memory error during",
            r"CUDA error 2 (?:launching|allocating)",
            r"CUDA_ERROR_OUT_OF_MEMORY",
            r"Cuda Driver \(In \S+::resizePhysical",
            r"std::bad_alloc",
        ),
        "memory ran out",
        _SHORT_OF_MEMORY + "; to run an engine, fewer contexts and a smaller profile take less",
        "NVIDIA/TensorRT issues 3017 and 4684; marcoslucianops/DeepStream-Yolo issue 366",
    ),
    Failure(
        "memory_nvmap",
        "memory",
        (
            r"NvMapMemAllocInternalTagged: \d+ error 12",
            r"NvMapMemHandleAlloc: error",
            r"nvgpu_dma_print_err.*DMA alloc FAILED",
        ),
        "the board's memory is short or in pieces: its driver (NvMap) could not allocate",
        _SHORT_OF_MEMORY + "; after long uptime a reboot helps; L4T 36.4.7 refuses large "
        "allocations with memory free, which JetPack 6.2.2 (L4T 36.5) fixes",
        "0xShug0/audio.cpp issue 12; NVIDIA/nvImageCodec issue 43; release notes of L4T 36.5",
    ),
    Failure(
        "workspace_small",
        "limit",
        (r"Skipping tactic \S+ due to insuf+icient memory",),
        "kernels were skipped because they need more workspace than they may have",
        "raise --workspace if memory is free; if it is short, " + _SHORT_OF_MEMORY,
        "NVIDIA/TensorRT issues 2035 and 3355; onnx/onnx-tensorrt issue 758",
    ),
    Failure(
        "fuser_types",
        "limit",
        (
            r"Could not infer output types for operation:\s*(?P<what>\d+: \w+)",
            r"Mismatched type for tensor (?P<what>[^\s,]+)",
            r"(?P<what>element type \(\w+\) differs from input \d+'s element type \(\w+\))",
        ),
        "TensorRT's fuser found types that do not go together ({what})",
        "seen on Orin with TensorRT 10.16 for scales in FP16 of an FP32 tensor, in a graph that "
        "builds on Thor: give scales the type of their tensor (`edgeattn quantize` does), try "
        "--optimization-level 2, or leave the operator in FP16",
        "NVIDIA/TensorRT issue 4832; NVIDIA/Model-Optimizer issue 118; "
        "the-database/mpv-AnimeJaNai issue 36",
    ),
    Failure(
        "pool_size",
        "refusal",
        (r"hasSingleBit\(poolSize\)",),
        "a memory pool has a size that TensorRT refuses",
        "sizes that --memory-pool gives are powers of two",
        "public notes on TACTIC_DRAM with TensorRT 10.14",
    ),
    # While it runs
    Failure(
        "illegal_access",
        "refusal",
        (
            r"an illegal memory access was encountered",
            r"Final synchronize failed \(700\)",
            r"misaligned address",
            r"unspecified launch failure",
        ),
        "a kernel failed, mostly by reading or writing outside its memory, and CUDA cannot be used "
        "by this process any more",
        "start the process anew; `edgeattn doctor --selftest` tells whether edgeattn's plugin does "
        "it, compute-sanitizer which kernel",
        "NVIDIA/TensorRT issues 2464 and 3105",
    ),
    Failure(
        "no_kernel_image",
        "refusal",
        (
            r"no kernel image is available for execution on the device",
            r"device kernel image is invalid",
            r"PTX was compiled with an unsupported toolchain",
        ),
        "a plugin library holds no machine code for this GPU",
        "`edgeattn plugin build` compiles for the GPU of this machine, --arch 87 for Orin",
        "CUDA driver API, CUDA_ERROR_NO_BINARY_FOR_GPU",
    ),
    Failure(
        "other_context",
        "refusal",
        (r"\(invalid resource handle\)", r"\(invalid device context\)"),
        "the engine, its stream and its memory belong to different CUDA contexts",
        "do not import pycuda.autoinit in the same process: it makes a context of its own, where "
        "torch and this toolkit use the GPU's primary one",
        "NVIDIA/TensorRT issues 3028, 4191 and 4518",
    ),
    Failure(
        "address_missing",
        "refusal",
        (
            r"Address is not set for (?:input|output) tensor (?P<tensor>\S+?)\.",
            r"Neither address or allocator is set for output tensor (?P<tensor>\S+?)\.",
            r"dimensions are not specified: (?P<tensor>[^)\n]+?)\.?\)",
        ),
        "the tensor {tensor} was given no memory or no shape before the engine ran",
        "give every input its array; where each was given, please report a bug",
        "NVIDIA/TensorRT, users' notes on enqueueV3; yuvraj108c/ComfyUI-Upscaler-Tensorrt issue 31",
    ),
    # What is left when nothing above was said
    Failure(
        "no_implementation",
        "consequence",
        (
            r"Could not find any implementation for node "
            r"(?P<node>\{.*?\}|.+?)(?:\.? In \w+ at |\.\)|\.?\s*$)",
        ),
        "TensorRT found no kernel for {node}",
        "mostly memory or a fault of TensorRT's fuser: build with more memory free, another "
        "--optimization-level or another TensorRT; --attention native or plugin cuts the graph "
        "elsewhere",
        "NVIDIA/TensorRT issues 1917 and 4258; onnx/onnx-tensorrt issue 758",
    ),
    Failure(
        "importer_missing",
        "consequence",
        (r"No importer registered for op: (?P<op>[\w:]+)\.?\s*$",),
        "TensorRT's parser has no operator and no plugin called {op}",
        "load its plugin library with --plugin, or export the model with other operators",
        "onnx/onnx-tensorrt, ModelImporter.cpp; NVIDIA/TensorRT issue 2625",
    ),
    Failure(
        "network_invalid",
        "consequence",
        (r"Network validation failed", r"Network must have at least one output"),
        "TensorRT refuses the network as a whole",
        "an error before this one, mostly the parser's, says why; `edgeattn build G.onnx --engine "
        "tensorrt --dry-run` lists what TensorRT is known to refuse",
        "NVIDIA/TensorRT issues 1116 and 2267",
    ),
    Failure(
        "engine_unreadable",
        "consequence",
        (r"Engine deserialization failed",),
        "TensorRT could not read the engine",
        _REBUILD,
        "NVIDIA/TensorRT issue 1913",
    ),
    # Warnings that explain a failure for want of anything better
    Failure(
        "timing_cache",
        "suspicion",
        (r"timing cache will not be used", r"[Dd]etected invalid timing cache"),
        "the timing cache is of another TensorRT or GPU and was not used",
        "this slows the build and does not break it; --no-timing-cache leaves it out",
        "NVIDIA/TensorRT issues 1413 and 3566",
    ),
    Failure(
        "other_device_model",
        "suspicion",
        (r"engine plan file across different models of devices",),
        "the engine was built on another model of GPU",
        _REBUILD,
        "NVIDIA/TensorRT issues 2900 and 3829",
    ),
    Failure(
        "int64_clamped",
        "suspicion",
        (r"weights outside the range of INT32 was clamped",),
        "the graph holds INT64 constants that do not fit INT32, and TensorRT clamped them",
        "harmless where they mean the end of an axis; otherwise change the constant",
        "onnx/onnx-tensorrt, onnx2trt_utils.cpp; NVIDIA/TensorRT issue 2756",
    ),
)

_COMPILED = tuple((row, tuple(re.compile(pattern) for pattern in row.patterns)) for row in FAILURES)


def look_up(message: str) -> Iterator[tuple[Failure, str]]:
    """Find the rows that a message of TensorRT, or of the loader of its libraries, belongs to.

    Args:
        message: One message; may hold several lines.

    Yields:
        Each row, in the order of the table, with its cause filled in.
    """
    for row, patterns in _COMPILED:
        match = next(filter(None, (pattern.search(message) for pattern in patterns)), None)
        if match:
            values = match.groupdict()
            if "bytes" in values:
                values["bytes"] = f"{int(values['bytes']) / 2**20:,.0f} MiB"
            yield row, row.cause.format(**values)
