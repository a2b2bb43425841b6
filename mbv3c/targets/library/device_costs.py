"""What networks cost in time, kernel by kernel, on a device behind an RPC server.

As on this machine, kernels that no table knows run one after the other in one library, many times,
and what counts is the median of each. A device says what it is, and its costs are in a table of
its own: those of two boards never mix, nor with those of this machine. Times that vary are
measured again, and refused where they go on varying.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from mbv3c.costs.database import DEVICE, CostContext, CostTable
from mbv3c.costs.questions import Question
from mbv3c.costs.types import Kind, NetworkCost
from mbv3c.errors import ToolError, UsageError
from mbv3c.execution.device.machine import DeviceNeeds, Machine, machine_from_json
from mbv3c.execution.device.place import Place
from mbv3c.execution.device.pool import Patience
from mbv3c.execution.device.runner import RpcRunner
from mbv3c.execution.device.tracker import list_devices
from mbv3c.lowering.lower import assembled
from mbv3c.lowering.plan import Plan
from mbv3c.progress import Progress
from mbv3c.scratch import scratch_folder
from mbv3c.targets.library.costs import RunningCoster
from mbv3c.targets.library.timed_costs import MICROSECONDS, call_times
from mbv3c.tuning.device_meter import DeviceMeter, one_at_a_time, opened
from mbv3c.tuning.meters import BuiltNetwork
from mbv3c.tuning.session import event_sentence
from mbv3c.tuning.side_by_side import write_steps

_PATIENCE = Patience(wait=60.0)  # a board starts anew in less
_TRIES = 3  # of times that vary


@dataclass
class DeviceCoster(RunningCoster):
    """Times kernels on one core of a device, or on its GPU.

    Attributes:
        place: where the device is.
    """

    place: Place = field(kw_only=True)
    kind: Kind = field(default="measured", init=False)
    time: str = field(default=MICROSECONDS, init=False)
    at_once: int = field(default=32, init=False)  # kept each time, should the device go away
    digits: int = field(default=3, init=False)
    _meter: DeviceMeter | None = field(default=None, init=False, repr=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)

    @cached_property
    def needs(self) -> DeviceNeeds:
        """What the target's libraries need of a device."""
        own = self.resolved
        return DeviceNeeds(own.name, own.triple, own.cpu, self.backend.device_needs(own))

    @cached_property
    def machine(self) -> Machine:
        """What the device is, as it says itself.

        Raises:
            UsageError: it has another architecture, or the tracker has several under the key.
            ToolError: it does not answer, or does not say what it is.
        """
        place, needs = self.place, self.needs
        machine = _tracked(place) if place.tracked else _looked_at(place)
        if machine is None:
            raise ToolError(
                f"the server of the {place} does not say what it is, and costs are kept by "
                "device; start `mbv3c device serve` of this version there"
            )
        needs.check(
            machine, f"{needs.target} is for", machine.name, "ask what its own target costs"
        )
        return machine

    @cached_property
    def context(self) -> CostContext:
        """What decides costs: the device, too, and the processor that code is made for."""
        base = super().context
        own = {DEVICE: self._lasting(self.machine), "processor": self.resolved.cpu}
        return replace(base, versions={**base.versions, **own})

    def ask(
        self, questions: Sequence[Question], table: CostTable, progress: Progress
    ) -> list[NetworkCost]:
        with self._reachable(progress):
            return super().ask(questions, table, progress)

    def ask_whole(
        self, models: Sequence[onnx.ModelProto], progress: Progress
    ) -> list[NetworkCost]:
        with self._reachable(progress):
            return super().ask_whole(models, progress)

    def of_kernels(self, folder: Path, calls: Sequence[str]) -> list[float]:
        (each,) = self._calls([BuiltNetwork(folder, tuple(calls))])
        return each

    def of_network(self, folder: Path, calls: Sequence[str]) -> tuple[list[float], float]:
        (measured,) = self._networks([BuiltNetwork(folder, tuple(calls))])
        return measured

    def outside(self, plans: Sequence[Plan]) -> list[float]:
        networks = []
        with scratch_folder("costs") as place:
            for number, plan in enumerate(plans):
                lowered = assembled(plan)
                self.write(lowered, place / str(number))
                networks.append(BuiltNetwork(place / str(number), lowered.kernels))
            return [outside for _, outside in self._networks(networks)]

    def _networks(self, networks: Sequence[BuiltNetwork]) -> list[tuple[list[float], float]]:
        """Return what each call of each network costs, and all that is no kernel."""
        calls = self._calls(networks)
        wholes = self._device().wholes(networks)[MICROSECONDS]
        self._check_same()
        medians = [median(run for block in wholes[each] for run in block) for each in networks]
        return [(each, whole - sum(each)) for each, whole in zip(calls, medians, strict=True)]

    def _calls(self, networks: Sequence[BuiltNetwork]) -> list[list[float]]:
        """Return what each call of each network costs.

        Raises:
            ToolError: times vary, however often they are measured, or the device fails.
        """
        for left in reversed(range(_TRIES)):
            measured = self._device().calls(networks)
            self._check_same()
            found = [call_times(measured[each], each.kernels) for each in networks]
            unsteady = [each for each in found if not each.steady]
            if not unsteady:
                break
            said = f"times of {self.machine.name} lie {unsteady[0].spread}"
            if not left:
                raise ToolError(
                    f"the {self.place} is busy: {said}; costs there are times, so end what runs "
                    "beside its server and ask again: what was measured is kept"
                )
            self._progress(f"{said}: measuring once more")
        return [each.each for each in found]

    # ---- the device ----

    @contextmanager
    def _reachable(self, progress: Progress) -> Iterator[None]:
        """Have the device reached when it is first needed, and left alone behind this."""
        self._progress = progress
        with ExitStack() as self._stack:
            try:
                yield
            finally:
                self._meter = None

    def _device(self) -> DeviceMeter:
        """Return what measures there."""
        if self._meter is None:
            folder = self._stack.enter_context(scratch_folder("proof")) / "copy"
            write_steps([], self.backend.kernels(self.target), folder)
            tell = one_at_a_time(self._tell)
            device = opened(self.needs, self.place, tell, _PATIENCE, self.machine)
            self._meter = self._stack.enter_context(device)
            self._meter.prove_by(folder)
        return self._meter

    def _tell(self, event: dict[str, Any]) -> None:
        """Say what happens to a device; why its times are doubtful only once."""
        text = event_sentence(event)
        if event["event"] != "device-doubt" or text not in self._told:
            self._told.add(text)
            self._progress(text)

    def _lasting(self, machine: Machine) -> str:
        return machine.lasting(gpu=self.needs.opencl)

    def _check_same(self) -> None:
        """Make sure that what measured is the device whose table it is.

        Raises:
            ToolError: another one answers there now.
        """
        wanted = self._lasting(self.machine)
        for board in self._device().pool.boards:
            if board.machine is not None and self._lasting(board.machine) != wanted:
                raise ToolError(
                    f"the {self.place} is another than it was ({self._lasting(board.machine)}, "
                    f"and not {wanted}); costs are kept by device: ask again"
                )


def _looked_at(place: Place) -> Machine | None:
    runner = RpcRunner(place, seconds=place.seconds)
    runner.look()
    return runner.machine


def _tracked(place: Place) -> Machine | None:
    """Return what the only device under a tracker's key is."""
    listed = [device for device in list_devices(place.address)[0] if device.key == place.key]
    if not listed:
        raise ToolError(
            f"there is no {place}; `mbv3c device list --tracker {place.address}` shows what there "
            "is"
        )
    if len(listed) > 1:
        where = ", ".join(str(device.address) for device in listed)
        raise UsageError(
            f"the tracker {place.address} has {len(listed)} devices under the key {place.key!r} "
            f"({where}), and costs are of one: serve it with a --key of its own"
        )
    (device,) = listed
    return machine_from_json(device.machine) if device.machine else None
