"""A library of custom operators for ONNX Runtime, compiled where there is a C compiler.

It holds `theirs::Halve`, which gives half of a float32 tensor. ONNX Runtime's headers come with no
Python package, so the few entries of its C interface stand here by their place in it, which never
changes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>

typedef struct { const void* const* (*api)(uint32_t); const char* (*version)(void); } Base;
/* Places in ONNX Runtime's table of functions. */
enum { CREATE_DOMAIN = 26, ADD_OP, ADD_DOMAIN, DATA = 51, DIM_COUNT = 61, DIMS, COUNT = 64, SHAPE,
       INPUT = 90, OUTPUT = 91 };
#define CALL(place, ...) ((void* (*)())api[place])(__VA_ARGS__)

static const void* const* api;

typedef struct Op {
  uint32_t version;
  void* (*create)(const struct Op*, const void* const*, const void*);
  const char* (*name)(const struct Op*);
  const char* (*provider)(const struct Op*);
  int (*input_type)(const struct Op*, size_t);
  size_t (*inputs)(const struct Op*);
  int (*output_type)(const struct Op*, size_t);
  size_t (*outputs)(const struct Op*);
  void (*compute)(void*, void*);
  void (*destroy)(void*);
  int (*input_kind)(const struct Op*, size_t);
  int (*output_kind)(const struct Op*, size_t);
} Op;

static void* create(const Op* op, const void* const* a, const void* i) { return (void*)op; }
static const char* name(const Op* op) { return "Halve"; }
static const char* provider(const Op* op) { return NULL; }
static int type(const Op* op, size_t i) { return 1; }
static size_t one(const Op* op) { return 1; }
static void destroy(void* kernel) {}
static int required(const Op* op, size_t i) { return 0; }

static void compute(void* kernel, void* context) {
  const void* input;
  void *info, *output;
  float *x, *y;
  size_t rank, count;
  int64_t dims[8];
  CALL(INPUT, context, (size_t)0, &input);
  CALL(SHAPE, input, &info);
  CALL(DIM_COUNT, info, &rank);
  CALL(DIMS, info, dims, rank);
  CALL(COUNT, info, &count);
  CALL(OUTPUT, context, (size_t)0, dims, rank, &output);
  CALL(DATA, input, &x);
  CALL(DATA, output, &y);
  for (size_t i = 0; i < count; ++i) y[i] = x[i] / 2;
}

static Op halve = {1, create, name, provider, type, one, type, one, compute, destroy, required,
                   required};

void* RegisterCustomOps(void* options, const Base* base) {
  void* domain;
  api = base->api(1);
  CALL(CREATE_DOMAIN, "theirs", &domain);
  CALL(ADD_OP, domain, &halve);
  CALL(ADD_DOMAIN, options, domain);
  return NULL;
}
"""


def has_compiler() -> bool:
    """Tell whether `compile_library` can work here."""
    return shutil.which("cc") is not None


def compile_library(folder: Path) -> Path:
    """Compile the library into a folder."""
    source, library = folder / "halve.c", folder / "libhalve.so"
    source.write_text(SOURCE)
    subprocess.run(
        ["cc", "-std=gnu11", "-w", "-shared", "-fPIC", "-o", library, source], check=True
    )
    return library
