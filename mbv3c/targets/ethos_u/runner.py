"""Run a bundle for an NPU as `mbv3c run` does: fp32 in, the command stream, fp32 out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mbv3c.bundle import NPU_HOST, NPU_STREAM, Bundle, read_bundled, read_files
from mbv3c.errors import ToolError
from mbv3c.execution.runners import Infer, server_command
from mbv3c.feeds import Array, Feed
from mbv3c.lowering.quantization import Quantization
from mbv3c.manifest import TensorRecord
from mbv3c.targets.ethos_u.host_parity import to_model
from mbv3c.targets.ethos_u.interpreter.interpreter import interpret
from mbv3c.targets.ethos_u.interpreter.program import UnsupportedError, read_program
from mbv3c.targets.ethos_u.lowering.region import Boundary
from mbv3c.targets.ethos_u.manifest import EndRecord, NpuManifest, manifest_of


class StreamRunner:
    """Quantizes, interprets the command stream of a bundle, and computes the rest on the CPU.

    Attributes:
        description: what executes it, as reports name it.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = manifest_of(bundle)
        self._device = manifest.target.name
        self._input = _end(manifest.npu.inputs[0], manifest.input)
        self._host = read_bundled(bundle.path / NPU_HOST) if manifest.host else None
        self._outputs: list[Boundary] = []
        self.description = "interpreter of the command stream"
        if self._host is None:
            pairs = zip(manifest.npu.outputs, manifest.outputs, strict=True)
            self._outputs = [_end(*pair) for pair in pairs]
        else:
            self.description += ", and onnxruntime for what stays on the CPU"

    def run(self, bundle: Path, inputs: list[Feed]) -> list[list[Array]]:
        """Run the stream once per input, N, C, H, W, and return the outputs as the model has them.

        Raises:
            ToolError: the interpreter does not know the device.
            Mbv3cError: the stream is damaged.
        """
        infer = self.opened(bundle)
        return [infer(x) for x in inputs]

    def opened(self, bundle: Path) -> Infer:
        """Read the stream of a bundle and return what runs it on one input.

        Raises:
            ToolError: the interpreter does not know the device, which may show as it runs.
            Mbv3cError: the stream is damaged.
        """
        with self._supported():
            program = read_program(bundle / NPU_STREAM)

        def infer(x: Feed) -> list[Array]:
            with self._supported():
                integers = interpret(program, [self._input.to_device(x)])
            return to_model(self._host, self._outputs, integers)

        return infer

    def stream_command(self, bundle: Path) -> list[str]:
        return server_command(open_stream, bundle)

    @contextmanager
    def _supported(self) -> Iterator[None]:
        try:
            yield
        except UnsupportedError as error:
            raise ToolError(f"nothing here runs a stream of {self._device}: {error}") from error


def open_stream(folder: Path) -> Infer:
    """Open a bundle for an NPU; what is returned runs it on one input."""
    files = read_files(folder)
    bundle = Bundle(folder, files.parse(NpuManifest), files.files)
    return StreamRunner(bundle).opened(folder)


def _end(device: EndRecord, model: TensorRecord) -> Boundary:
    """Read an input or output of the manifest: on the device, and in the model."""
    steps = Quantization(device.scale, device.zero_point)
    return Boundary(model.name, model.shape, device.shape, steps)
