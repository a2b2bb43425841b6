"""The commands `mbv3c cluster scheduler` and `mbv3c cluster worker`."""

from pathlib import Path

import click

from mbv3c.commands.ending import until_interrupted
from mbv3c.commands.engines import store_folder, store_option
from mbv3c.commands.options import Progress

insecure_option = click.option(
    "--insecure", is_flag=True, help="Listen to other machines without TLS."
)


@click.group()
def cluster() -> None:
    """Have many machines do the work of sweep, search and adapt."""


@cluster.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen at this address.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8786,
    show_default=True,
    help="Listen at this TCP port; 0 takes a free one.",
)
@insecure_option
def scheduler(host: str, port: int, insecure: bool) -> None:
    """Bring those who want work done and those who do it together, until Ctrl-C."""
    from mbv3c.jobs.cluster.service import run_scheduler

    progress = Progress()
    with until_interrupted(progress):
        run_scheduler(host, port, progress, insecure=insecure)


@cluster.command()
@click.argument("address")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Do so much at once.  [default: as many as processors]",
)
@click.option("--resources", help="Say what this machine has, such as npu=1,board=pi5.")
@click.option("--host", help="Listen at this address.  [default: what reaches the scheduler]")
@insecure_option
@store_option
def worker(
    address: str,
    jobs: int | None,
    resources: str | None,
    host: str | None,
    insecure: bool,
    store: Path | None,
) -> None:
    """Work for the scheduler at ADDRESS (HOST:PORT), until Ctrl-C."""
    from mbv3c.jobs.cluster.need import full_address
    from mbv3c.jobs.cluster.service import parse_resources, run_worker
    from mbv3c.jobs.local import LocalProcesses

    progress = Progress()
    with until_interrupted(progress):
        run_worker(
            full_address(address),
            LocalProcesses(jobs or 0).at_once,
            parse_resources(resources),
            store_folder(store),
            progress,
            host=host,
            insecure=insecure,
        )
