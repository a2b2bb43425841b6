"""Test vectors in C of the NPU's calls: what each is given for the golden input, and gives."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from mbv3c.feeds import Array
from mbv3c.targets.ethos_u.c_source import StreamLayout
from mbv3c.targets.one_chip.parts import Network

_A_LINE = 24  # numbers
_TENSOR = re.compile(r"static const int8_t tensor_[0-9]+\[[0-9]+\] = \{([-0-9, \n]*)\};")

_HEADER = Template("""\
/* What the NPU is given and gives in each call of ${prefix}_run, for the input of
 * ${prefix}_golden.h: for a test where there is no NPU. */
#ifndef ${macro}_NPU_GOLDEN_H
#define ${macro}_NPU_GOLDEN_H

#include "$prefix.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Stands for the NPU in a call, from 0 to ${macro}_NPU_CALLS - 1. Returns 0 after it has written
 * the outputs to the regions at `base`; the number, from 1, of the first input that is another. */
int ${prefix}_npu_golden_play(int call, const uint64_t *base);

#ifdef __cplusplus
}
#endif
#endif
""")

_PLAY = Template("""
typedef struct {
  int region;
  size_t offset, bytes;
  const int8_t *data;
} tensor_t;

static const tensor_t taken[][$most + 1] = {
$taken};
static const tensor_t given[][$most + 1] = {
$given};

int ${prefix}_npu_golden_play(int call, const uint64_t *base) {
  if (call < 0 || call >= ${macro}_NPU_CALLS) return -1;
  for (int k = 0; taken[call][k].bytes; ++k) {
    const tensor_t *const each = &taken[call][k];
    const int8_t *const place = (const int8_t *)(uintptr_t)base[each->region] + each->offset;
    for (size_t i = 0; i < each->bytes; ++i) {
      if (place[i] != each->data[i]) return k + 1;
    }
  }
  for (int k = 0; given[call][k].bytes; ++k) {
    const tensor_t *const each = &given[call][k];
    int8_t *const place = (int8_t *)(uintptr_t)base[each->region] + each->offset;
    for (size_t i = 0; i < each->bytes; ++i) place[i] = each->data[i];
  }
  return 0;
}
""")


def write_npu_vectors(
    prefix: str,
    network: Network,
    layouts: Sequence[StreamLayout],
    tensors: Mapping[str, Array],
    folder: Path,
) -> None:
    """Write PREFIX_npu_golden.h and PREFIX_npu_golden.c.

    Args:
        prefix: what every name begins with.
        network: the parts.
        layouts: the command stream of each part of the NPU.
        tensors: every tensor between two parts, for the golden input.
        folder: where to write; made if it is not there.
    """
    folder.mkdir(exist_ok=True)
    words = {"prefix": prefix, "macro": prefix.upper()}
    (folder / f"{prefix}_npu_golden.h").write_text(_HEADER.substitute(words))
    source = "\n".join(_source(words, network, layouts, tensors))
    (folder / npu_vectors_of(prefix)).write_text(source)


def npu_vectors_of(prefix: str) -> str:
    """Return the name of the file with what the NPU is given and gives."""
    return f"{prefix}_npu_golden.c"


def tensors_in(text: str, network: Network) -> dict[str, NDArray[np.int8]] | None:
    """Return the tensors in such a file, as they lie between two parts; None if it has others."""
    names = _names(network)
    found = [numbers.split(",") for numbers in _TENSOR.findall(text)]
    try:
        flat = [np.array([int(each) for each in row if each.strip()], np.int8) for row in found]
        return {
            name: array.reshape(network.edges[name].place_shape)
            for name, array in zip(names, flat, strict=True)
        }
    except (ValueError, OverflowError):
        return None


def _names(network: Network) -> list[str]:
    """Return the tensors that the NPU is given and gives, each once."""
    streams = (part for part in network.parts if part.region is not None)
    return list(dict.fromkeys(name for part in streams for name in (*part.reads, *part.makes)))


def _source(
    words: Mapping[str, str],
    network: Network,
    layouts: Sequence[StreamLayout],
    tensors: Mapping[str, Array],
) -> Iterator[str]:
    yield f'#include "{words["prefix"]}_npu_golden.h"'
    streams = [part for part in network.parts if part.region is not None]
    names = _names(network)
    for number, name in enumerate(names):
        flat = np.asarray(tensors[name], np.int8).ravel().tolist()
        yield f"\nstatic const int8_t tensor_{number}[{len(flat)}] = {{"
        for start in range(0, len(flat), _A_LINE):
            yield f"  {', '.join(map(str, flat[start : start + _A_LINE]))},"
        yield "};"
    known = {name: number for number, name in enumerate(names)}
    sides: dict[str, list[str]] = {"taken": [], "given": []}
    for part, layout in zip(streams, layouts, strict=True):
        for side, own, places in (
            ("taken", part.reads, layout.inputs),
            ("given", part.makes, layout.outputs),
        ):
            rows = [
                f"{{{region}, {offset}, {network.edges[name].bytes}, tensor_{known[name]}}}"
                for name, (region, offset) in zip(own, places, strict=True)
            ]
            sides[side].append(f"  {{{', '.join(rows)}}},\n")
    most = max(len(each) for part in streams for each in part.ends)
    yield _PLAY.substitute(words, most=most, **{k: "".join(v) for k, v in sides.items()})
