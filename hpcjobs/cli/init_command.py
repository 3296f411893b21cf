"""`hpcjobs init`."""

from __future__ import annotations

import click

from hpcjobs.base.files import shown
from hpcjobs.cli import command_flags, names, show
from hpcjobs.trainers.registry import DEFAULT


@click.command(cls=command_flags.TakesCommand)
@click.argument("name", default="mine")
@click.option(
    "--base",
    metavar="EXPERIMENT",
    shell_complete=names.experiments,
    help="The experiment whose values are copied, a name or a file, if not COMMAND.  [default: chexnet]",
)
@command_flags.options
@click.option("--partition", metavar="NAME", help="Partition to describe.  [default: the site's default partition]")
@click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), help="What ranks compute on.  [default: gpu if Slurm has GPUs there]"
)
@click.option("--force", is_flag=True, help="Replace existing files.")
def init(
    name: str,
    base: str | None,
    command: command_flags.CommandFlags,
    partition: str | None,
    device: str | None,
    force: bool,
) -> None:
    """Begin a study in this folder: write experiments/NAME.yaml, and clusters/CLUSTER.yaml if Slurm answers.

    NAME is `mine` unless you give one. The experiment has every key with a comment, and runs COMMAND, or has the values
    of --base. The profile is what `hpcjobs cluster detect` prints. Commands that run in this folder find both by name.

    \b
    hpcjobs init gpt2 -- python train.py --batch {batch.local}
    hpcjobs init
    hpcjobs init trial --base demo
    """
    from hpcjobs.site.begin import begin_study, check_working_folder

    check_working_folder()
    origin = "the command that was given" if command.words is not None else base or DEFAULT
    begun = begin_study(
        name,
        command.document(base, DEFAULT, option="--base"),
        origin,
        partition,
        device,
        settings=command.settings,
        force=force,
    )
    for path in begun.written:
        click.echo(shown(path))
    for path in begun.unchanged:
        show.talk(f"{path} is unchanged: it holds the same text already")
    for path, other in begun.shadowed:
        show.talk(f"in this folder '{path.stem}' now means {path}, and no longer {other}")
    if begun.profile is not None:
        show.talk(f"check the lines that {begun.profile} marks UNKNOWN")
    else:
        ignored = [flag for flag, value in (("--partition", partition), ("--device", device)) if value is not None]
        show.talk(
            f"no profile written{', despite ' + ' and '.join(ignored) if ignored else ''}: {begun.no_profile}. Give "
            "--cluster NAME (`hpcjobs cluster list`), or --cluster local to compute on this machine; on a login node "
            "`hpcjobs cluster detect` prints a profile"
        )
    for text in begun.missing:
        show.talk(f"{begun.experiment} is not complete: {text}")
    words = f"--gpus {','.join(map(str, begun.sizes))} --experiment {name} --cluster {begun.cluster.name}"
    show.talk(f"then:\n  hpcjobs check {words}\n  hpcjobs sweep {words} --dry-run\n  hpcjobs sweep {words}")
