"""What other commands would have printed about a bundle, made of its manifest."""

import json
from pathlib import Path
from typing import Any

from mbv3c.manifest import manifest_digest


def bundle_manifest(bundle: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return read


def bench(bundle: Path) -> dict[str, Any]:
    """Return a timed profile in which every call takes a microsecond."""
    kernels = bundle_manifest(bundle)["kernels"]
    calls = [
        {key: call[key] for key in ("kernel", "kind", "nodes", "madds")}
        | {"us": 1.0, "gflops": call["madds"] / 500, "share": 1 / len(kernels)}
        for call in kernels
    ]
    return {
        "bundle": str(bundle),
        "bundle_sha256": manifest_digest(bundle),
        "median_ms": 0.5,
        "min_ms": 0.4,
        "against": "onnxruntime",
        "against_median_ms": 1.0,
        "against_min_ms": 0.9,
        "ratio": 0.5,
        "ratio_quartiles": [0.49, 0.51],
        "runs": 200,
        "interruptions": 0,
        "undisturbed": True,
        "threads": 1,
        "instructions": None,
        "classes": None,
        "estimated_cycles": None,
        "cpu": "a processor",
        "emulated": False,
        "versions": {"onnxruntime": "1.32"},
        "kernels": calls,
    }


def on_device(bundle: Path, *, ran_on: str, name: str = "big") -> dict[str, Any]:
    """Return what a device with two clusters said, which tells all that one can."""
    energy = [{"sensor": "vdd_5v (ina226, hwmon0)", "millijoules": 30.125, "watts": 4.25}]
    spread = {"median_ms": 7.125, "p90_ms": 7.25, "p99_ms": 7.5, "min_ms": 7.0, "max_ms": 9.5}
    ours = {"spread": spread | {"runs": 200}, "memory_bytes": 12 << 20, "energy": energy}
    slow = spread | {"median_ms": 9.5, "p99_ms": None, "runs": 200}
    theirs = {"spread": slow, "memory_bytes": 48 << 20, "energy": []}
    row = {
        "cluster": name,
        "cpus": [2, 3],
        "threads": 2,
        "ours": ours,
        "theirs": theirs,
        "ratio": {"median": 0.75, "quartiles": [0.74, 0.76]},
        "undisturbed": True,
        "mhz": [1800.0, 2400.0],
        "celsius": [48.0, 53.0],
        "throttled": False,
    }
    little = {
        **row,
        "cluster": "little",
        "cpus": [0],
        "threads": 1,
        "theirs": None,
        "ratio": None,
        "ours": ours | {"spread": slow},
    }
    window = {"spread": spread | {"runs": 99}, "celsius": 71.0, "mhz": 1800.0, "throttled": True}
    long = {
        "minutes": 10.0,
        "cluster": name,
        "threads": 2,
        "energy": energy,
        "windows": [{"seconds": 20.0 * at, **window} for at in (1, 2, 3)],
        "first_ms": 7.0,
        "last_ms": 7.7,
    }
    return {
        "bundle": str(bundle),
        "bundle_sha256": manifest_digest(bundle),
        "ran_on": ran_on,
        "machine": None,
        "configurations": [row, little],
        "sustained": long,
        "versions": {"onnxruntime": "1.32.0"},
        "missing": ["clock: its system does not tell"],
    }


def counted(bundle: Path) -> dict[str, Any]:
    """Return a counted profile in which every kernel takes 100 instructions and 50 cycles."""
    names = list(dict.fromkeys(call["kernel"] for call in bundle_manifest(bundle)["kernels"]))
    kernels = [
        {"kernel": name, "kind": "pointwise", "calls": 1, "nodes": ["n"], "madds": 400}
        | {"instructions": 100, "share": 1 / len(names), "estimated_cycles": 50}
        for name in names
    ]
    plain = dict.fromkeys(("median_ms", "min_ms", "against", "ratio", "runs"))
    cycles = {"total": 50 * len(names), "model": "llvm-mca 19", "left_out": 0}
    return (
        bench(bundle)
        | plain
        | {
            "emulated": True,
            "cpu": "cortex-a76",
            "instructions": 100 * len(names),
            "estimated_cycles": cycles,
            "kernels": kernels,
        }
    )


def top(count: int, of: int) -> dict[str, Any]:
    each = {"share": count / of, "low": 0.1, "high": 0.9, "count": count, "of": of}
    return {"top1": each, "top5": each}


def accuracy(bundle: Path, folder: Path, names: list[str]) -> dict[str, Any]:
    """Return a measurement in which some images have another best class."""
    differing = [
        {"file": name, "label": 1, "given": [1, 0], "bundle": [0, 1], "lead": 1e-3}
        for name in names
    ]
    return {
        "bundle": str(bundle),
        "bundle_sha256": manifest_digest(bundle),
        "ran_on": "this machine",
        "folder": str(folder),
        "images": 10,
        "chosen": 10,
        "read": 10,
        "broken": 0,
        "differing": len(names),
        "labels": "the folders' names",
        "class_names": ["cat", "<b>dog</b>"],
        "accuracy": {"given": top(9, 10), "bundle": top(8, 10)},
        "agreement": {"given": top(8, 10)},
        "difference": {"given": {"top1": {"share": -0.1, "low": -0.3, "high": 0.1}}},
        "first_differing": differing,
    }


QUANTIZE = {
    "model": "q.onnx",
    "calibration": "8 files",
    "random_inputs": False,
    "method": "minmax",
    "outputs": [{"name": "y", "cosine": 0.99, "snr_db": 20.0}],
    "layers": [
        {"name": "stem", "operators": ["Conv"], "alone_snr_db": 21.5, "alone_cosine": 0.99}
        | {"kept_float": None}
    ],
}
SEARCH = {
    "target": "arm_cpu:cortex-a76",
    "precision": "int8",
    "aim": {"resource": "instructions", "target": 300.0, "weight": None},
    "front": [
        {"name": "n1", "series": "searched", "on_front": True}
        | {"values": {"accuracy": 0.9, "instructions": 200.0, "memory": 1024.0}}
        | {"intervals": {"accuracy": {"share": 0.9, "low": 0.88, "high": 0.92}}},
        {"name": "<i>n2</i>$x$", "series": "small, width", "on_front": False}
        | {"values": {"accuracy": 0.8, "instructions": 250.0, "memory": 2048.0}},
    ],
    "judged_on": {"part": "test", "images": 1000},
    "beats_widths": True,
    "verdict": "1 of 1 finalists beat the widths.",
}
SWEEP = {
    "combinations": [
        {"network": "small", "target": "host_cpu:native", "precision": "fp32", "kind": "measured"}
        | {"resources": {"us": 100.0, "memory": 4096.0}, "on_front": False, "refused": ""},
        {"network": "wide", "target": "host_cpu:native", "precision": "fp32", "kind": ""}
        | {"resources": {}, "refused": "too wide"},
    ]
}
