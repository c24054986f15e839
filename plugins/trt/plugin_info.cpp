/*!
 * \file
 * \brief What the plugin library is for: one JSON object, readable without loading the library.
 *
 * See launch/build_info.cpp, which says the same of the kernels.
 */
#include <NvInferVersion.h>

#include "identity.h"

#define EDGEATTN_TEXT(number) #number
#define EDGEATTN_TEXT_OF(macro) EDGEATTN_TEXT(macro)

namespace {

__attribute__((section(".edgeattn.plugin_info"), used)) char const kPluginInfo[] =
    "{\"op_type\": \"" EDGEATTN_PLUGIN_NAME "\", \"op_version\": \"" EDGEATTN_PLUGIN_VERSION
    "\", \"namespace\": \"" EDGEATTN_PLUGIN_NAMESPACE
    "\", \"tensorrt\": \"" EDGEATTN_TEXT_OF(NV_TENSORRT_MAJOR) "." EDGEATTN_TEXT_OF(
        NV_TENSORRT_MINOR) "." EDGEATTN_TEXT_OF(NV_TENSORRT_PATCH) "\"}";

}  // namespace
