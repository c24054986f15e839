/*!
 * \file
 * \brief The C interface of the attention kernels: what every caller of them sees.
 *
 * The TensorRT plugin, PyTorch (through ctypes) and the tests call these functions and nothing
 * else. The kernel library, the plugin library and the CPU emulator all export them.
 *
 * Attributes and tensors are those of the operator `edgeattn::MultiScaleWindowAttention`,
 * version 1: docs/operator.md is the contract.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEATTN_API __attribute__((visibility("default")))

/*! Changes with any change of the structs or functions below. */
#define EDGEATTN_ABI_VERSION 1

/*! Head groups that one launch can serve. */
#define EDGEATTN_MAX_HEAD_GROUPS 32

/*! Bytes that hold every message of the functions below, its NUL included. */
#define EDGEATTN_MESSAGE_BYTES 512

/*! Statuses; a positive status is a `cudaError_t`. */
enum EdgeattnStatus {
  EDGEATTN_SUCCESS = 0,
  EDGEATTN_INVALID_ARGUMENT = -1,
  EDGEATTN_EMULATOR_VIOLATION = -2,
};

enum EdgeattnType {
  EDGEATTN_FLOAT32 = 0,
  EDGEATTN_FLOAT16 = 1,
  EDGEATTN_BFLOAT16 = 2,
  EDGEATTN_INT8 = 3,
};

/*! The node's attributes, by the names they have there. */
typedef struct EdgeattnAttributes {
  int32_t head_dim;        /*!< D, channels per head */
  int32_t qkv_heads;       /*!< Hd, heads in the packed projection */
  float softmax_scale;     /*!< factor of q·k; 0 stands for D^-0.5 */
  int32_t qkv_layout;      /*!< 0 (3, Hd, D), 1 (Hd, 3, D) */
  int32_t has_bias;        /*!< 0, 1 */
  int32_t pad_mode;        /*!< 0 padded keys are left out, 1 they attend with pad_kv */
  int32_t shift_pad_order; /*!< 0 pad then roll, 1 roll then pad */
  float mask_value;        /*!< added to logits of tokens that only the shift brought together */
  int32_t qk_mode;         /*!< 0 dot product, 1 cosine */
  int32_t num_groups;
  int32_t const* group_head_offset; /*!< [num_groups] */
  int32_t const* group_num_heads;   /*!< [num_groups] */
  int32_t const* group_window;      /*!< [num_groups, 2], tokens, rows first; 0 = the whole axis */
  int32_t const* group_shift;       /*!< [num_groups, 2] */
  int32_t const* group_mode;        /*!< [num_groups]: 0 block, 1 grid, 2 neighborhood */
  int32_t const* group_dilation;    /*!< [num_groups, 2] */
  int32_t const* group_causal;      /*!< [num_groups] */
  float qkv_quant_scale;            /*!< real value of one INT8 step of qkv; 0 if not INT8 */
  float out_quant_scale;            /*!< the same of the output */
} EdgeattnAttributes;

/*! Types and sizes of one call. Accepted: FP32, FP16 or BF16 in and out alike; INT8 in with INT8
 *  or FP16 out. */
typedef struct EdgeattnProblem {
  int32_t in_type;  /*!< EdgeattnType of qkv */
  int32_t out_type; /*!< EdgeattnType of out */
  int32_t batch;    /*!< may be 0: then nothing is done */
  int32_t height;   /*!< tokens */
  int32_t width;    /*!< tokens */
} EdgeattnProblem;

/*! Addresses on the device (the emulator: on the host). `qkv` and `out` are contiguous and aligned
 *  to 16 bytes; inputs that the attributes do not call for are NULL. */
typedef struct EdgeattnTensors {
  void const* qkv;          /*!< [B, H, W, 3*Hd*D] */
  float const* bias_table;  /*!< [total] */
  float const* pad_kv;      /*!< [2*Hd*D] */
  float const* logit_scale; /*!< [Hd] */
  void* out;                /*!< [B, H, W, sum(group_num_heads)*D] */
} EdgeattnTensors;

EDGEATTN_API int32_t edgeattn_abi_version(void);

/*! \brief One JSON object: `version`, `kind` ("cuda" or "emulator"), `cuda` (toolkit version, "" in
 *  the emulator), `architectures` (list of SM numbers), `source_sha256`. */
EDGEATTN_API char const* edgeattn_build_info(void);

/*! \brief Check the attributes for a pair of types, before any size is known.
 *  \param message  receives one sentence on what is wrong, got and expected; may be NULL.
 *  \return EDGEATTN_SUCCESS or EDGEATTN_INVALID_ARGUMENT. */
EDGEATTN_API int32_t edgeattn_check(EdgeattnAttributes const* attributes, int32_t in_type,
                                    int32_t out_type, char* message, size_t message_bytes);

/*! \brief List the kernel variants that can serve a problem, the library's own choice first.
 *  \param ids  receives up to `capacity` ids, each at least 1; may be NULL to count.
 *  \return How many there are, or a negative status. */
EDGEATTN_API int32_t edgeattn_variants(EdgeattnAttributes const* attributes,
                                       EdgeattnProblem const* problem, int32_t* ids,
                                       int32_t capacity);

/*! \brief Enqueue the attention: one kernel launch, no workspace, no synchronisation.
 *  \param variant  an id of `edgeattn_variants`, or 0 for the library's choice.
 *  \param stream   a `cudaStream_t`; may be capturing. */
EDGEATTN_API int32_t edgeattn_window_attention(EdgeattnAttributes const* attributes,
                                               EdgeattnProblem const* problem,
                                               EdgeattnTensors const* tensors, int32_t variant,
                                               void* stream, char* message, size_t message_bytes);

#ifdef __cplusplus
}  // extern "C"
#endif
