"""Orders of weights and records of scales, against vela's own encoders."""

import numpy as np
import pytest
from ethosu import mlw_codec
from ethosu.vela.weight_compressor import encode_bias
from hypothesis import given, settings
from hypothesis import strategies as st

from mbv3c.targets.ethos_u.interpreter.program import StreamError
from mbv3c.targets.ethos_u.interpreter.weights import (
    RECORD_BYTES,
    Ordering,
    WeightDecoder,
    arrange,
    positions_in_stream,
    read_kernel,
    read_scales,
)


@st.composite
def orderings(draw: st.DrawFn) -> Ordering:
    depthwise = draw(st.booleans())
    outputs, height, width = (
        draw(st.integers(1, 50)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
    )
    return Ordering(
        shape=(outputs, height, width, 1 if depthwise else draw(st.integers(1, 70))),
        depthwise=depthwise,
        part_kernel_first=not depthwise and draw(st.booleans()),
        input_bits=draw(st.sampled_from([8, 16])),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        block_depth=8 * draw(st.integers(1, 5)),
        ofm_ublock_depth=draw(st.sampled_from([4, 8])),
        ifm_ublock_depth=8,
    )


def encoded(kernel: np.ndarray, ordering: Ordering) -> bytes:
    stream, _ = mlw_codec.reorder_encode(
        ordering.ifm_ublock_depth,
        ordering.ofm_ublock_depth,
        kernel,
        ordering.block_depth,
        ordering.depthwise,
        ordering.part_kernel_first,
        ordering.input_bits,
        8 // ordering.dilation[0],
        8 // ordering.dilation[1],
    )
    return bytes(stream)


@settings(max_examples=60, deadline=None)
@given(ordering=orderings(), seed=st.integers(0, 99))
def test_kernels_are_put_back_as_vela_took_them(ordering: Ordering, seed: int) -> None:
    kernel = np.random.default_rng(seed).integers(-255, 256, ordering.shape).astype(np.int16)
    stream = np.array(mlw_codec.decode(bytearray(encoded(kernel, ordering))), np.int16)
    np.testing.assert_array_equal(arrange(stream, ordering), kernel)


@settings(max_examples=40, deadline=None)
@given(ordering=orderings())
def test_every_weight_has_one_place(ordering: Ordering) -> None:
    positions = positions_in_stream(ordering)
    places = np.sort(positions[positions >= 0])
    np.testing.assert_array_equal(places, np.arange(np.prod(ordering.shape)))


ORDERING = Ordering((8, 3, 3, 5), False, False, 8, (1, 1), 8, 8, 8)


def test_streams_of_another_length_are_refused() -> None:
    weights = np.zeros(len(positions_in_stream(ORDERING)), np.int16)
    arrange(weights, ORDERING)
    for wrong in (weights[:-1], np.append(weights, weights[:1]), weights[:9]):
        with pytest.raises(StreamError, match=r"holds \d+ weights; a kernel of 8x3x3x5 takes"):
            arrange(wrong, ORDERING)


def test_weights_beyond_the_edge_are_refused() -> None:
    weights = np.where(positions_in_stream(ORDERING) < 0, 1, 0).astype(np.int16)
    with pytest.raises(StreamError, match="beyond the edge"):
        arrange(weights, ORDERING)


def test_corrupt_streams_are_refused_and_the_next_one_is_read() -> None:
    kernel = np.random.default_rng(0).integers(-127, 128, ORDERING.shape).astype(np.int16)
    stream = encoded(kernel, ORDERING)
    with WeightDecoder() as decoder:
        for broken in (stream[: len(stream) // 2], b"\x00" * 64, bytes(range(200))):
            with pytest.raises(StreamError, match=r"weight stream|holds"):
                read_kernel(broken, ORDERING, decoder, {})
        np.testing.assert_array_equal(read_kernel(stream, ORDERING, decoder, {}), kernel)


@given(
    records=st.lists(
        st.tuples(
            st.integers(-(1 << 39), (1 << 39) - 1),
            st.integers(0, (1 << 32) - 1),
            st.integers(0, 63),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_scales_are_read_as_vela_packed_them(records: list[tuple[int, int, int]]) -> None:
    packed = b"".join(bytes(encode_bias(np.int64(bias), *rest)) for bias, *rest in records)
    scales = read_scales(np.frombuffer(packed + b"\xff" * 6, np.uint8), len(records))
    read = list(zip(scales.bias, scales.scale, scales.shift, strict=True))
    assert read == records


def test_broken_scales_are_refused() -> None:
    with pytest.raises(StreamError, match="15 bytes of scales for 2 channels"):
        read_scales(np.zeros(15, np.uint8), 2)
    record = np.zeros(RECORD_BYTES, np.uint8)
    record[-1] = 0x40
    with pytest.raises(StreamError, match="unused bits"):
        read_scales(record, 1)
