"""The command line. Each group of commands has its own file, which is imported when one of them is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from hpcjobs.base.errors import HpcjobsError

# Command: (module under hpcjobs.cli, its line in --help). --help must not import the module.
_COMMANDS = {
    "init": ("init_command", "Begin a study here: write a commented experiment and a profile of this cluster."),
    "sweep": ("sweep_command", "Submit one training per GPU count and repeat; the main command."),
    "status": ("status_command", "Show every run of a sweep."),
    "resume": ("status_command", "Run what failed, was cancelled or is missing."),
    "cancel": ("status_command", "End the runs of a sweep."),
    "collect": ("report_command", "Read the logs of a sweep, or of any other training, into runs.csv."),
    "report": ("report_command", "Collect, then write scaling-report.csv, the figures and the page."),
    "predict": ("predict_command", "Fit a model: sizes not run, GPU-hours, time to train."),
    "check": ("check_command", "Check whether a cluster is fit for a study; --probe measures its fabric."),
    "cluster": ("cluster_command", "Detect, list and show cluster profiles, and print their JSON Schema."),
    "data": ("data_command", "Make training shards from NIH ChestX-ray14, or synthetic ones."),
    "completion": ("completion_command", "Print the completion script for bash, zsh or fish."),
}


class _Lazy(click.Group):
    """A group that lists its commands and their help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"hpcjobs.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            from hpcjobs.base.errors import nearest

            raise click.UsageError(f"no command '{args[0]}': {nearest(args[0], _COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=text) for name, (_, text) in _COMMANDS.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    no_args_is_help=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option("--version", is_flag=True, help="Show the version.")
@click.option("--json", "as_json", is_flag=True, help="With --version: all that a bug report needs, as JSON.")
@click.pass_context
def hpcjobs(ctx: click.Context, version: bool, as_json: bool) -> None:
    """Scaling studies of distributed training on Slurm.

    Start with `hpcjobs sweep --gpus 1,2,4 --experiment demo --wait`: it needs no cluster and no GPU.
    `hpcjobs init` begins a study of your own.
    """
    if as_json and not version:
        raise click.UsageError("--json needs --version, or a command before it")
    if version:
        click.echo(_version(as_json))
        ctx.exit()
    if ctx.invoked_subcommand is None:
        ctx.fail("Missing command.")


def _version(as_json: bool) -> str:
    from hpcjobs.base.version import __version__

    if not as_json:
        return f"hpcjobs {__version__}"
    import json

    from hpcjobs.site.installation import about

    return json.dumps(about(), indent=2)


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 done, 1 a run failed, 2 wrong input, 3 scheduler unreachable, 130 interrupted.
    """
    if "_HPCJOBS_COMPLETE" in os.environ:
        importlib.import_module("hpcjobs.cli.completion_command")  # registers the shells with click
    try:
        code = hpcjobs.main(prog_name="hpcjobs", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except HpcjobsError as error:
        print(f"hpcjobs: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("hpcjobs: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # `hpcjobs ... | head`: leave quietly, and keep Python from complaining when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        print(f"hpcjobs: error: {error}", file=sys.stderr)
        sys.exit(1)
