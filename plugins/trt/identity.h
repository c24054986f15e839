/*!
 * \file
 * \brief How TensorRT finds the plugin: an ONNX node's op type, and its attributes
 *        `plugin_version` and `plugin_namespace`.
 *
 * Literals, not constants, so that they can be pasted into longer ones.
 */
#pragma once

#define EDGEATTN_PLUGIN_NAME "MultiScaleWindowAttention"
#define EDGEATTN_PLUGIN_VERSION "1"
#define EDGEATTN_PLUGIN_NAMESPACE ""
