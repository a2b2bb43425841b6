"""The kernels and the memory of a bundle as tables of text."""

from typing import Any

_FALLBACK = "fallback"
_TUNED = "tuned"  # of the origins of knobs


def kernel_lines(kernels: list[dict[str, Any]]) -> list[str]:
    """Return one line per kernel call of a manifest, and what no kernel of ours covers."""
    wide = max((len(one["kernel"]) for one in kernels), default=0) + 2
    lines = [f"{'kernel':<{wide}}{'multiply-adds':>14}{'KiB moved':>11}  covers"]
    for one in kernels:
        nodes = ", ".join(one["nodes"]) or "(layout)"
        knobs = ", ".join(f"{name} {value}" for name, value in one["knobs"].items())
        knobs += "; tuned" if one.get("origin") == _TUNED else ""
        shown = f"{nodes} [{knobs}]" if knobs else nodes
        lines.append(
            f"{one['kernel']:<{wide}}{one['madds']:>14,}{one['bytes'] / 1024:>11,.0f}  {shown}"
        )
    total = sum(one["madds"] for one in kernels)
    lines.append(f"{'total':<{wide}}{total:>14,}  in {len(kernels)} calls")
    fallen = dict.fromkeys(
        node for one in kernels if one["kind"] == _FALLBACK for node in one["nodes"]
    )
    if fallen:
        lines.append(
            f"compiled by TVM's own operators, by a general schedule: {', '.join(fallen)}"
        )
    return lines


def memory_lines(memory: dict[str, Any]) -> list[str]:
    """Return what a manifest says of memory: sums, then one line per value."""
    bound = memory["arena_lower_bound"]
    ratio = memory["arena_bytes"] / bound if bound else 1.0
    lines = [
        f"weights: {memory['weight_bytes']:,} bytes, packed",
        f"activation arena: {memory['arena_bytes']:,} bytes in {len(memory['arena_blocks'])} "
        f"blocks, {ratio:.2f} times the largest sum of values alive at once ({bound:,})",
        f"{'value':<44}{'bytes':>12}{'block':>7}{'alive in calls':>16}",
    ]
    lines += [
        f"{one['value']:<44}{one['bytes']:>12,}{one['block']:>7}"
        f"{str(one['first']) + '-' + str(one['last']):>16}"
        for one in memory["values"]
    ]
    return lines
