"""Sources with which an application runs a bundle's model.so, with the calls of a C library."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from mbv3c.c_library.labels import declared, defined
from mbv3c.c_library.record import CLibraryRequest
from mbv3c.c_library.source import (
    Interface,
    Port,
    about,
    constants_of,
    pointer,
    port_macros,
    port_types,
    ports_of,
)
from mbv3c.lowering.lower import Lowered
from mbv3c.quoting import for_comment

FOLDER = "app"  # in the bundle
MODEL_STEM = "mbv3c_model"  # of the files that are alike for all networks
_SOURCES = Path(__file__).with_name("tvm_model")

_HEADER = Template("""\
/* $about */
/* Calls model.so with the functions of a C library (compile --artifact c), so that an application
 * can change from one to the other. See mbv3c_model.h for what must be linked. */
#ifndef ${macro}_H
#define ${macro}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

$constants
/* TVM's runtime takes its memory itself; an arena may be given, and is not used. */
#define ${macro}_ARENA_BYTES 1
#define ${macro}_ARENA_ALIGNMENT 1

$ports
$types
enum {
  ${macro}_OK = 0,                /* the outputs are there */
  ${macro}_NULL_POINTER = -1,     /* an input or an output is NULL */
  ${macro}_ARENA_MISALIGNED = -2, /* never */
  ${macro}_ARENA_TOO_SMALL = -3,  /* never */
  ${macro}_BAD_FILE = -4,         /* a file of the bundle is missing or damaged */
  ${macro}_RUNTIME = -5,          /* TVM's runtime refuses */
  ${macro}_NO_MEMORY = -6,        /* memory is exhausted */
  ${macro}_NOT_OPEN = -7,         /* ${prefix}_open was not called, or failed */
};

/* Opens the bundle, a folder, or the bytes of its model.so, which may go afterwards. Call it once,
 * before other threads run the network. */
int ${prefix}_open(const char *bundle);
int ${prefix}_open_memory(const void *library, size_t bytes);
void ${prefix}_close(void);

/* What was wrong in this thread's last call that failed. */
const char *${prefix}_message(void);

/* Runs the network once; `arena` may be NULL. Any number of threads may call. Inputs need no
 * alignment; those that begin at a multiple of 64 are not copied. */
int ${prefix}_run(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena);

/* As in a C library; but loops are shared by TVM's own threads, and `parallel` is not called. */
typedef void (*${prefix}_task_t)(void *work, int64_t first, int64_t end);
typedef struct {
  void (*run)(void *pool, ${prefix}_task_t task, void *work, int64_t turns);
  void *pool;
} ${prefix}_parallel_t;

int ${prefix}_run_parallel(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena,
    size_t arena_bytes, const ${prefix}_parallel_t *parallel);

#ifdef __cplusplus
}
#endif
#endif
""")

_SOURCE = Template("""\
#include "$prefix.h"

#include "mbv3c_model.h"

static const char ends[] =
$ends;

static mbv3c_model_t *model;

int ${prefix}_open(const char *bundle) {
  ${prefix}_close();
  return mbv3c_open(bundle, &model);
}

int ${prefix}_open_memory(const void *library, size_t bytes) {
  ${prefix}_close();
  return mbv3c_open_memory(library, bytes, ends, &model);
}

void ${prefix}_close(void) {
  mbv3c_close(model);
  model = NULL;
}

const char *${prefix}_message(void) { return mbv3c_message(); }

int ${prefix}_run(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena) {
  (void)arena;
  if (in == NULL || out == NULL) return ${macro}_NULL_POINTER;
  const void *const inputs[] = {$inputs};
  void *const outputs[] = {$outputs};
  return mbv3c_run(model, inputs, outputs);
}

int ${prefix}_run_parallel(const ${prefix}_input_t *in, ${prefix}_output_t *out, void *arena,
    size_t arena_bytes, const ${prefix}_parallel_t *parallel) {
  (void)arena_bytes;
  (void)parallel;
  return ${prefix}_run(in, out, arena);
}
$labels
""")

_CMAKE = Template("""\
# add_subdirectory(BUNDLE/app) makes the target $prefix. SITE is the site-packages folder of a pip
# with apache-tvm and apache-tvm-ffi in the versions that manifest.json names; for other systems
# give TVM_RUNTIME and TVM_FFI, libraries that were built for them, and TVM_INCLUDE.
cmake_minimum_required(VERSION 3.16)
set(SITE "" CACHE PATH "site-packages with tvm and tvm_ffi")
if(NOT TVM_INCLUDE)
  set(TVM_INCLUDE "$${SITE}/tvm_ffi/include")
endif()
if(NOT TVM_RUNTIME)
  set(TVM_RUNTIME "$${SITE}/tvm/lib/libtvm_runtime.so")
endif()
if(NOT TVM_FFI)
  set(TVM_FFI "$${SITE}/tvm_ffi/lib/libtvm_ffi.so")
endif()
foreach(needed "$${TVM_INCLUDE}/tvm/ffi/c_api.h" "$${TVM_RUNTIME}" "$${TVM_FFI}")
  if(NOT EXISTS "$${needed}")
    message(FATAL_ERROR "no file $${needed}: give -DSITE=FOLDER, the site-packages folder "
        "of a pip with apache-tvm and apache-tvm-ffi, or TVM_INCLUDE, TVM_RUNTIME and TVM_FFI")
  endif()
endforeach()
project(${prefix}_app C)
find_package(Threads REQUIRED)
add_library($prefix STATIC $prefix.c mbv3c_model.c)
set_target_properties($prefix PROPERTIES C_STANDARD 11)
target_include_directories($prefix PUBLIC "$${CMAKE_CURRENT_SOURCE_DIR}" PRIVATE "$${TVM_INCLUDE}")
# Nothing calls the runtime by name: it registers its functions as it is loaded.
target_link_libraries($prefix PUBLIC "-Wl,--no-as-needed" "$${TVM_RUNTIME}" "$${TVM_FFI}"
    "-Wl,--as-needed" Threads::Threads $${CMAKE_DL_LIBS})
""")


def write_app(lowered: Lowered, request: CLibraryRequest, folder: Path) -> None:
    """Write the sources beside the library of a bundle.

    Args:
        lowered: the network.
        request: what its names begin with, and what is known of the bundle.
        folder: the folder of the bundle.
    """
    manifest, prefix = request.manifest, request.prefix
    names = [[record.name for record in side] for side in (manifest.inputs, manifest.outputs)]
    inputs, outputs = ports_of(lowered, names)
    constants = constants_of(request)
    own = Interface(prefix, about(manifest), constants, inputs, outputs, 1, 1, shared=False)
    lines = list(_ends(own))
    words = {
        "about": for_comment(own.about),
        "macro": prefix.upper(),
        "prefix": prefix,
        "constants": "\n".join(
            f'#define {own.macro(name)} "{text}"' for name, text in own.constants.items()
        ),
        "ports": "\n".join(port_macros(own)),
        "types": "\n".join([*declared(prefix, request.labels), *port_types(own)]),
        "labels": "\n".join(defined(prefix, request.labels)),
        "ends": "\n".join(f"    {json.dumps(line)}" for line in lines),
        "inputs": _pointers("in", own.inputs),
        "outputs": _pointers("out", own.outputs),
    }
    place = folder / FOLDER
    place.mkdir()
    for source in _SOURCES.iterdir():
        shutil.copyfile(source, place / source.name)
    (place / f"{prefix}.h").write_text(_HEADER.substitute(words))
    (place / f"{prefix}.c").write_text(_SOURCE.substitute(words))
    (place / "CMakeLists.txt").write_text(_CMAKE.substitute(words))
    (place / "ends.txt").write_text("".join(lines))


def _ends(own: Interface) -> Iterator[str]:
    """Describe inputs and outputs for mbv3c_model.c, a line for each."""
    for kind, ports in (("input", own.inputs), ("output", own.outputs)):
        for port in ports:
            shape = "x".join(map(str, port.shape)) or "scalar"
            yield f"{kind} {port.dtype} {shape} {for_comment(port.name)}\n"


def _pointers(argument: str, ports: Sequence[Port]) -> str:
    return ", ".join(pointer(argument, ports, at) for at in range(len(ports)))
