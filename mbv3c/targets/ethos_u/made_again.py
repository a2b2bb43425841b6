"""The files of an NPU bundle, made once more from what they were made of, and compared.

The interpreter says what a stream computes. What it does not model, such as how blocks of
operations are held apart, and the files that nothing here runs, vela's own and C, must be what the
TOSA file gives, byte for byte.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mbv3c.bundle import GOLDEN, NPU_STREAM, Bundle, read_listed, write_golden
from mbv3c.door.archives import open_zip
from mbv3c.door.arrays import MOST_ARRAYS, array_in, open_arrays
from mbv3c.errors import BundleError
from mbv3c.execution.cache import package_version
from mbv3c.feeds import Feed
from mbv3c.manifest import MANIFEST
from mbv3c.scratch import scratch_folder
from mbv3c.targets.ethos_u.c_source import StreamLayout, layout_of, program_of, texts
from mbv3c.targets.ethos_u.compiling import TFLITE, compiled_by_vela, ends_of, golden_of
from mbv3c.targets.ethos_u.devices import NpuTarget
from mbv3c.targets.ethos_u.interpreter.program import decode, read_driver_actions
from mbv3c.targets.ethos_u.lowering.region import Region
from mbv3c.targets.ethos_u.manifest import NpuManifest, manifest_of, options_of
from mbv3c.targets.ethos_u.tflite import with_quantization
from mbv3c.targets.ethos_u.verdict import MadeAgain
from mbv3c.version import __version__

_VELA = "ethos-u-vela"
_KINDS = "biufS"  # of numpy's types, in vela's raw output
_COMMANDS = "cmd_data.npy"
_WORD = 4  # bytes
_IN_C = (".c", ".h")


def made_again(bundle: Bundle, device: NpuTarget, region: Region, x: Feed) -> MadeAgain:
    """Compile a bundle's network with vela once more, write the C files once more, and compare.

    Args:
        bundle: the bundle.
        device: its device.
        region: what its quantized model lowers to.
        x: the input of the golden files, as the model has it.

    Raises:
        Mbv3cError: vela fails.
    """
    differing = tuple(_differing(bundle, device, region, x))
    return MadeAgain(differing, other_versions(manifest_of(bundle)) if differing else "")


def _differing(bundle: Bundle, device: NpuTarget, region: Region, x: Feed) -> Iterator[str]:
    manifest = manifest_of(bundle)
    try:
        with open_arrays(bundle.path / NPU_STREAM, _KINDS) as arrays:
            layout = layout_of(arrays)
        stream = entries_of(io.BytesIO(read_listed(bundle, NPU_STREAM)))
    except (OSError, ValueError, KeyError, TypeError, BundleError) as error:
        yield f"{NPU_STREAM}: {error}"
        return
    npu, options = manifest.npu, options_of(manifest)
    tuned = npu.tuned is not None
    built = compiled_by_vela(region.tosa, device, npu.knobs, npu.sram_budget_bytes, tuned=tuned)
    yield from stream_differences(stream, entries_of(io.BytesIO(built.raw)))
    vectors, golden = golden_of(region, options, x)
    program = program_of(layout, device, options, region)
    wanted = {
        TFLITE: with_quantization(built.tflite, region.inputs, region.outputs),
        **{name: text.encode() for name, text in texts(program, vectors).items()},
    }
    with scratch_folder("golden") as folder:
        write_golden(folder, golden)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                wanted[path.relative_to(folder).as_posix()] = path.read_bytes()
    for name, data in wanted.items():
        yield from _in_bytes(
            name, read_listed(bundle, name) if name in bundle.files else b"", data
        )
    for name in sorted(bundle.files.keys() - wanted.keys()):
        if name.endswith(_IN_C) or Path(name).parts[0] == GOLDEN:
            yield f"{name}: mbv3c writes no such file"
    if not _is_described(layout, manifest, region):
        yield f"{MANIFEST}: it does not describe the stream of {NPU_STREAM}"


def other_versions(manifest: NpuManifest) -> str:
    """Say which other versions made a bundle; they may write other files that are as good."""
    made = {"mbv3c": manifest.mbv3c, _VELA: manifest.tools.get(_VELA)}
    here = {"mbv3c": __version__, _VELA: package_version(_VELA)}
    return ", ".join(
        f"{name} {version}, and {here[name]} is here"
        for name, version in made.items()
        if version != here[name]
    )


def _is_described(layout: StreamLayout, manifest: NpuManifest, region: Region) -> bool:
    """Say whether a manifest has the places and sizes of a stream, and its ends' integers."""
    npu = manifest.npu
    wanted = (
        ends_of(region.inputs, layout.inputs),
        ends_of(region.outputs, layout.outputs),
        layout.constants_region,
        {str(number): size for number, size in layout.scratch.items()},
    )
    return (npu.inputs, npu.outputs, npu.constants_region, npu.scratch_bytes) == wanted


def entries_of(file: BinaryIO) -> dict[str, bytes]:
    """Return the arrays of an .npz file as they are stored: some of vela's are pickled.

    Raises:
        Refused: it is no such file.
    """
    with open_zip(file, MOST_ARRAYS) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def stream_differences(ours: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> Iterator[str]:
    """Say which arrays of a stream's file are others, and which command is the first."""
    for name in sorted(ours.keys() | wanted.keys()):
        pair = ours.get(name, b""), wanted.get(name, b"")
        for text in _in_bytes(f"{name} of {NPU_STREAM}", *pair):
            place = f" ({_command(*pair)})" if name == _COMMANDS and all(pair) else ""
            yield text + place


def _in_bytes(name: str, ours: bytes, wanted: bytes) -> Iterator[str]:
    if ours == wanted:
        return
    size = max(len(ours), len(wanted))
    a, b = (np.frombuffer(side.ljust(size, b"\0"), np.uint8) for side in (ours, wanted))
    different = np.flatnonzero(a != b)
    first = int(different[0]) if different.size else min(len(ours), len(wanted))
    yield f"{name}: {max(1, different.size)} bytes differ from byte {first} on"


def _command(ours: bytes, wanted: bytes) -> str:
    """Return the command of vela's at which two streams, as arrays in files, part."""
    _, words = read_driver_actions(array_in(wanted, _KINDS).tobytes())
    size = min(len(ours), len(wanted))
    different = np.frombuffer(ours, np.uint8, size) != np.frombuffer(wanted, np.uint8, size)
    first = int(different.argmax()) if different.any() else size
    place = (first - len(wanted)) // _WORD + len(words)
    name = "the driver's actions"
    for command in decode(words):
        if command.word > place:
            break
        name = f"{command.name} at word {command.word}"
    return name
