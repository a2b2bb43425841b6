"""The command `mbv3c targets`."""

import click

from mbv3c.commands.output import json_option, print_json


@click.command()
@json_option
def targets(as_json: bool) -> None:
    """List what mbv3c compiles for."""
    from dataclasses import asdict

    from mbv3c.targets.ethos_u.devices import DEFAULT_NPU, NPU_TARGETS
    from mbv3c.targets.table import DEFAULT_DEVICES, TARGETS

    if as_json:
        listed = [
            {
                "name": target.name,
                "triple": target.triple,
                "cpu": target.cpu,
                "default": DEFAULT_DEVICES[target.family] == target.device,
                "emulated_as": target.emulated_as or None,
                "gpu": target.gpu or None,
                "isa": target.isa or None,
            }
            for target in TARGETS
        ]
        npus = [
            {"name": npu.name, **asdict(npu), "default": npu.device == DEFAULT_NPU}
            for npu in NPU_TARGETS
        ]
        print_json({"targets": listed, "npu_targets": npus})
        return
    click.echo(f"{'target':<33}{'triple':<24}{'verified here on':<24}example")
    for target in TARGETS:
        star = "*" if DEFAULT_DEVICES[target.family] == target.device else ""
        where = f"emulated {target.emulated_as}" if target.emulated_as else "this machine"
        where = f"a machine with {target.isa}" if target.isa else where
        where = "an OpenCL device" if target.gpu else where
        click.echo(f"{target.name + star:<33}{target.triple:<24}{where:<24}{target.example}")
    click.echo(f"\n{'target':<33}{'MACs':>5}{'MHz':>6}  {'SRAM':<9}{'verified here on':<24}system")
    for npu in NPU_TARGETS:
        star = "*" if npu.device == DEFAULT_NPU else ""
        sram = f"{npu.sram_bytes >> 10} KiB" if npu.sram_bytes else "shared"
        where = "interpreted stream" if npu.interpreted else "TOSA reference model"
        click.echo(
            f"{npu.name + star:<33}{npu.macs:>5}{npu.clock_mhz:>6}  {sram:<9}{where:<24}"
            f"{npu.system_config}"
        )
    click.echo("* the family's default")
