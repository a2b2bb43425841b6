"""Write a C library as C11: its headers, kernels, weights and driver, and what builds them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template

import tvm

from mbv3c.c_library.build import design
from mbv3c.c_library.c_source.arrays import Weights, declared, name_of, weights_of, weights_text
from mbv3c.c_library.c_source.functions import write_function
from mbv3c.c_library.c_source.prelude import Prelude
from mbv3c.c_library.driver import Calls, driver
from mbv3c.c_library.golden import VECTORS, write_vectors
from mbv3c.c_library.names import FOLDER, header_of, sources_of
from mbv3c.c_library.record import CLibraryRequest, CSourceRecord
from mbv3c.lowering.lower import Lowered

ALIGNMENT = 64  # of the arena and of weights, in bytes
_WEIGHTS = 2  # the place of their source among `sources_of`

_HEADER = Template("""\
/* What the sources of $prefix share: no application needs it. */
#ifndef ${macro}_KERNELS_H
#define ${macro}_KERNELS_H

#include <stdint.h>
#include <string.h>

$declared

$weights

#endif
""")

_CMAKE = Template("""\
# add_subdirectory(BUNDLE/c) makes the target $prefix.
cmake_minimum_required(VERSION 3.16)
project(${prefix}_c C)
add_library($prefix STATIC $sources)
set_target_properties($prefix PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_include_directories($prefix PUBLIC "$${CMAKE_CURRENT_SOURCE_DIR}/include")
# A product and a sum may be rounded once; CMAKE_C_FLAGS says for which processor (-mcpu, -march).
if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options($prefix PRIVATE -ffp-contract=fast)
endif()
$math""")
_CMAKE_MATH = """\
if(UNIX)
  target_link_libraries({prefix} PUBLIC m)
endif()
"""
_MAKE = Template("""\
# make CC=... CFLAGS="-O3 -mcpu=..." O=FOLDER writes FOLDER/lib$prefix.a; see docs/embedding.md.
CFLAGS ?= -O3
# A product and a sum may be rounded once; leave it empty for a compiler that does not know this.
CONTRACT ?= -ffp-contract=fast
O ?= .
C := $$(dir $$(lastword $$(MAKEFILE_LIST)))
OBJECTS := $objects
HEADERS := $$(C)src/${prefix}_kernels.h $$(C)src/${prefix}_vectors.h $$(C)include/$prefix.h
$$(O)/lib$prefix.a: $$(OBJECTS)
\trm -f $$@
\t$$(AR) rcs $$@ $$^
$$(O)/%.o: $$(C)src/%.c $$(HEADERS)
\t$$(CC) -std=c11 $$(CONTRACT) $$(CFLAGS) -I $$(C)include -c -o $$@ $$<
clean:
\trm -f $$(OBJECTS) $$(O)/lib$prefix.a
.PHONY: clean
""")


def build_c_source(
    lowered: Lowered, target: tvm.target.Target, request: CLibraryRequest, folder: Path
) -> CSourceRecord:
    """Write a lowered network as C11 into `folder`.

    Args:
        lowered: the network, in kernels without instructions of one processor.
        target: the processor whose vectors and caches the kernels are cut for, for TVM.
        request: what the library is for.
        folder: the folder of the bundle.

    Raises:
        ToolError: a kernel has something that C11 has not.
    """
    prefix = request.prefix
    made, weights = design(lowered, target, request, ALIGNMENT), weights_of(lowered)
    # The user's compiler says which features of a processor are taken.
    made = replace(made, interface=replace(made.interface, features=()))
    interface, raw, arena = made.interface, made.raw, made.arena
    prelude = Prelude()
    functions = [
        write_function(str(name.name_hint), function, prelude)
        for name, function in raw.module.functions.items()
    ]
    kernels = "\n".join(_kernels(prefix, [each.text for each in functions]))
    texts = [
        driver(interface, lowered, raw.kernels, arena, _calls(prefix, weights)),
        kernels,
        weights_text(prefix, weights, ALIGNMENT),
        _HEADER.substitute(
            prefix=prefix,
            macro=prefix.upper(),
            declared="\n".join(each.declaration for each in functions),
            weights="\n".join(declared(prefix, weights)),
        ),
        prelude.text(prefix, kernels),
    ]
    root = folder / FOLDER
    made.write_headers(root)
    (root / "src").mkdir()
    sources = sources_of(prefix)
    for path, text in zip(sources, texts, strict=True):
        (folder / path).write_text(text)
    needs = tuple(sorted(prelude.functions))
    _write_builders(prefix, sources, bool(needs), root)
    write_vectors(interface, request.golden, root / VECTORS)
    return CSourceRecord(
        prefix,
        header_of(prefix),
        sources,
        sum(map(len, texts)) - len(texts[_WEIGHTS]),
        weights.bytes,
        arena.bytes,
        arena.lower_bound,
        ALIGNMENT,
        made.shared_loops,
        needs,
    )


def _kernels(prefix: str, functions: Sequence[str]) -> Iterator[str]:
    yield f'#include "{prefix}_kernels.h"'
    yield f'#include "{prefix}_vectors.h"'
    yield ""
    yield from functions


def _calls(prefix: str, weights: Weights) -> Calls:
    return Calls(
        [f'#include "{prefix}_kernels.h"'],
        ["  unsigned char *const at = arena;"],
        lambda step, place: name_of(prefix, weights.places[step][place]),
        lambda offset: f"(void *)(at + {offset})",
        ("const void *", "(void *)pointers[{}]"),
        "memcpy",
    )


def _write_builders(prefix: str, sources: Sequence[str], math: bool, root: Path) -> None:
    """Write a Makefile and a CMakeLists.txt."""
    compiled = [source.removeprefix(f"{FOLDER}/") for source in sources if source.endswith(".c")]
    objects = (Path(source).with_suffix(".o").name for source in compiled)
    cmake = _CMAKE.substitute(
        prefix=prefix,
        sources=" ".join(compiled),
        math=_CMAKE_MATH.format(prefix=prefix) if math else "",
    )
    make = _MAKE.substitute(prefix=prefix, objects=" ".join(f"$(O)/{name}" for name in objects))
    (root / "CMakeLists.txt").write_text(cmake)
    (root / "Makefile").write_text(make)
