import re
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbv3c.graphs.blocks import read_architecture
from mbv3c.graphs.skeleton import skeleton
from mbv3c.passes.fold_batchnorm import FoldBatchNorm
from mbv3c.search.channels import Channels, sites
from mbv3c.search.prune import Cutter, gate_channels
from tests.onnx_text import graph, random
from tests.search.networks import NETWORKS, around, network, outputs


def silenced(model: onnx.ModelProto, unread: Mapping[str, list[int]]) -> onnx.ModelProto:
    """Return a model in which nothing reads some channels of groups, by the groups' names."""
    channels = Channels(model)
    copy = channels.ties.model
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, indices in unread.items():
        for layer in channels.read[channels.names[name]]:
            array = numpy_helper.to_array(stored[layer.weight]).copy()
            rows = np.moveaxis(array, layer.read.axis, 0)
            rows = rows.reshape(-1, layer.read.inner, *rows.shape[1:])
            assert rows.base is not None  # a view: what is written here is in the array
            rows[indices] = 0
            stored[layer.weight].CopyFrom(numpy_helper.from_array(array, layer.weight))
    return copy


def dropped(model: onnx.ModelProto, keep: Mapping[str, int]) -> dict[str, list[int]]:
    """Draw which channels go: of sites down to so many, and of their gates in proportion."""
    random, channels = np.random.default_rng(1), Channels(model)
    found: dict[str, list[int]] = {}
    for site in sites(model):
        if site.name in keep:
            left = [(site.name, site.channels, keep[site.name])]
            for gate in site.gates:
                now = channels.group(gate).channels
                left.append((gate, now, gate_channels(now, keep[site.name], site.channels)))
            for name, now, count in left:
                found[name] = sorted(random.permutation(now)[: now - count].tolist())
    return found


def check_oracle(model: onnx.ModelProto, keep: Mapping[str, int]) -> onnx.ModelProto:
    """Cut what nothing reads: the strongest are the others, and the output is what it was."""
    gone = dropped(model, keep)
    quiet = silenced(model, gone)
    cutter = Cutter(quiet)
    kept = {s: cutter.strongest(s, keep[s.name]) for s in cutter.sites if s.name in keep}
    for site, indices in kept.items():
        assert indices == [each for each in range(site.channels) if each not in gone[site.name]]
    small = cutter.cut(kept)
    for seed in (0, 1):
        wanted, got = outputs(quiet, seed), outputs(small, seed)
        assert np.ptp(wanted) > 0
        assert np.abs(got - wanted).max() <= 1e-5 * np.ptp(wanted)
    assert {s.name: s.channels for s in sites(small) if s.name in keep} == dict(keep)
    return small


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_of_what_nothing_reads_changes_nothing(name: str) -> None:
    odd = {site.name: site.channels // 2 | 1 for site in sites(network(name))}
    check_oracle(network(name), odd)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_site_can_be_cut_by_itself(name: str) -> None:
    cutter = Cutter(network(name))
    for site in cutter.sites:
        small = cutter.narrower(site, site.channels - 3)
        onnx.checker.check_model(small, full_check=True)
        counts = {each.name: each.channels for each in sites(small)}
        wanted = {each.name: each.channels for each in cutter.sites}
        assert counts == wanted | {site.name: site.channels - 3}
        assert np.isfinite(outputs(small)).all()


def test_what_was_cut_can_be_cut_again() -> None:
    model = network("small")
    for count in (6, 5):
        cutter = Cutter(model)
        model = cutter.narrower(cutter.sites[0], count)
    assert sites(model)[0].channels == 5
    assert read_architecture(skeleton(model))[0].stem == 5


def test_other_channels_do_change_the_output() -> None:
    model = network("small")
    tail = next(site for site in sites(model) if site.kind == "tail")
    gone = list(range(100))
    quiet = silenced(model, {tail.name: gone})
    wrong = Cutter(quiet).cut({tail: list(range(tail.channels - 100))})
    assert np.abs(outputs(wrong) - outputs(quiet)).max() > 1e-2 * np.ptp(outputs(quiet))


def test_an_architecture_is_read_off_a_cut_network() -> None:
    model = network("small")
    cutter = Cutter(model)
    by_name = {site.name: site for site in cutter.sites}
    wanted = {"features.5.expand.conv": 48, "features.4.project.conv": 8, "classifier.0": 96}
    small = cutter.cut({by_name[n]: cutter.strongest(by_name[n], c) for n, c in wanted.items()})
    before, after = (read_architecture(skeleton(each))[0] for each in (model, small))
    assert before.blocks[4].expand == 88 and before.blocks[4].squeeze == 24
    assert after.blocks[4].expand == 48 and after.blocks[4].squeeze == gate_channels(24, 48, 88)
    assert [block.out for block in after.blocks[3:8]] == [8] * 5
    assert (before.hidden, after.hidden) == (360, 96)
    assert after.blocks[8:] == before.blocks[8:]


def test_the_middle_of_a_gate_follows_in_proportion() -> None:
    assert gate_channels(112, 288, 432) == 72  # 74.7, and 112 is a multiple of eight
    assert gate_channels(10, 24, 48) == 5
    assert gate_channels(8, 1, 88) == 8
    assert gate_channels(3, 1, 88) == 1


def test_folding_does_not_change_which_are_strongest() -> None:
    model = network("small")
    folded, report = FoldBatchNorm()(model)
    assert report.changed
    cutter, folded_cutter = Cutter(model), Cutter(folded)
    assert [site.kind for site in folded_cutter.sites] == [site.kind for site in cutter.sites]
    for site, other in zip(cutter.sites, folded_cutter.sites, strict=True):
        half = site.channels // 2
        assert cutter.strongest(site, half) == folded_cutter.strongest(other, half)


def test_constants_of_two_nodes_are_cut_in_one() -> None:
    """Exporters store equal statistics of BatchNormalizations once."""
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    model = around(
        """n = BatchNormalization(a, ones, zeros, zeros, ones)
           d = Conv(n, w1)
           b = BatchNormalization(d, ones, zeros, zeros, ones)""",
        w1=random(8, 8, 1, 1),
        ones=ones,
        zeros=zeros,
    )
    check_oracle(model, {"c": 5})
    check_oracle(model, {"c": 3, "d": 7})


FOREIGN = {
    "maps flattened for a Gemm": """(float[1,3,4,4] x) => (float[1,5] y) {
        a = Conv<strides=[2,2]>(x, w)
        r = Relu(a)  f = Flatten(r)  y = Gemm<transB=1>(f, v, k) }""",
    "Reshape with the size in it, and MatMul": """(float[1,3,4,4] x) => (float[1,5] y) {
        a = Conv<strides=[2,2]>(x, w)
        f = Reshape(a, s)  m = MatMul(f, t)  y = Add(m, k) }""",
    "channels last": """(float[1,3,4,4] x) => (float[1,5] y) {
        a = Conv<strides=[2,2]>(x, w)
        l = Transpose<perm=[0,2,3,1]>(a)  q = Mul(l, e)
        i = ReduceMean<axes=[1,2], keepdims=0>(q)  y = MatMul(i, z) }""",
    "padding, resizing, and a transposed convolution": """
        (float[1,3,4,4] x) => (float[1,5,4,4] y) {
        a = Conv<strides=[2,2]>(x, w)
        p = Pad(a, o)  u = Resize<mode="nearest">(p, , , h)  y = ConvTranspose(u, n) }""",
}
WEIGHTS = {
    "w": random(9, 3, 1, 1),
    "v": random(5, 36),
    "k": random(5),
    "s": np.array([1, 36]),
    "t": random(36, 5),
    "e": random(9),
    "z": random(9, 5),
    "o": np.array([0, 0, 0, 0, 0, 0, 0, 0]),
    "h": np.array([1, 9, 4, 4]),
    "n": random(9, 5, 1, 1),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_spellings_are_followed(case: str) -> None:
    text = f"g {FOREIGN[case]}"
    used = {name: array for name, array in WEIGHTS.items() if re.search(rf"[ (]{name}[,)]", text)}
    small = check_oracle(graph(text, **used), {"a": 4})
    assert sites(small)[0].channels == 4


def test_a_wrong_cut_is_refused() -> None:
    model = network("small")
    cutter = Cutter(model)
    stem, *others = cutter.sites
    for kept in ([], [1, 0], [0, 0], [7, 8], [-1, 2]):
        with pytest.raises(ValueError, match=stem.name):
            cutter.cut({stem: kept})
    with pytest.raises(ValueError, match="no site"):
        Cutter(network("mobilenet_v2")).cut({others[-1]: [0]})
