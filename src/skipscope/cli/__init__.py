"""The command line: `skipscope demo`, the studies by their names, `networks | theory | diagnose | report | compare`.

Results go to stdout, in the format that was asked for and nothing else; progress goes to stderr, and only to a
terminal. What the user can mend is one line on stderr and exit code 2. Files are checked before an hour of work, not
after. `skipscope --help` is fast because everything that measures or draws is imported inside the commands.

A module a verb, listed in `VERBS`. What verbs share is below them: `study` (all that runs a study), `options`,
`outputs` (what is written) and `printing` (what is printed). No verb imports another.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from skipscope import __version__
from skipscope.cli.compare import compare
from skipscope.cli.correlation import correlation
from skipscope.cli.degradation import degradation
from skipscope.cli.demo import demo
from skipscope.cli.diagnose import diagnose
from skipscope.cli.evaluate import evaluate
from skipscope.cli.flow import flow
from skipscope.cli.highway import highway
from skipscope.cli.identity import identity
from skipscope.cli.jacobian import jacobian
from skipscope.cli.lesion import lesion
from skipscope.cli.networks import networks
from skipscope.cli.propagation import propagation
from skipscope.cli.report import report
from skipscope.cli.representation import representation
from skipscope.cli.responses import responses
from skipscope.cli.sweep import sweep
from skipscope.cli.theory import theory
from skipscope.cli.train import train
from skipscope.cli.twin import twin
from skipscope.errors import InputError, one_line

__all__ = ["VERBS", "cli", "main"]

VERBS: tuple[click.Command, ...] = (
    demo,
    flow,
    sweep,
    propagation,
    highway,
    jacobian,
    correlation,
    representation,
    identity,
    degradation,
    lesion,
    responses,
    train,
    evaluate,
    networks,
    twin,
    theory,
    diagnose,
    compare,
    report,
)
"""Every command of the command line."""


class _InOrder(click.Group):
    """Verbs in the order of `VERBS`, each with the whole first sentence of its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb.name for verb in VERBS if verb.name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(str(verb.name), verb.get_short_help_str(limit=1000)) for verb in VERBS])


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="skipscope", message="%(prog)s %(version)s")
def cli() -> None:
    """Measure what depth and skip connections do to a neural network."""


for verb in VERBS:
    cli.add_command(verb)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for what the user can mend, 130 when interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _ready_streams()
    try:
        result = cli.main(args=given, prog_name="skipscope", standalone_mode=False, obj=given)
        return int(result or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        _say(error.format_message())
        return 2
    except (InputError, click.ClickException) as error:
        return _refused(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (click.Abort, KeyboardInterrupt):
        _say("skipscope: interrupted; no file is half written.")
        return 130
    except SystemExit:  # of click and Rich, when the reader of the output left, e.g. head
        return 0
    except OSError as error:  # files say for themselves what is wrong with them: what is left is a full output
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or Python writes the rest at exit, and fails again
        return _refused(f"cannot write the output: {(error.strerror or str(error)).lower()}; write it elsewhere.")


def _ready_streams() -> None:
    """A terminal that lacks a letter is no reason to fail, nor is a stream that is closed."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _refused(message: str) -> int:
    _say(f"skipscope: {one_line(message)}")
    return 2


def _say(line: str) -> None:
    """To stderr; that it is full as well leaves nobody to tell, and the exit code as it is."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - or Python writes the rest at exit, and fails again
