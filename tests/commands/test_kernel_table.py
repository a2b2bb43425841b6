from mbv3c.commands.kernel_table import kernel_lines, memory_lines

KERNELS = [
    {"kernel": "pointwise_1", "kind": "pointwise", "nodes": ["a", "b"], "madds": 1200,
     "bytes": 4096, "knobs": {"rows": 6}},
    {"kernel": "transpose_1", "kind": "transpose", "nodes": [], "madds": 0, "bytes": 2048,
     "knobs": {}},
    {"kernel": "fallback_1", "kind": "fallback", "nodes": ["resize"], "madds": 0, "bytes": 1024,
     "knobs": {"operator": "resize2d"}},
    {"kernel": "fallback_2", "kind": "fallback", "nodes": ["resize"], "madds": 0, "bytes": 1024,
     "knobs": {}},
]  # fmt: skip
MEMORY = {
    "weight_bytes": 5000,
    "arena_bytes": 1300,
    "arena_lower_bound": 1000,
    "arena_blocks": [1000, 300],
    "values": [{"value": "x", "block": 1, "bytes": 256, "first": 2, "last": 5}],
}


def test_kernels_and_what_fell_back() -> None:
    lines = kernel_lines(KERNELS)
    assert lines[1].split() == ["pointwise_1", "1,200", "4", "a,", "b", "[rows", "6]"]
    assert "(layout)" in lines[2]
    assert lines[-2].split() == ["total", "1,200", "in", "4", "calls"]
    assert lines[-1].endswith("general schedule: resize")


def test_tuned_kernels_are_marked() -> None:
    tuned = [one | {"origin": "tuned"} for one in KERNELS[:1]]
    by_rule = [one | {"origin": "default"} for one in KERNELS[:1]]
    assert kernel_lines(tuned)[1].endswith("a, b [rows 6; tuned]")
    assert kernel_lines(by_rule)[1].endswith("a, b [rows 6]")


def test_nothing_is_said_of_fallbacks_without_one() -> None:
    assert "general schedule" not in "\n".join(kernel_lines(KERNELS[:2]))


def test_memory() -> None:
    lines = memory_lines(MEMORY)
    assert "1,300 bytes in 2 blocks, 1.30 times" in lines[1]
    assert lines[-1].split() == ["x", "256", "1", "2-5"]


def test_memory_of_a_network_without_values() -> None:
    lines = memory_lines(MEMORY | {"arena_bytes": 0, "arena_lower_bound": 0, "values": []})
    assert "1.00 times" in lines[1]
