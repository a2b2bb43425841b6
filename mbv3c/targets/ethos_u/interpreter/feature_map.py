"""Feature maps as registers describe them: up to four tiles, rows of pixels or bricks of channels.

The fields come from vela's `npu_set_ifm_precision_t` and `npu_set_ofm_precision_t`; the addresses
from `generate_ifm`, `generate_tiles` and `get_strides` in its
`register_command_stream_generator.py`.

Which commands may still be running, and which memory the next command must not touch.

A device copies while it computes. A command needs a wait before it touches what an earlier command
may still be writing, or writes what an earlier command may still be reading. OP_DMA_WAIT and
OP_KERNEL_WAIT let a number of the latest copies or operations go on and wait for all others. How
many can be under way comes from vela's `get_wait_dependency` in `register_command_stream_util.py`.

Operations follow each other in order, held apart block by block (BLOCKDEP), which is not checked.

The memory regions of a program, with every access checked.

A region also knows which of its bytes were written. Reading any other byte is an error, since on a
device it would hold what the last program left.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mbv3c.targets.ethos_u.interpreter.program import (
    Accelerator,
    Command,
    Registers,
    StreamError,
    UnsupportedError,
)

_OPERATIONS = 2  # under way at a time


@dataclass(frozen=True)
class Access:
    """Elements that a command reads or writes.

    Attributes:
        view: the elements in their region.
        writes: whether they are written; if not, they are read.
    """

    view: NDArray[Any]
    writes: bool


class RunningCommands:
    """The commands that may still be running."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._operations: deque[tuple[Command, Sequence[Access]]] = deque(maxlen=_OPERATIONS)
        self._copies: deque[tuple[Command, Sequence[Access]]] = deque(maxlen=accelerator.copies)

    def wait(self, command: Command) -> None:
        """Execute an OP_DMA_WAIT or OP_KERNEL_WAIT."""
        running = self._copies if command.name == "OP_DMA_WAIT" else self._operations
        while len(running) > command.param:
            running.popleft()

    def start_copy(self, command: Command, accesses: Sequence[Access]) -> None:
        """Begin an OP_DMA_START.

        Raises:
            StreamError: it touches memory that is in use.
        """
        _check(accesses, self._operations)
        if len(self._copies) == self._copies.maxlen:
            self._copies.popleft()
        _check(accesses, self._copies)
        self._copies.append((command, accesses))

    def start_operation(
        self, command: Command, accesses: Sequence[Access], *, pointwise: bool
    ) -> None:
        """Begin an operation; a pointwise operation may write the elements that it reads.

        Raises:
            StreamError: it touches memory that is in use, or overwrites what it has yet to read.
        """
        _check(accesses, self._copies)
        _check_own(accesses, in_place=pointwise)
        self._operations.append((command, accesses))


def _check(
    accesses: Sequence[Access], running: Iterable[tuple[Command, Sequence[Access]]]
) -> None:
    for command, others in running:
        for access in accesses:
            for other in others:
                conflict = access.writes or other.writes
                if conflict and np.may_share_memory(access.view, other.view):
                    raise StreamError(
                        f"touches memory that {command.name} at word {command.word} may still be"
                        " using; a wait is missing"
                    )


def _check_own(accesses: Sequence[Access], *, in_place: bool) -> None:
    """Refuse an output that lies on an input, unless both are equal and `in_place` is set."""
    read = [access.view for access in accesses if not access.writes]
    for access in accesses:
        for other in read if access.writes else ():
            if in_place and _place(access.view) == _place(other):
                continue
            if np.shares_memory(access.view, other):
                raise StreamError("writes over its own input")


def _place(view: NDArray[Any]) -> tuple[Any, ...]:
    return view.ctypes.data, view.shape, view.strides, view.itemsize


class Memory:
    """Regions of bytes, by number."""

    def __init__(self, scratch: Mapping[int, int]) -> None:
        """Begin with unwritten regions of the given sizes in bytes."""
        self._bytes = {region: np.zeros(size, np.uint8) for region, size in scratch.items()}
        self._written = {region: np.zeros(size, np.bool_) for region, size in scratch.items()}
        self._constant: set[int] = set()
        self.accesses: list[Access] = []  # of the command that is being executed

    def add_constants(self, region: int, data: NDArray[np.uint8]) -> None:
        """Add a region that may only be read."""
        self._bytes[region] = data
        self._written[region] = np.ones(len(data), np.bool_)
        self._constant.add(region)

    def forget(self, region: int, start: int) -> None:
        """Treat the bytes of a region, from `start` on, as unwritten."""
        self._written[region][start:] = False
        self.accesses.append(Access(self._bytes[region][start:], writes=True))

    def load(self, region: int, address: int, size: int) -> NDArray[np.uint8]:
        """Return a copy of `size` bytes."""
        return self.read(region, address, (size,), np.uint8, (1,))

    def store(self, region: int, address: int, data: NDArray[np.uint8]) -> None:
        """Write bytes."""
        self.write(region, address, data, (1,))

    def read(
        self,
        region: int,
        address: int,
        shape: Sequence[int],
        dtype: DTypeLike,
        strides: Sequence[int],
    ) -> NDArray[Any]:
        """Return a copy of elements that lie `strides` bytes apart.

        Raises:
            StreamError: elements lie outside the region, or were not written.
        """
        kind = np.dtype(dtype)
        if not math.prod(shape):
            return np.zeros(shape, kind)
        self._check(region, address, shape, kind.itemsize, strides, "reads")
        written = np.ndarray(shape, np.bool_, self._written[region], address, tuple(strides))
        if not written.all():
            missing = written.size - np.count_nonzero(written)
            raise StreamError(
                f"reads {missing} of {written.size} elements at {address:#x} of region {region}"
                " that nothing was written to"
            )
        view: NDArray[Any] = np.ndarray(
            shape, kind, self._bytes[region].data, address, tuple(strides)
        )
        self.accesses.append(Access(view, writes=False))
        return view.copy()

    def write(
        self, region: int, address: int, values: NDArray[Any], strides: Sequence[int]
    ) -> None:
        """Write elements, `strides` bytes apart.

        Raises:
            StreamError: elements lie outside the region, or the region holds constants.
        """
        shape, kind = values.shape, values.dtype
        if not values.size:
            return
        self._check(region, address, shape, kind.itemsize, strides, "writes")
        if region in self._constant:
            raise StreamError(f"writes to region {region}, which holds the constants")
        view: NDArray[Any] = np.ndarray(shape, kind, self._bytes[region], address, tuple(strides))
        view[...] = values
        self.accesses.append(Access(view, writes=True))
        written = np.ndarray(
            (*shape, kind.itemsize), np.bool_, self._written[region], address, (*strides, 1)
        )
        written[...] = True

    def _check(
        self,
        region: int,
        address: int,
        shape: Sequence[int],
        itemsize: int,
        strides: Sequence[int],
        verb: str,
    ) -> None:
        if region not in self._bytes:
            raise StreamError(f"{verb} in region {region}, which the program does not have")
        reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
        first = address + sum(min(0, extent) for extent in reach)
        end = address + sum(max(0, extent) for extent in reach) + itemsize
        size = len(self._bytes[region])
        if first < 0 or end > size:
            raise StreamError(
                f"{verb} bytes {first:#x} to {end:#x} of region {region}, which has {size:#x}"
            )


BRICK = 16  # channels
_NHWC, _NHCWB16 = 0, 1
_MAX_ELEMENTS = 1 << 27


@dataclass(frozen=True)
class FeatureMap:
    """Where and how a feature map lies; the operation gives an input's height and width.

    Attributes:
        region: number of the memory region.
        bases: addresses of the tiles: top left, top right, bottom left, bottom right.
        height0: rows of the top left tile.
        height1: rows of the top right tile.
        width0: columns of the left tiles.
        depth: number of channels.
        strides: bytes from a row to the next, from a pixel to the next, from a brick to the next
            (in NHWC: from a channel to the next).
        zero_point: integer that stands for zero.
        dtype: type of an element.
        bricks: whether the layout is NHCWB16, 16 channels of a row's pixels at a time, not NHWC.
    """

    region: int
    bases: tuple[int, int, int, int]
    height0: int
    height1: int
    width0: int
    depth: int
    strides: tuple[int, int, int]
    zero_point: int
    dtype: np.dtype[Any]
    bricks: bool

    def read(self, memory: Memory, height: int, width: int) -> NDArray[Any]:
        """Return the stored elements, of shape (height, width, depth)."""
        check_size(height, width, self.depth)
        out = np.empty((height, width, self.depth), self.dtype)
        for base, rows, columns in self._tiles(height, width):
            part = out[rows, columns]
            tile_height, tile_width = part.shape[:2]
            for channels, address, depth in self._parts(base):
                read = memory.read(
                    self.region,
                    address,
                    (tile_height, tile_width, *depth),
                    self.dtype,
                    self._element_strides(len(depth)),
                )
                part[:, :, channels] = read.reshape(tile_height, tile_width, -1)
        return out

    def write(self, memory: Memory, values: NDArray[Any]) -> None:
        """Write elements of shape (height, width, depth); they must fit the type."""
        height, width, _ = values.shape
        stored = values.astype(self.dtype)
        for base, rows, columns in self._tiles(height, width):
            part = stored[rows, columns]
            for channels, address, depth in self._parts(base):
                block = part[:, :, channels].reshape(*part.shape[:2], *depth)
                memory.write(self.region, address, block, self._element_strides(len(depth)))

    def _tiles(self, height: int, width: int) -> Iterator[tuple[int, slice, slice]]:
        left, right = slice(0, min(width, self.width0)), slice(self.width0, width)
        yield self.bases[0], slice(0, min(height, self.height0)), left
        if width > self.width0:
            yield self.bases[1], slice(0, min(height, self.height1)), right
            if height > self.height1:
                yield self.bases[3], slice(self.height1, height), right
        if height > self.height0:
            yield self.bases[2], slice(self.height0, height), left

    def _parts(self, base: int) -> Iterator[tuple[slice, int, tuple[int, ...]]]:
        """Yield channels, their address and the axes that they are split into: bricks first."""
        if not self.bricks:
            yield slice(0, self.depth), base, (self.depth,)
            return
        full_bricks = self.depth // BRICK
        if full_bricks:
            yield slice(0, full_bricks * BRICK), base, (full_bricks, BRICK)
        if self.depth % BRICK:
            address = base + full_bricks * self.strides[2]
            yield slice(full_bricks * BRICK, self.depth), address, (self.depth % BRICK,)

    def _element_strides(self, axes_of_depth: int) -> tuple[int, ...]:
        rows, pixels, bricks = self.strides
        if axes_of_depth == 1:
            return rows, pixels, self.dtype.itemsize
        return rows, pixels, bricks, self.dtype.itemsize


def check_size(*shape: int) -> None:
    """Refuse what no accelerator's memory holds, before memory is allocated."""
    if math.prod(shape) > _MAX_ELEMENTS:
        raise StreamError(f"a feature map of {'x'.join(map(str, shape))} elements")


def input_map(registers: Registers) -> FeatureMap:
    """Return what the IFM registers describe."""
    return _from_registers(registers, "IFM", registers["IFM_DEPTH_M1"] + 1)


def second_input_map(registers: Registers, depth: int) -> FeatureMap:
    """Return what the IFM2 registers describe, but for the depth, which has no register."""
    return _from_registers(registers, "IFM2", depth)


def output_map(registers: Registers) -> FeatureMap:
    """Return what the OFM registers describe."""
    return _from_registers(registers, "OFM", registers["OFM_DEPTH_M1"] + 1)


def output_shape(registers: Registers) -> tuple[int, int, int]:
    """Return height, width and depth of the output."""
    return (
        registers["OFM_HEIGHT_M1"] + 1,
        registers["OFM_WIDTH_M1"] + 1,
        registers["OFM_DEPTH_M1"] + 1,
    )


def element_type(registers: Registers, name: str) -> np.dtype[Any]:
    """Return the type of an element of IFM, IFM2 or OFM."""
    precision = registers[f"{name}_PRECISION"]
    size = precision >> (1 if name == "OFM" else 2) & 0b11
    if size > 2:
        raise UnsupportedError(f"{name}_PRECISION {precision:#06x}: elements of 64 bits")
    return np.dtype(f"<{'iu'[not precision & 1]}{1 << size}")


def signed(value: int, bits: int = 16) -> int:
    """Read a number of `bits` bits in two's complement."""
    return value - (1 << bits) if value >> (bits - 1) else value


def number(value: int, dtype: np.dtype[Any]) -> int:
    """Return a register of 16 bits as a number, signed if the type is signed."""
    return signed(value) if dtype.kind == "i" else value


def _from_registers(registers: Registers, name: str, depth: int) -> FeatureMap:
    precision = registers[f"{name}_PRECISION"]
    layout = precision >> 6 & 0b11
    if layout not in (_NHWC, _NHCWB16):
        raise UnsupportedError(f"{name}_PRECISION {precision:#06x}: layout {layout}")
    dtype = element_type(registers, name)
    strides = (
        registers.signed_address(f"{name}_STRIDE_Y"),
        registers.signed_address(f"{name}_STRIDE_X"),
        registers.signed_address(f"{name}_STRIDE_C"),
    )
    bricks = layout == _NHCWB16
    if bricks and strides[1] != BRICK * dtype.itemsize:
        raise UnsupportedError(f"{name}_STRIDE_X {strides[1]} in a layout of bricks")
    if not bricks and depth > 1 and strides[2] != dtype.itemsize:
        raise UnsupportedError(f"{name}_STRIDE_C {strides[2]}: channels that are not neighbours")
    base = f"{name}_BASE"
    return FeatureMap(
        region=registers[f"{name}_REGION"],
        bases=(
            registers.address(base + "0"),
            registers.address(base + "1"),
            registers.address(base + "2"),
            registers.address(base + "3"),
        ),
        height0=registers[f"{name}_HEIGHT0_M1"] + 1,
        height1=registers[f"{name}_HEIGHT1_M1"] + 1,
        width0=registers[f"{name}_WIDTH0_M1"] + 1,
        depth=depth,
        strides=strides,
        zero_point=number(registers[f"{name}_ZERO_POINT"], dtype),
        dtype=dtype,
        bricks=bricks,
    )
