"""Write what shows a fault without mbv3c: the smallest model, its input, and a script."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import onnx

from mbv3c.atomic import new_folder
from mbv3c.errors import UsageError
from mbv3c.feeds import arrays_of, numbered_files, save_feed
from mbv3c.parity.ladder.stages import BEFORE, INPUT, LibraryStage, Shown, Stage
from mbv3c.parity.metrics import finite
from mbv3c.quoting import for_comment

SCRIPT, CULPRIT = "reproduce.py", "culprit.json"


_ERROR = """
error = np.abs(got.astype(np.float64) - wanted).max() / np.ptp(wanted.astype(np.float64))
print(f"max error {error:.3e} of range (allowed @allowed)")
sys.exit(not error <= @allowed)
"""

_BYTES = """
count = sum(a != b for a, b in zip(got, wanted)) + abs(len(got) - len(wanted))
print(f"{count} of {len(wanted)} bytes are not what vela gives")
sys.exit(count > 0)
"""


@dataclass(frozen=True)
class Script:
    """How a fault of a kind of stage is shown.

    Attributes:
        needs: the public packages that the script imports.
        head: how these are imported.
        body: gives `got`, what the stage makes of `x`, and `wanted`, what it should.
        end: says how far they are apart, and exits.
    """

    needs: str
    head: str
    body: str
    end: str = _ERROR


_ONNXRUNTIME = """

def onnxruntime(model):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(here / model), options, providers=["CPUExecutionProvider"])
    names = (value.name for value in session.get_inputs())
    return session.run(None, dict(zip(names, xs)))[0]


"""

SCRIPTS: dict[str, Script] = {
    "rewrite": Script(
        "numpy, onnxruntime",
        "import onnxruntime as ort\n",
        f'{_ONNXRUNTIME}wanted, got = onnxruntime("before.onnx"), onnxruntime("after.onnx")\n',
    ),
    "import": Script(
        "numpy, onnx, onnxruntime, apache-tvm",
        "import onnx\nimport onnxruntime as ort\nimport tvm\n"
        "from tvm import relax\nfrom tvm.relax.frontend.onnx import from_onnx\n",
        f'{_ONNXRUNTIME}wanted = onnxruntime("before.onnx")\n'
        'model = onnx.load(here / "before.onnx")\n'
        "opset = max(one.version for one in model.opset_import)\n"
        "module = from_onnx(model, opset=opset, keep_params_in_input=False)\n"
        'program = tvm.compile(module, target="llvm")\n'
        'got = relax.VirtualMachine(program, tvm.cpu())["main"](*map(tvm.runtime.tensor, xs))\n'
        "got = (got if isinstance(got, tvm.runtime.Tensor) else got[0]).numpy()\n",
    ),
    "library": Script(
        "numpy, onnxruntime, apache-tvm",
        "import onnxruntime as ort\nimport tvm\nfrom tvm import relax\n",
        f'{_ONNXRUNTIME}wanted = onnxruntime("before.onnx")\n'
        'library = tvm.runtime.load_module(str(here / "model.so"))\n'
        'main = relax.VirtualMachine(library, tvm.cpu())["main"]\n'
        "got = main(*map(tvm.runtime.tensor, xs)).numpy()\n",
    ),
    "opencl": Script(
        "numpy, onnxruntime, apache-tvm built with OpenCL",
        "import onnxruntime as ort\nimport tvm\nfrom tvm import relax\n",
        f'{_ONNXRUNTIME}wanted = onnxruntime("before.onnx")\n'
        'library = tvm.runtime.load_module(str(here / "model.so"))\n'
        "device = tvm.opencl(0)\n"
        'main = relax.VirtualMachine(library, device)["main"]\n'
        "got = main(*(tvm.runtime.tensor(x, device) for x in xs)).numpy()\n",
    ),
    "tosa": Script(
        "numpy, onnxruntime, tosa-tools",
        "import json\nimport onnxruntime as ort\nimport tosa_reference_model\n",
        f'{_ONNXRUNTIME}wanted = onnxruntime("before.onnx")\n'
        'first, last = json.loads((here / "ends.json").read_text()).values()\n'
        'q = np.rint(xs[0] / np.float32(first["scale"])) + first["zero_point"]\n'
        "q = np.ascontiguousarray(np.clip(q, -128, 127).astype(np.int8).transpose(0, 2, 3, 1))\n"
        '(made,), _ = tosa_reference_model.run((here / "part.tosa").read_bytes(), [q])\n'
        'got = (made.astype(np.float32) - last["zero_point"]) * np.float32(last["scale"])\n'
        'got = (got.transpose(0, 3, 1, 2) if got.ndim == 4 else got).reshape(last["shape"])\n',
    ),
    "stream": Script(
        "numpy, ethos-u-vela",
        "import json\nimport subprocess\nimport tempfile\n",
        "\n\ndef stream(folder):\n"
        '    with np.load(Path(folder) / "part_vela.npz") as file:\n'
        '        return file["cmd_data"].tobytes() + file["weight_data"].tobytes()\n\n\n'
        'options = json.loads((here / "vela.json").read_text())\n'
        'command = [sys.executable, "-m", "ethosu.vela", str(here / "part.tosa"), *options]\n'
        "with tempfile.TemporaryDirectory() as folder:\n"
        '    command += ["--output-dir", folder, "--output-format", "raw"]\n'
        "    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)\n"
        "    wanted, got = stream(folder), stream(here)\n",
        _BYTES,
    ),
}

# Names of nodes are in a comment, quoted: in a string they might end it, and run as code.
_TEXT = """\
# Shows what {stage} gets wrong of {layers}.
# Needs {needs}. Exits with 1 as long as it is wrong.

import sys
from itertools import islice
from pathlib import Path

import numpy as np
{head}
here = Path(__file__).parent
xs = [np.load(here / name) for name in {inputs}]
{body}{end}"""


@dataclass(frozen=True)
class Culprit:
    """What was found.

    Attributes:
        stage: the stage that breaks.
        shown: the smallest part that fails.
        layers: nodes of the culprit, as the model as given names them.
        tried: how many parts were compared.
    """

    stage: Stage
    shown: Shown
    layers: tuple[str, ...]
    tried: int

    def to_json(self) -> dict[str, Any]:
        """Return the documented keys; an error that is not finite becomes null."""
        return {
            "stage": self.stage.name,
            "layers": list(self.layers),
            "nodes": self.shown.part.nodes,
            "entry": self.shown.part.entry,
            "exit": self.shown.part.exit,
            "max_error_of_range": finite(self.shown.max_error_of_range),
            "allowed": self.shown.allowed,
            "kernels": list(self.shown.kernels),
            "parts_tried": self.tried,
        }


def check_culprit(folder: Path, *, force: bool) -> None:
    """Make sure, before work begins that would be lost, that a culprit can be written.

    Raises:
        UsageError: the folder exists and `force` is not set, or it holds something else.
    """
    if not folder.exists():
        return
    if not force:
        raise UsageError(
            f"{folder} exists, and a culprit would go there; write over it with --force, or name "
            "another place with --culprit"
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / CULPRIT).is_file()):
        raise UsageError(f"{folder} is no culprit of an earlier run; --force does not delete it")


def write_culprit(culprit: Culprit, folder: Path, *, force: bool) -> None:
    """Write the part, its input, the stage's result, and the script, whole or not at all.

    Raises:
        UsageError: `folder` exists and `force` is not set.
        BundleError: the place cannot be written.
    """
    shown, script = culprit.shown, SCRIPTS[culprit.stage.script]
    arch = culprit.stage.arch if isinstance(culprit.stage, LibraryStage) else ""
    with new_folder(folder, force=force) as new:
        culprit.stage.make(shown.part.model, new)
        onnx.save(shown.part.model, new / BEFORE)
        save_feed(new / INPUT, shown.x)
        count = len(arrays_of(shown.x))
        names = [file.name for file in islice(numbered_files(Path(INPUT)), count)]
        (new / CULPRIT).write_text(json.dumps(culprit.to_json(), indent=2) + "\n")
        layers = culprit.layers
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        (new / SCRIPT).write_text(
            _TEXT.format(
                stage=culprit.stage.name,
                layers=f"{', '.join(map(for_comment, layers[:3]))}{more}",
                needs=script.needs + (f", on {arch}" if arch else ""),
                head=script.head,
                inputs=repr(tuple(names)),
                body=script.body,
                end=script.end.replace("@allowed", f"{shown.allowed:.3e}"),
            )
        )
