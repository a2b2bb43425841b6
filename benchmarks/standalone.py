"""Count the instructions of one inference of a bundle for a core without a runtime.

    python -m benchmarks.standalone BUNDLE [--kernels]

The count is exact, and equal each time; it is no time. `--kernels` also lists every kernel's own.
"""

from pathlib import Path

import click

from mbv3c.errors import Mbv3cError
from mbv3c.parity.golden import read_golden
from mbv3c.targets import backend_for, open_bundle
from mbv3c.targets.cpu.standalone.runner import LinuxRunner
from mbv3c.targets.library.manifest import manifest_of


@click.command()
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--kernels", is_flag=True, help="List the instructions of every kernel, too.")
def main(path: Path, kernels: bool) -> None:
    """Print the instructions that one inference of the golden input executes."""
    try:
        bundle = open_bundle(path)
        with backend_for(bundle).open(bundle, click.echo) as opened:
            if not isinstance(opened.runner, LinuxRunner):
                raise click.ClickException(f"{path} runs otherwise: `mbv3c bench` measures it")
            counted = opened.runner.count(read_golden(bundle).input)
    except Mbv3cError as error:
        raise click.ClickException(str(error)) from error
    madds = sum(kernel.madds for kernel in manifest_of(bundle).kernels)
    click.echo(
        f"{path}: {counted.instructions:,} instructions on {opened.ran_on}, {madds:,} "
        f"multiply-adds, {counted.instructions / madds:.3f} instructions each"
    )
    if kernels:
        for name, count in sorted(counted.by_function.items(), key=lambda row: -row[1]):
            click.echo(f"{count:>14,}  {name}")


if __name__ == "__main__":
    main()
