"""What `verify` shows of errors: pictures, and a page."""

from collections.abc import Callable, Sequence

import onnx

from mbv3c import pipeline
from mbv3c.bundle import Bundle
from mbv3c.execution.runners import KernelRunner, runner_for
from mbv3c.gate import Request
from mbv3c.parity.blocks import BlockErrors, check_blocks
from mbv3c.parity.checks import Check
from mbv3c.parity.inputs import parity_inputs
from mbv3c.parity.limits import Row
from mbv3c.parity.outputs import Saved
from mbv3c.parity.page import Page, write_page
from mbv3c.parity.pictures import write_picture

Progress = Callable[[str], None]

SAVED = "Saved outputs say nothing about the blocks of a network."


def blocks_of(bundle: Bundle, progress: Progress, *, here: bool) -> BlockErrors | str:
    """Run every block of a bundle by itself, or say why that is not possible.

    `here` says whether the bundle runs on this machine.

    Raises:
        Mbv3cError: the library fails.
    """
    if "npu" in bundle.manifest:
        return "The operators of an NPU bundle are checked one by one; see the checks."
    target, precision = pipeline.target_of(bundle), bundle.manifest["precision"]
    runner = runner_for(target, precision) if here else None
    if not isinstance(runner, KernelRunner):
        return (
            "Blocks were not run by themselves: nothing stops between the kernels where "
            f"{target.name} runs."
        )
    progress("running every block by itself")
    model, _ = pipeline.rewritten_for(onnx.load(bundle.compiled_model), precision)
    inputs = parity_inputs(bundle.input_shape)
    return check_blocks(model, bundle.manifest["kernels"], inputs, runner, bundle.path)


def write_pictures(
    request: Request,
    saved: Saved,
    checks: Sequence[Check],
    rows: Sequence[Row],
    blocks: BlockErrors | str,
) -> None:
    """Write the pictures and the page that were asked for; `blocks` may say why there are none.

    Raises:
        BundleError: a place cannot be written.
    """
    origin = saved.origin
    if request.plot is not None:
        write_picture(request.plot, saved.pairs, None if isinstance(blocks, str) else blocks)
    if request.html is not None:
        versions = ", ".join(f"{name} {one}" for name, one in origin["versions"].items())
        facts = {
            "target": f"{origin['target']} {origin['precision']}",
            "ran on": str(origin["ran_on"]),
            "made with": versions,
            "bundle": f"sha256 of its manifest {origin['bundle_sha256']}",
        }
        page = Page(str(origin["bundle"]), facts, checks, rows, saved.pairs, blocks)
        write_page(request.html, page)
