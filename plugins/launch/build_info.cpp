/*!
 * \file
 * \brief What this library is: one JSON object, readable without loading the library.
 *
 * The text stands alone in an ELF section, so that `edgeattn plugin check` can read it from a
 * library of another machine. CMakeLists.txt and `edgeattn/plugin/emulator.py` give the macros.
 */
#include "edgeattn/edgeattn.h"

#ifndef EDGEATTN_VERSION
#define EDGEATTN_VERSION ""
#endif
#ifndef EDGEATTN_SOURCE_SHA256
#define EDGEATTN_SOURCE_SHA256 ""
#endif
#ifndef EDGEATTN_CUDA_VERSION
#define EDGEATTN_CUDA_VERSION ""
#endif
#ifndef EDGEATTN_ARCHITECTURES
#define EDGEATTN_ARCHITECTURES ""
#endif

#ifdef EDGEATTN_EMULATOR
#define EDGEATTN_KIND "emulator"
#else
#define EDGEATTN_KIND "cuda"
#endif

#define EDGEATTN_TEXT(number) #number
#define EDGEATTN_TEXT_OF(macro) EDGEATTN_TEXT(macro)

namespace {

__attribute__((section(".edgeattn.build_info"), used)) char const kBuildInfo[] =
    "{\"version\": \"" EDGEATTN_VERSION "\", \"kind\": \"" EDGEATTN_KIND
    "\", \"abi_version\": " EDGEATTN_TEXT_OF(
        EDGEATTN_ABI_VERSION) ", \"cuda\": \"" EDGEATTN_CUDA_VERSION
                              "\", \"architectures\": [" EDGEATTN_ARCHITECTURES
                              "], \"source_sha256\": \"" EDGEATTN_SOURCE_SHA256 "\"}";

}  // namespace

int32_t edgeattn_abi_version(void) { return EDGEATTN_ABI_VERSION; }

char const* edgeattn_build_info(void) { return kBuildInfo; }
