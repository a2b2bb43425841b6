"""An NPU bundle in words and in JSON."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mbv3c.bundle import Bundle, damaged_parity
from mbv3c.targets.backend import Compiled, Description
from mbv3c.targets.ethos_u.manifest import NpuManifest, manifest_of
from mbv3c.targets.ethos_u.placement import costs
from mbv3c.targets.ethos_u.tuning.estimates import describe
from mbv3c.targets.ethos_u.vela import ESTIMATED, Cost, cost_json
from mbv3c.targets.ethos_u.verdict import sentences

_KIB = 1024
_MOST_NAMED = 12


def describe_compiled(compiled: Compiled, *, explain: bool) -> Description:
    """Say what `compile` made."""
    bundle, verdict = compiled.bundle, compiled.verdict
    manifest = manifest_of(bundle)
    npu, alternatives = manifest.npu, compiled.alternatives or {}
    document: dict[str, Any] = {
        "bundle": str(bundle.path),
        "target": manifest.target.name,
        "parity": verdict.to_json() if verdict else None,
        "cost": _without_layers(npu.cost),
        "knobs": npu.knobs.to_json(),
        "tuned": msgspec.to_builtins(npu.tuned),
        "random_inputs": bool(manifest.quantization and manifest.quantization.random_inputs),
        "on_cpu": [operator.to_json() for operator in npu.left_to_cpu],
    }
    lines: list[str] = []
    if explain:
        document["placement"] = [operator.to_json() for operator in npu.placement]
        document["layers"] = cost_json(npu.cost)["layers"]
        document["alternatives"] = {
            name: _without_layers(cost) for name, cost in alternatives.items()
        }
        lines += [*_table(manifest), "", *costs(npu.left_to_cpu)]
        lines += [*_comparison(npu.cost, alternatives), ""]
    lines.append(f"{bundle.path}: {manifest.target.name} {manifest.precision}")
    lines += [*_summary(manifest), *_tuned(manifest), *_left(manifest)]
    if not npu.feasible:
        lines.append("the SRAM asked for was overshot")
    lines += verdict.lines() if verdict else ["parity: not checked (--no-verify)"]
    return Description(lines, document)


def describe_bundle(bundle: Bundle) -> Description:
    """Say what a bundle is."""
    manifest = manifest_of(bundle)
    keys = ("model", "target", "precision", "input", "outputs", "host", "npu", "parity")
    document = {key: msgspec.to_builtins(getattr(manifest, key)) for key in keys}
    document["npu"]["cost"] = cost_json(manifest.npu.cost)
    document["npu"]["placement"] = [operator.to_json() for operator in manifest.npu.placement]
    document["calibration"] = _calibration(manifest)
    return Description(list(_lines(bundle, manifest)), document)


def _calibration(manifest: NpuManifest) -> dict[str, Any]:
    """Say what a model was quantized by, if it was not quantized when it came."""
    made = manifest.quantization
    if made is None:
        return {"source": "the model as given, which is quantized", "random_inputs": False}
    return {
        "source": made.calibration,
        "random_inputs": made.random_inputs,
        "calibrated_on": made.calibrated_on,
        "method": made.method,
    }


def _lines(bundle: Bundle, manifest: NpuManifest) -> Iterator[str]:
    target, npu = manifest.target, manifest.npu
    yield (
        f"{bundle.path}: {manifest.model.name} for {target.name} ({target.macs} MACs, "
        f"{target.clock_mhz} MHz, {target.memory_mode}), {manifest.precision}"
    )
    yield f"calibrated on {_calibration(manifest)['source']}\n"
    yield from _table(manifest)
    yield ""
    for kind, ends in (("input", npu.inputs), ("output", npu.outputs)):
        for end in ends:
            yield (
                f"{kind} {end.name}: int8 {'x'.join(map(str, end.shape))} (NHWC), scale "
                f"{end.scale:.6g}, zero point {end.zero_point}, region {end.region} at "
                f"{end.offset}"
            )
    yield from _summary(manifest)
    yield from _tuned(manifest)
    yield from _left(manifest)
    parity = manifest.parity
    try:
        yield from sentences(parity) if parity else ["parity: not checked"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged_parity(bundle) from error


def _without_layers(cost: Cost) -> dict[str, Any]:
    return {key: value for key, value in cost_json(cost).items() if key != "layers"}


def _table(manifest: NpuManifest) -> Iterator[str]:
    """List every operator, where it is computed, and vela's estimate of its cycles."""
    cycles: dict[str, int] = {}
    for layer in manifest.npu.cost.layers:
        name = layer.name.partition("/")[0]
        cycles[name] = cycles.get(name, 0) + layer.cycles
    placement = manifest.npu.placement
    wide = max(len(operator.name) for operator in placement) + 2
    yield f"{'operator':<{wide}}{'kind':<12}{'on':<5}{'cycles, ' + ESTIMATED:>28}"
    for operator in placement:
        count = f"{cycles[operator.name]:,}" if operator.name in cycles else "with another"
        if operator.on == "cpu":
            count = operator.why or "at an end"
        yield f"{operator.name:<{wide}}{operator.operator:<12}{operator.on:<5}{count:>28}"


def _comparison(own: Cost, alternatives: Mapping[str, Cost]) -> Iterator[str]:
    """Compare the choice that was made with others."""
    yield f"{'choice':<16}{'cycles':>14}{'':>9}{'SRAM':>12}{'':>9}   {ESTIMATED}"
    for name, cost in {"as compiled": own, **alternatives}.items():
        cycles, sram = "", ""
        if cost is not own:
            cycles = _change(cost.cycles, own.cycles)
            sram = _change(cost.sram_bytes, own.sram_bytes)
        yield (
            f"{name:<16}{cost.cycles:>14,}{cycles:>9}{cost.sram_bytes / _KIB:>8.0f} KiB{sram:>9}"
        )


def _change(after: int, before: int) -> str:
    return f"{after / before - 1:+.1%}" if before else ""


def _summary(manifest: NpuManifest) -> Iterator[str]:
    cost = manifest.npu.cost
    on_cpu = sum(operator.on == "cpu" for operator in manifest.npu.placement)
    yield (
        f"{ESTIMATED}: {cost.cycles:,} cycles ({cost.milliseconds:.2f} ms), SRAM "
        f"{cost.sram_bytes / _KIB:.0f} KiB, DRAM {cost.dram_bytes / _KIB:.0f} KiB, flash "
        f"{cost.flash_bytes / _KIB:.0f} KiB; {on_cpu} operators on the CPU"
    )


def _tuned(manifest: NpuManifest) -> Iterator[str]:
    """Say that the choice comes from a tuning database, and what it is better than."""
    npu = manifest.npu
    if npu.tuned is None:
        return
    yield (
        f"tuned: {describe(npu.knobs)}; without tuning {npu.tuned.default_cycles:,} cycles, SRAM "
        f"{npu.tuned.default_sram_bytes / _KIB:.0f} KiB (--tune-logs none)"
    )


def _left(manifest: NpuManifest) -> Iterator[str]:
    """Say what stays on the CPU, why, what it costs and what would change that."""
    left = manifest.npu.left_to_cpu
    reasons: dict[tuple[str, str], list[str]] = {}
    for operator in left:
        named = f"{operator.operator} ({operator.name})"
        reasons.setdefault((operator.why or "", operator.change or ""), []).append(named)
    where = f"in {manifest.host}" if manifest.host else "on the CPU"
    for (why, change), names in reasons.items():
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield (f"{where}, {why}: {', '.join(names[:_MOST_NAMED])}{more}; to change that, {change}")
    if left:
        moved = sum(operator.bytes_from_npu or 0 for operator in left)
        yield f"the NPU hands {moved:,} bytes an inference to what stays on the CPU"
