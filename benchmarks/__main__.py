"""Measure mbv3c beside other runtimes and write benchmarks/RESULTS.md; `make bench` runs it."""

import argparse
import datetime
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

from benchmarks import aarch64, emulated, gpu, host, integers, tuned
from benchmarks.networks import NETWORKS, QUICK
from benchmarks.results import replace_section
from mbv3c import __version__
from mbv3c.errors import Mbv3cError
from mbv3c.execution.opencl.runtime import device_info
from mbv3c.execution.timing.latency import processor_name

SECTIONS = ("host", "emulated", "int8", "gpu", "tuned")
HOST = "Latency on this machine"
GPU = "Kernels for GPUs, run by PoCL on this machine's processor"
EMULATED = "Executed instructions, emulated Cortex-A76"
TUNED = "With the tuning databases that come with mbv3c"
INTEGERS = "Executed instructions in int8, emulated"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, help="one of the kinds")
    parser.add_argument(
        "--quick", action="store_true", help="Small 1.0 at 224 pixels only; writes nothing"
    )
    arguments = parser.parse_args()
    chosen = SECTIONS if arguments.only is None else (arguments.only,)
    measure = {
        "host": _host,
        "emulated": _emulated,
        "int8": _integers,
        "gpu": _gpu,
        "tuned": _tuned,
    }
    try:
        for section in chosen:
            title, body = measure[section](arguments.quick)
            print(f"\n{title}\n\n{body}\n")
            if not arguments.quick:
                replace_section(title, body)
    except Mbv3cError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _host(quick: bool) -> tuple[str, str]:
    rows = host.measure(QUICK if quick else NETWORKS, (1,) if quick else (1, 2), _progress)
    tools = [*map(_version_of, ("apache-tvm", "onnxruntime", "openvino", "ai-edge-litert"))]
    return (
        HOST,
        f"""\
{_date()}, {processor_name()} with {_vectors()}, {platform.system()} {platform.release()};
{_listed(*tools)}.
`make bench`, that is `python -m benchmarks --only host`. Median of {host.RUNS} runs of each side,
in turns by blocks, in processes of their own, pinned to the same processors. Ratios below 1: mbv3c
is faster; in brackets the quartiles over the blocks; `?` where the machine was busy: the quartiles
lie more than a tenth apart, or one run in twenty was interrupted. LiteRT runs a file of the same
graph, all of it by XNNPACK; its error is against onnxruntime without optimisations, of the range.
{_load()}

{host.table(rows)}""",
    )


def _emulated(quick: bool) -> tuple[str, str]:
    rows = emulated.measure(QUICK if quick else NETWORKS, _progress)
    others = (f"{name} {version}" for name, version in aarch64.versions().items())
    return (
        EMULATED,
        f"""\
{_date()}, qemu-user emulating {emulated.CPU}; {_listed(_version_of("apache-tvm"), *others)}.
`make bench`, that is `python -m benchmarks --only emulated`. Millions of instructions executed per
inference, one thread; in brackets the vector multiply-adds (FMLA, FMLS) among them. **Counted, not
timed.** The second column is what NEON needs if it only multiplies and adds. Errors, in the order
of the counts: of one input's output against onnxruntime in fp32 without optimisations, of the
range. ncnn in fp16 has its own defaults: on this core they store, pack and compute half precision.
LiteRT runs a file of the same graph, all of it by XNNPACK. In fp16 the file allows that, and has
TensorFlow's pads (as many zeros, elsewhere): ours are copies there, a third more instructions.

{emulated.tables(rows)}""",
    )


def _integers(quick: bool) -> tuple[str, str]:
    rows = integers.measure(QUICK if quick else integers.NETWORKS, _progress)
    tools = [_version_of(name) for name in ("apache-tvm", "onnxruntime", "ai-edge-litert")]
    return (
        INTEGERS,
        f"""\
{_date()}, qemu-user; {_listed(*tools)}. `make bench`, that is `python -m benchmarks --only int8`.
Millions of instructions executed per inference, one thread. **Counted, not timed.** Quantized on
random inputs, as `compile --precision int8` does without a folder; onnxruntime takes the same
quantized model, with all of its optimisations, and LiteRT a file of it, with the cheaper of two
forms of hard-swish: as one operator, or as ADD and MUL, with which XNNPACK takes all. The third
column is what dot products need that do nothing else. Errors, in the order of the counts, of one
input's output, of the range: in int8 against onnxruntime without optimisations on the quantized
model, in fp32 on the fp32 one. The emulator knows no Cortex-A55: what is compiled for it runs on
a Cortex-A76, which has all of its instructions. ncnn is left out, as its wheels bring no tool that
quantizes a network for it.

{integers.table(rows)}""",
    )


def _gpu(quick: bool) -> tuple[str, str]:
    networks = [one for one in NETWORKS if one.width == 1.0 and one.resolution == 224]
    rows = gpu.measure(QUICK if quick else networks, _progress)
    device = device_info()
    tools = _listed(_version_of("apache-tvm"), f"{device.platform} {device.driver}")
    return (
        GPU,
        f"""\
{_date()}, {processor_name()}; {tools}.
`make bench`, that is `python -m benchmarks --only gpu`. From TVM's operators with dlight's general
schedule to our kernels, in one process, {gpu.RUNS} runs each in turns. Launches and bytes (of all
tensors that kernels read or write, once per launch) are counted from the plan. **Times are of a
CPU that executes the kernels, and say nothing about a phone.**

{gpu.table(rows)}""",
    )


def _tuned(quick: bool) -> tuple[str, str]:
    rows = tuned.measure(QUICK if quick else tuned.NETWORKS, _progress)
    return (
        TUNED,
        f"""\
{_date()}, {processor_name()}, and qemu-user; {_listed(_version_of("apache-tvm"))}.
`make bench`, that is `python -m benchmarks --only tuned`. Calls of kernels whose choices are
tuned, taken from a similar kernel, and made by the rules; then one inference on one thread, first
without the database, then with it. On Arm cores instructions are **counted, not timed**. On this
machine the two take turns, {tuned.RUNS} runs each, on one processor; in brackets quartiles over
the blocks.

{tuned.table(rows)}""",
    )


def _version_of(package: str) -> str:
    return f"{package} {metadata.version(package)}"


def _listed(*tools: str) -> str:
    return ", ".join((f"mbv3c {__version__}", *tools))


def _vectors() -> str:
    """Return the widest vectors of this machine: processors of one name differ in them."""
    known = {"avx512_vnni": "AVX-512 and VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except FileNotFoundError:
        return platform.machine()
    return next((name for flag, name in known.items() if flag in flags), platform.machine())


def _load() -> str:
    load = os.getloadavg()[2]
    return f"The load average of the last 15 minutes was {load:.1f}, that of this run included."


def _date() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


_START = time.monotonic()


def _progress(step: str) -> None:
    print(f"[{time.monotonic() - _START:6.1f} s] {step}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
