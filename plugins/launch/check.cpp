#include "check.h"

#include <math.h>

#include "limits.h"

namespace edgeattn {
namespace {

char const* type_name(int32_t type) {
  switch (type) {
    case EDGEATTN_FLOAT32:
      return "float32";
    case EDGEATTN_FLOAT16:
      return "float16";
    case EDGEATTN_BFLOAT16:
      return "bfloat16";
    case EDGEATTN_INT8:
      return "int8";
  }
  return "an unknown type";
}

int32_t check_types(int32_t in_type, int32_t out_type, Message const& message) {
  bool const known = in_type >= EDGEATTN_FLOAT32 && in_type <= EDGEATTN_INT8;
  bool const alike = in_type == out_type;
  bool const widened = in_type == EDGEATTN_INT8 && out_type == EDGEATTN_FLOAT16;
  if (known && (alike || widened)) return EDGEATTN_SUCCESS;
  return message.refuse(
      "types are %s (%d) in and %s (%d) out; expected float32, float16 or bfloat16 in and out "
      "alike, or int8 in with int8 or float16 out",
      type_name(in_type), in_type, type_name(out_type), out_type);
}

int32_t check_head_dim(int32_t head_dim, int32_t in_type, Message const& message) {
  if (in_type == EDGEATTN_FLOAT32) {
    if (head_dim >= 1 && head_dim <= kMaxPlainHeadDim) return EDGEATTN_SUCCESS;
    return message.refuse("head_dim is %d; expected 1 to %d in float32", head_dim,
                          kMaxPlainHeadDim);
  }
  if (head_dim >= 8 && head_dim <= kMaxHeadDim && head_dim % 8 == 0) return EDGEATTN_SUCCESS;
  return message.refuse(
      "head_dim is %d; expected a multiple of 8 up to %d in %s; pad the heads with zero channels, "
      "and set softmax_scale to that of the unpadded heads",
      head_dim, kMaxHeadDim, type_name(in_type));
}

int32_t check_choice(char const* name, int32_t value, int32_t largest, Message const& message) {
  if (value >= 0 && value <= largest) return EDGEATTN_SUCCESS;
  return message.refuse("%s is %d; expected 0 to %d", name, value, largest);
}

int32_t check_quant_scale(char const* name, float value, Message const& message) {
  if (value > 0.0f && isfinite(value)) return EDGEATTN_SUCCESS;
  return message.refuse(
      "%s is %g; expected a positive number, the real value of one INT8 step; calibrate the model",
      name, static_cast<double>(value));
}

/*! \brief Check one group by itself. */
int32_t check_group(EdgeattnAttributes const& attributes, int32_t g, Message const& message) {
  int32_t const offset = attributes.group_head_offset[g];
  int32_t const num_heads = attributes.group_num_heads[g];
  int32_t const* const window = attributes.group_window + 2 * g;
  int32_t const* const shift = attributes.group_shift + 2 * g;
  int32_t const* const dilation = attributes.group_dilation + 2 * g;
  int32_t const mode = attributes.group_mode[g];
  int32_t const causal = attributes.group_causal[g];

  if (num_heads < 1 || offset < 0 || offset > attributes.qkv_heads - num_heads) {
    return message.refuse(
        "head group %d has %d heads from head %d on; expected heads of the %d in qkv", g, num_heads,
        offset, attributes.qkv_heads);
  }
  if (int32_t const status = check_choice("group_mode", mode, 2, message)) return status;
  if (int32_t const status = check_choice("group_causal", causal, 1, message)) return status;
  for (int32_t axis = 0; axis < 2; ++axis) {
    if (window[axis] < 0 || window[axis] > kMaxWindowTokens) {
      return message.refuse("window of head group %d is (%d, %d); expected 0 to %d on each axis", g,
                            window[0], window[1], kMaxWindowTokens);
    }
    if (attributes.has_bias && window[axis] == 0) {
      return message.refuse(
          "window of head group %d is (%d, %d), with a bias table; expected a fixed window; give "
          "the window in tokens, or leave the bias out",
          g, window[0], window[1]);
    }
    if (shift[axis] < 0 || (shift[axis] > 0 && shift[axis] >= window[axis])) {
      return message.refuse(
          "shift of head group %d is (%d, %d); expected 0, or below window (%d, %d)", g, shift[0],
          shift[1], window[0], window[1]);
    }
    if (shift[axis] > 0 && mode != kBlock) {
      return message.refuse(
          "shift of head group %d is (%d, %d) in mode %d; expected (0, 0): a shift "
          "goes with block mode (0)",
          g, shift[0], shift[1], mode);
    }
    if (dilation[axis] < 1) {
      return message.refuse("dilation of head group %d is (%d, %d); expected at least 1", g,
                            dilation[0], dilation[1]);
    }
    if (dilation[axis] > 1 && mode != kNeighborhood) {
      return message.refuse(
          "dilation of head group %d is (%d, %d) in mode %d; expected (1, 1): it "
          "goes with neighborhood mode (2)",
          g, dilation[0], dilation[1], mode);
    }
  }
  if (static_cast<int64_t>(window[0]) * window[1] > kMaxWindowTokens) {
    return message.refuse("window of head group %d is (%d, %d); expected at most %d tokens", g,
                          window[0], window[1], kMaxWindowTokens);
  }
  if (causal && mode != kNeighborhood) {
    return message.refuse("head group %d is causal in mode %d; expected neighborhood mode (2)", g,
                          mode);
  }
  if (causal && (window[0] > 1 || dilation[0] != 1)) {
    return message.refuse(
        "causal head group %d has window (%d, %d) and dilation (%d, %d); expected a "
        "sequence; use window (1, length) and dilation (1, n)",
        g, window[0], window[1], dilation[0], dilation[1]);
  }
  return EDGEATTN_SUCCESS;
}

int32_t check_softmax_scale(EdgeattnAttributes const& attributes, Message const& message) {
  float const scale = attributes.softmax_scale;
  if (scale == 0.0f || (scale >= kMinSoftmaxScale && scale <= kMaxSoftmaxScale)) {
    return EDGEATTN_SUCCESS;
  }
  return message.refuse("softmax_scale is %g; expected 0 (head_dim ** -0.5), or %g to %g",
                        static_cast<double>(scale), static_cast<double>(kMinSoftmaxScale),
                        static_cast<double>(kMaxSoftmaxScale));
}

}  // namespace

int32_t check_attributes(EdgeattnAttributes const* attributes, int32_t in_type, int32_t out_type,
                         Message const& message) {
  if (attributes == nullptr) return message.refuse("there are no attributes");
  EdgeattnAttributes const& a = *attributes;
  if (int32_t const status = check_types(in_type, out_type, message)) return status;
  if (int32_t const status = check_head_dim(a.head_dim, in_type, message)) return status;
  if (a.qkv_heads < 1 || a.qkv_heads > kMaxHeads) {
    return message.refuse("qkv_heads is %d; expected 1 to %d", a.qkv_heads, kMaxHeads);
  }
  if (int32_t const status = check_softmax_scale(a, message)) return status;
  if (int32_t const status = check_choice("qkv_layout", a.qkv_layout, 1, message)) return status;
  if (int32_t const status = check_choice("has_bias", a.has_bias, 1, message)) return status;
  if (int32_t const status = check_choice("pad_mode", a.pad_mode, 1, message)) return status;
  if (int32_t const status = check_choice("shift_pad_order", a.shift_pad_order, 1, message)) {
    return status;
  }
  if (!(a.mask_value < 0.0f)) {
    return message.refuse("mask_value is %g; expected a number below 0",
                          static_cast<double>(a.mask_value));
  }
  if (int32_t const status = check_choice("qk_mode", a.qk_mode, 1, message)) return status;
  if (in_type == EDGEATTN_INT8) {
    if (int32_t const status = check_quant_scale("qkv_quant_scale", a.qkv_quant_scale, message)) {
      return status;
    }
  }
  if (out_type == EDGEATTN_INT8) {
    if (int32_t const status = check_quant_scale("out_quant_scale", a.out_quant_scale, message)) {
      return status;
    }
    if (a.qkv_quant_scale > kMaxQuantScaleRatio * a.out_quant_scale) {
      return message.refuse(
          "out_quant_scale is %g, with qkv_quant_scale %g; expected at most a factor of %g between "
          "them; calibrate the model",
          static_cast<double>(a.out_quant_scale), static_cast<double>(a.qkv_quant_scale),
          static_cast<double>(kMaxQuantScaleRatio));
    }
  }
  if (a.num_groups < 1 || a.num_groups > EDGEATTN_MAX_HEAD_GROUPS) {
    return message.refuse(
        "there are %d head groups; expected 1 to %d; give some heads to another node", a.num_groups,
        EDGEATTN_MAX_HEAD_GROUPS);
  }
  if (a.group_head_offset == nullptr || a.group_num_heads == nullptr || a.group_window == nullptr ||
      a.group_shift == nullptr || a.group_mode == nullptr || a.group_dilation == nullptr ||
      a.group_causal == nullptr) {
    return message.refuse("a list of the %d head groups is missing", a.num_groups);
  }
  int64_t out_heads = 0;
  int64_t bias_entries = 0;
  for (int32_t g = 0; g < a.num_groups; ++g) {
    if (int32_t const status = check_group(a, g, message)) return status;
    out_heads += a.group_num_heads[g];
    if (a.has_bias) {
      bias_entries += a.group_num_heads[g] * (int64_t{2} * a.group_window[2 * g] - 1) *
                      (int64_t{2} * a.group_window[2 * g + 1] - 1);
    }
  }
  if (bias_entries > INT32_MAX) {
    return message.refuse("the bias table has %lld entries; expected at most %d",
                          static_cast<long long>(bias_entries), INT32_MAX);
  }
  int64_t const channels = int64_t{3} * a.qkv_heads * a.head_dim;
  if (channels > INT32_MAX || out_heads * a.head_dim > INT32_MAX) {
    return message.refuse("qkv has %lld channels, the output %lld; expected at most %d",
                          static_cast<long long>(channels),
                          static_cast<long long>(out_heads * a.head_dim), INT32_MAX);
  }
  return EDGEATTN_SUCCESS;
}

int32_t check_problem(EdgeattnAttributes const* attributes, EdgeattnProblem const* problem,
                      Message const& message) {
  if (problem == nullptr) return message.refuse("there is no problem");
  EdgeattnProblem const& p = *problem;
  if (int32_t const status = check_attributes(attributes, p.in_type, p.out_type, message)) {
    return status;
  }
  if (p.batch < 0 || p.height < 1 || p.width < 1) {
    return message.refuse(
        "qkv is %d x %d x %d tokens; expected a batch of at least 0, and at least 1 "
        "row and column",
        p.batch, p.height, p.width);
  }
  int64_t const image_tokens = static_cast<int64_t>(p.height) * p.width;
  if (image_tokens > INT32_MAX || p.batch * image_tokens > INT32_MAX) {
    return message.refuse("qkv is %d x %d x %d tokens; expected at most %d in all; cut the batch",
                          p.batch, p.height, p.width, INT32_MAX);
  }
  for (int32_t g = 0; g < attributes->num_groups; ++g) {
    if (attributes->group_causal[g] && p.height != 1) {
      return message.refuse(
          "head group %d is causal on a map of %d rows; expected a sequence (1 row)", g, p.height);
    }
  }
  return EDGEATTN_SUCCESS;
}

int32_t check_tensors(EdgeattnAttributes const& attributes, EdgeattnTensors const* tensors,
                      Message const& message) {
  if (tensors == nullptr) return message.refuse("there are no tensors");
  struct Tensor {
    char const* name;
    void const* address;
    bool is_needed;
    uintptr_t alignment;
  };
  Tensor const all[] = {
      {"qkv", tensors->qkv, true, 16},
      {"bias_table", tensors->bias_table, attributes.has_bias != 0, 4},
      {"pad_kv", tensors->pad_kv, attributes.pad_mode != 0, 4},
      {"logit_scale", tensors->logit_scale, attributes.qk_mode != 0, 4},
      {"out", tensors->out, true, 16},
  };
  for (Tensor const& tensor : all) {
    if (!tensor.is_needed) continue;
    if (tensor.address == nullptr) {
      return message.refuse("%s is NULL; expected its address: the attributes call for it",
                            tensor.name);
    }
    uintptr_t const excess = reinterpret_cast<uintptr_t>(tensor.address) % tensor.alignment;
    if (excess != 0) {
      return message.refuse("%s begins %d bytes past a multiple of %d; expected an aligned address",
                            tensor.name, static_cast<int>(excess),
                            static_cast<int>(tensor.alignment));
    }
  }
  return EDGEATTN_SUCCESS;
}

}  // namespace edgeattn
