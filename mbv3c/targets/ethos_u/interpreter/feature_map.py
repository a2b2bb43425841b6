"""Feature maps as registers describe them: up to four tiles, rows of pixels or bricks of channels.

The fields come from vela's `npu_set_ifm_precision_t` and `npu_set_ofm_precision_t`; the addresses
from `generate_ifm`, `generate_tiles` and `get_strides` in its
`register_command_stream_generator.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbv3c.targets.ethos_u.interpreter.memory import Memory
from mbv3c.targets.ethos_u.interpreter.program import (
    Registers,
    StreamError,
    UnsupportedError,
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
