"""What emulated Cortex-M boards need on this machine."""

from mbv3c.execution.cache import FETCH_COMMAND
from mbv3c.targets.mcu.kit import fetch, kit_in_place
from mbv3c.targets.wing import Doctor, Requirement


def diagnose() -> list[Requirement]:
    """Look for the emulator of boards, and for what counts instructions there."""
    kit = kit_in_place()
    places = {"mcu emulator": kit.system, "mcu counter": kit.counter}
    remedy = f"for --target mcu: {FETCH_COMMAND}=mcu"
    return [
        Requirement(name, True, str(place), optional=True)
        if place.exists()
        else Requirement(name, False, "not fetched", remedy, optional=True)
        for name, place in places.items()
    ]


DOCTOR = Doctor(diagnose, {"mcu": fetch})
