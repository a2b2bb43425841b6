"""The command `mbv3c config`."""

import os
from typing import Any

import click

from mbv3c.commands.options import echo, json_option, print_json
from mbv3c.commands.project_file import PROFILE_VARIABLE, ProjectFile

# What of the environment changes what mbv3c does.
VARIABLES = (
    *("MBV3C_CACHE", "MBV3C_STATE", "MBV3C_MEMORY", "MBV3C_STEP_SECONDS", "MBV3C_SUPERVISE"),
    *("MBV3C_OPENCL_DEVICE", "MBV3C_STORE", PROFILE_VARIABLE, "NO_COLOR", "TMPDIR"),
)


@click.command()
@json_option
@click.pass_obj
def config(project: ProjectFile, as_json: bool) -> None:
    """Say which options mbv3c.toml sets for which command, and why each holds."""
    there = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if as_json:
        print_json(_document(project, there))
        return
    if project.path is None:
        echo("no mbv3c.toml in this folder: every option has its default")
    else:
        of = f"; profiles: {', '.join(project.profiles)}" if project.profiles else ""
        echo(f"{project.title}{of}")
    for command, settings in project.settings.items():
        echo(f"{' '.join(command)}")
        for setting in settings.values():
            over = f", over {setting.over}" if setting.over is not None else ""
            echo(f"  {setting.text:<40}{setting.where}{over}")
    for name, value in there.items():
        echo(f"{name}={value}  from the environment")
    if project.settings:
        echo("what stands on a command line wins")


def _document(project: ProjectFile, environment: dict[str, str]) -> dict[str, Any]:
    rows = [
        {
            "command": " ".join(command),
            "option": setting.flag,
            "value": setting.value,
            "where": setting.where,
            "over": setting.over,
        }
        for command, settings in project.settings.items()
        for setting in settings.values()
    ]
    return {
        "file": None if project.path is None else str(project.path),
        "profile": project.profile or None,
        "profiles": list(project.profiles),
        "settings": rows,
        "environment": environment,
    }
