"""An NPU bundle in words and in JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbv3c.targets.ethos_u.options import Knobs
from mbv3c.targets.ethos_u.tuning.estimates import describe
from mbv3c.targets.ethos_u.vela import ESTIMATED, cost_json

if TYPE_CHECKING:
    # It needs the NPU's tools, and what a bundle says of itself does not.
    from mbv3c.targets.ethos_u.backend import NpuCompiled

_KIB = 1024


def compiled_json(compiled: "NpuCompiled", *, explain: bool) -> dict[str, Any]:
    """Return what `compile` prints as JSON."""
    manifest = compiled.manifest
    document = {
        "bundle": str(compiled.path),
        "target": manifest["target"]["name"],
        "parity": manifest["parity"],
        "cost": {key: value for key, value in _cost(manifest).items() if key != "layers"},
        "knobs": manifest["npu"]["knobs"],
        "tuned": manifest["npu"]["tuned"],
        "random_inputs": manifest["calibration"]["random_inputs"],
        "on_cpu": [one for one in manifest["npu"]["placement"] if "why" in one],
    }
    if explain:
        document["placement"] = manifest["npu"]["placement"]
        document["layers"] = _cost(manifest)["layers"]
        document["alternatives"] = {
            name: {key: value for key, value in cost_json(cost).items() if key != "layers"}
            for name, cost in compiled.alternatives.items()
        }
    return document


def compiled_lines(compiled: "NpuCompiled", *, explain: bool) -> Iterator[str]:
    """Say what `compile` has made."""
    manifest = compiled.manifest
    if explain:
        yield from _table(manifest)
        yield ""
        yield from _comparison(compiled)
        yield ""
    yield f"{compiled.path}: {manifest['target']['name']} {manifest['precision']}"
    yield _summary(manifest)
    yield from _tuned(manifest)
    yield from _left(manifest)
    if not manifest["npu"]["feasible"]:
        yield "the SRAM asked for was overshot"
    parity = manifest["parity"]
    yield from sentences(parity) if parity else ["parity: not checked (--no-verify)"]


def sentences(parity: dict[str, Any]) -> list[str]:
    """Say a verdict, as its JSON form has it, in lines."""
    top = [parity[key] for key in ("top1_agreement", "top5_agreement")]
    agreement = "" if top[0] is None else f", top-1 agreement {top[0]:.0%}, top-5 {top[1]:.0%}"
    alone = parity["operators_alone"]
    streams = {
        True: f"bit-equal on {parity['stream_inputs']} inputs, interpreted",
        False: f"DIFFERS: {parity['stream_error']}",
        None: f"NOT CHECKED: {parity['stream_not_checked']}",
    }
    return [
        f"parity: {'passed' if parity['passed'] else 'MISSED'} on {parity['ran_on']}",
        f"  fp32 (onnxruntime, model as given) against QDQ: cosine {parity['cosine']:.5f} at least"
        f"{agreement}, over {len(parity['inputs'])} inputs",
        f"  QDQ (onnxruntime) against TOSA: {parity['qdq_against_tosa_lsb']} LSB at most "
        f"(allowed {parity['qdq_against_tosa_allowed_lsb']:.0f})",
        f"  the same, each of {alone['count']} operators by itself: {alone['lsb']} LSB at most "
        f"(allowed {alone['allowed_lsb']}), in {alone['worst']}"
        f"{'' if parity['same_tosa'] else '; the TOSA file is NOT what QDQ lowers to'}",
        f"  TOSA against the command stream: {streams[parity['stream_bit_equal']]}",
        *_on_host(parity["host"]),
    ]


def _on_host(host: dict[str, Any] | None) -> Iterator[str]:
    if host is None:
        return
    error, cosine = (
        "not finite" if host[key] is None else format(host[key], form)
        for key, form in (("max_error_of_range", ".1e"), ("cosine", ".5f"))
    )
    yield (
        f"  host.onnx, on the CPU: {error} of the range from QDQ on the same integers"
        f"{'' if host['same'] else '; it is NOT what QDQ leaves to the CPU'}; behind the NPU's "
        f"part, cosine {cosine} to fp32 at least"
    )


def inspected_json(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what `inspect` prints of a bundle as JSON."""
    keys = ("model", "target", "precision", "input", "outputs", "host", "calibration", "npu")
    return {key: manifest[key] for key in (*keys, "parity")}


def inspected_lines(path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Say what a bundle is."""
    target, npu = manifest["target"], manifest["npu"]
    yield (
        f"{path}: {manifest['model']['name']} for {target['name']} ({target['macs']} MACs, "
        f"{target['clock_mhz']} MHz, {target['memory_mode']}), {manifest['precision']}"
    )
    yield f"calibrated on {manifest['calibration']['source']}\n"
    yield from _table(manifest)
    yield ""
    for kind in ("inputs", "outputs"):
        for end in npu[kind]:
            yield (
                f"{kind[:-1]} {end['name']}: int8 {'x'.join(map(str, end['shape']))} (NHWC), "
                f"scale {end['scale']:.6g}, zero point {end['zero_point']}, region "
                f"{end['region']} at {end['offset']}"
            )
    yield _summary(manifest)
    yield from _tuned(manifest)
    yield from _left(manifest)
    parity = manifest["parity"]
    yield from sentences(parity) if parity else ["parity: not checked"]


def _cost(manifest: dict[str, Any]) -> dict[str, Any]:
    cost: dict[str, Any] = manifest["npu"]["cost"]
    return cost


def _table(manifest: dict[str, Any]) -> Iterator[str]:
    """List every operator, where it is computed, and vela's estimate of its cycles."""
    cycles: dict[str, int] = {}
    for layer in _cost(manifest)["layers"]:
        name = layer["name"].partition("/")[0]
        cycles[name] = cycles.get(name, 0) + layer["cycles"]
    placement = manifest["npu"]["placement"]
    wide = max(len(one["name"]) for one in placement) + 2
    yield f"{'operator':<{wide}}{'kind':<12}{'on':<5}{'cycles, ' + ESTIMATED:>28}"
    for one in placement:
        count = f"{cycles[one['name']]:,}" if one["name"] in cycles else "with another"
        if one["on"] == "cpu":
            count = one.get("why", "at an end")
        yield f"{one['name']:<{wide}}{one['operator']:<12}{one['on']:<5}{count:>28}"


def _comparison(compiled: "NpuCompiled") -> Iterator[str]:
    """Compare the choice that was made with others."""
    own = _cost(compiled.manifest)
    rows = {"as compiled": own}
    rows |= {name: cost_json(cost) for name, cost in compiled.alternatives.items()}
    yield f"{'choice':<16}{'cycles':>14}{'':>9}{'SRAM':>12}{'':>9}   {ESTIMATED}"
    for name, cost in rows.items():
        yield (
            f"{name:<16}{cost['cycles']:>14,}{_change(cost, own, 'cycles'):>9}"
            f"{cost['sram_bytes'] / _KIB:>8.0f} KiB{_change(cost, own, 'sram_bytes'):>9}"
        )


def _change(cost: dict[str, Any], own: dict[str, Any], key: str) -> str:
    return "" if cost is own or not own[key] else f"{cost[key] / own[key] - 1:+.1%}"


def _summary(manifest: dict[str, Any]) -> str:
    cost = _cost(manifest)
    on_cpu = sum(one["on"] == "cpu" for one in manifest["npu"]["placement"])
    kib = {key: cost[f"{key}_bytes"] / _KIB for key in ("sram", "dram", "flash")}
    return (
        f"{ESTIMATED}: {cost['cycles']:,} cycles ({cost['milliseconds']:.2f} ms), SRAM "
        f"{kib['sram']:.0f} KiB, DRAM {kib['dram']:.0f} KiB, flash {kib['flash']:.0f} KiB; "
        f"{on_cpu} operators on the CPU"
    )


def _tuned(manifest: dict[str, Any]) -> Iterator[str]:
    """Say that the choice comes from a tuning database, and what it is better than."""
    npu = manifest["npu"]
    tuned = npu.get("tuned")
    if tuned is None:
        return
    knobs = describe(Knobs(**npu["knobs"]))
    yield (
        f"tuned: {knobs}; without tuning {tuned['default_cycles']:,} cycles, SRAM "
        f"{tuned['default_sram_bytes'] / _KIB:.0f} KiB (--tune-logs none)"
    )


def _left(manifest: dict[str, Any]) -> Iterator[str]:
    """Say what stays on the CPU, and why."""
    reasons: dict[str, list[str]] = {}
    for one in manifest["npu"]["placement"]:
        if "why" in one:
            reasons.setdefault(one["why"], []).append(f"{one['operator']} ({one['name']})")
    for why, named in reasons.items():
        more = f" and {len(named) - 12} more" if len(named) > 12 else ""
        yield f"in {manifest['host']}, {why}: {', '.join(named[:12])}{more}"
