"""Run a C library from Python with nothing but ctypes and the standard library.

    cc -shared -o network.so -Wl,--whole-archive BUNDLE/c/lib/libnetwork.a -Wl,--no-whole-archive
    python classify.py network.so BUNDLE/c/include/network.h

The library was compiled by `mbv3c compile MODEL --target host_cpu --artifact c --prefix network`,
for a network that takes one image of fp32 and gives one vector of fp32.
"""

import ctypes
import re
import sys
from pathlib import Path


def constant(header: str, name: str) -> int:
    """Return a number that the header defines."""
    found = re.search(rf"^#define NETWORK_{name} (\d+)$", header, re.MULTILINE)
    if found is None:
        raise SystemExit(f"the header does not define NETWORK_{name}")
    return int(found[1])


def main(library: str, header_path: str) -> None:
    """Classify an image of zeros, and print the best class."""
    header = Path(header_path).read_text(encoding="utf-8")
    sizes = [int(size) for size in re.findall(r"_ELEMENTS (\d+)$", header, re.MULTILINE)]
    if len(sizes) != 2:
        raise SystemExit("this example is for networks of one input and one output")
    image, scores = (ctypes.c_float * size for size in sizes)
    arena_bytes, alignment = constant(header, "ARENA_BYTES"), constant(header, "ARENA_ALIGNMENT")
    room = ctypes.create_string_buffer(arena_bytes + alignment)
    arena = ctypes.c_void_p(-(-ctypes.addressof(room) // alignment) * alignment)
    output = scores()
    code = ctypes.CDLL(str(Path(library).resolve())).network_run(image(), output, arena)
    if code != 0:
        raise SystemExit(f"network_run returned {code}")
    best = max(range(len(output)), key=output.__getitem__)
    print(f"class {best}: {output[best]:g}")


if __name__ == "__main__":
    main(*sys.argv[1:])
