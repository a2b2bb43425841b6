"""Open what runs a bundle; temporary: goes into the backends."""

from mbv3c import bundle as bundles
from mbv3c.errors import UsageError
from mbv3c.execution.runners import Runner
from mbv3c.targets.ethos_u.devices import find_npu
from mbv3c.targets.ethos_u.tools import require_npu_tools
from mbv3c.targets.library import require_runner
from mbv3c.targets.table import target_of


def _runner(bundle: bundles.Bundle) -> Runner:
    if "npu" not in bundle.manifest:
        return require_runner(target_of(bundle), bundle.manifest["precision"])
    require_npu_tools()
    from mbv3c.targets.ethos_u.runner import StreamRunner  # needs vela

    return StreamRunner(bundle)


def _check_interpreted(target: str) -> None:
    """Make sure that there is an interpreter for an NPU's command stream.

    Raises:
        UsageError: there is none.
    """
    if not find_npu(target).interpreted:
        raise UsageError(
            f"nothing here runs a command stream of {target}: the interpreter knows Ethos-U55 and "
            "Ethos-U65-256 only; `mbv3c verify` without --images checks it up to the stream"
        )
