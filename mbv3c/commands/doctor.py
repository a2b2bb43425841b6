"""The command `mbv3c doctor`."""

import click

from mbv3c.commands.clean import emptied
from mbv3c.commands.options import Progress, echo, json_option, print_json
from mbv3c.commands.places import OneOf
from mbv3c.errors import UsageError

_ALL = "all"
_COMPILED = ("objects", "programs")  # the kinds of `clean` that hold compiled kernels


@click.command()
@click.option(
    "--fetch",
    is_flag=False,
    flag_value=_ALL,
    type=OneOf([_ALL, "emulator", "opencl", "cycles", "mcu", "demo", "browser"]),
    help="Download and build what is missing, or only the emulators of arm_cpu and riscv_cpu, "
    "that of mcu, what runs and checks OpenCL (--fetch=opencl), or what estimates cycles; needs "
    "no root. Images to train on are fetched with =demo alone, and what tests look at pages in "
    "with =browser.",
)
@click.option(
    "--clear-cache", is_flag=True, help="Only remove the compiled kernels that are kept."
)
@json_option
def doctor(fetch: str | None, clear_cache: bool, as_json: bool) -> None:
    """Say what is missing to compile and to verify.

    Exit 1 if something is; with --fetch=NAME only if that part cannot be had.
    """
    if clear_cache:
        _clear(fetch, as_json=as_json)
        return
    from mbv3c import doctor as doctors

    if fetch is not None:
        doctors.fetch(fetch, Progress())
    parts = doctors.diagnose()
    healthy = all(part.ok or part.optional for part in parts)
    if as_json:
        rows = [
            {"name": part.name, "ok": part.ok, "optional": part.optional, "detail": part.detail}
            | {"remedy": part.remedy or None}
            for part in parts
        ]
        print_json({"healthy": healthy, "parts": rows})
    else:
        for part in parts:
            state = "ok" if part.ok else "absent" if part.optional else "MISSING"
            echo(f"{state:<9}{part.name:<17}{part.detail}")
            if not part.ok:
                echo(f"{'':<9}{'':<17}→ {part.remedy}")
    if not healthy and fetch in (None, _ALL):
        raise click.exceptions.Exit(1)


def _clear(fetch: str | None, *, as_json: bool) -> None:
    """Remove compiled kernels, of CPUs and of GPUs; they are compiled again when they are needed.

    Raises:
        UsageError: something is to be fetched, too.
    """
    if fetch is not None:
        raise UsageError("--clear-cache and --fetch exclude each other: run one after the other")
    removed = sum(map(emptied, _COMPILED))
    if as_json:
        print_json({"removed_bytes": removed})
    else:
        echo(f"removed {removed / 2**20:,.1f} MiB of compiled kernels")
