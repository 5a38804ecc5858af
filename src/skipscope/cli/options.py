"""The options that several verbs share, and how their values are read.

A verb takes what it needs: `@options.network`, `@options.seeds(50)`. Lists such as `plain,residual` and `5:200:5` are
read here, so that a verb gets the values under the names that the studies have for them. Imports nothing that measures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from skipscope.errors import InputError, quoted, require_int

Format = Literal["table", "json", "csv"]
Command = TypeVar("Command", bound=Callable[..., Any])


def several(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help lists them."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


# ---------------------------------------------------------------------------------------------------- reading values


def _names(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    """`plain,residual`."""
    return [name.strip() for name in value.split(",") if name.strip()]


def _designs(context: click.Context, option: click.Parameter, values: tuple[str, ...], *, commas: bool) -> list[str]:
    """One name each; where names have commas, `plain,twin` is told from one such as `residual, layer norm`."""
    from skipscope.designs import DESIGNS

    for value in values:
        names = [name.strip() for name in value.split(",")]
        if len(names) > 1 and not (commas and {"", *DESIGNS}.isdisjoint(names[1:])):
            raise InputError(
                f"--design is one design, given once for each and not with commas; got {quoted(value)}. Write e.g. "
                "--design plain --design residual."
            )
    return list(values)


def _depths(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    """`5,10,20`, ranges `first:last` or `first:last:step` (the last included), or both."""
    name = option.opts[0]
    found: list[int] = []
    for piece in value.split(","):
        try:
            numbers = [int(each) for each in piece.split(":")]
            first, last, step = (*numbers, *{1: (numbers[0], 1), 2: (1,)}.get(len(numbers), ()))
        except (ValueError, TypeError):
            raise InputError(
                f"{name} must be numbers such as 5,10,20 or first:last:step; got {quoted(value)}."
            ) from None
        if step < 1 or not 0 <= (last - first) // step < 10_000 - len(found):
            raise InputError(f"{name} {quoted(piece)} must be 1 to 10,000 depths, from first up to last; e.g. 5:200:5.")
        found += range(first, last + 1, step)
    return found


def numbers(parse: Callable[[str], Any], example: str) -> Callable[..., list[Any] | None]:
    """A callback that reads numbers separated by commas; where an option was not given, it stays so."""

    def read(context: click.Context, option: click.Parameter, value: str | None) -> list[Any] | None:
        try:
            return None if value is None else [parse(piece) for piece in value.split(",")]
        except ValueError:
            raise InputError(f"{option.opts[0]} must be numbers such as {example}; got {quoted(value)}.") from None

    return read


def _gain(context: click.Context, option: click.Parameter, value: str) -> float | str:
    """A gain is a number if it reads as one, else the name of a rule."""
    try:
        return float(value)
    except ValueError:
        return value


def _gains(context: click.Context, option: click.Parameter, value: str) -> list[float | str]:
    return [_gain(context, option, name) for name in _names(context, option, value)]


def chosen(**values: Sequence[str]) -> dict[str, Any]:
    """What was chosen, of options that may be given several times; the rest is left to whoever is asked."""
    return {name: list(given) for name, given in values.items() if given}


def was_given(name: str) -> bool:
    """Whether the user said a parameter of the command, rather than its default."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


_OF_ALL = ("seeds", "batch", "cotangent", "dtype", "jobs", "progress")
_IF_GIVEN = ("width", "size")  # of the paper's networks, which have their own unless the user says another


def of_specs(asked: dict[str, Any], *more: str) -> dict[str, Any]:
    """What was asked, less what is about designs where `--spec` names networks, and the other way round.

    Args:
        asked: the parameters of a verb by name.
        more: those that it has for all networks beside what every verb has.

    Raises:
        InputError: an option that is about designs is given with `--spec`, or `--size` without.
    """
    if asked["specs"] is None:
        if asked.get("size") is not None:
            raise InputError(f"--size {asked['size']} is of networks of images: name one, e.g. --spec cifar-20.")
        return {name: value for name, value in asked.items() if name not in ("specs", "size")}
    known = {parameter.name: parameter.opts[0] for parameter in click.get_current_context().command.params}
    kept = ("specs", *_OF_ALL, *more, *(name for name in _IF_GIVEN if name in asked and was_given(name)))
    for name in asked.keys() - {*kept}:
        if was_given(name):
            raise InputError(
                f"{known[name]} is about designs, and --spec names {quoted(', '.join(asked['specs']))}: leave one out."
            )
    return {name: value for name, value in asked.items() if name in kept}


# ----------------------------------------------------------------------------------------------------- the networks


def _number(name: str, default: int, about: str) -> Callable[[Command], Command]:
    return click.option(name, type=int, default=default, show_default=True, help=about)


def _listed(name: str, field: str, default: str, about: str) -> Callable[[Command], Command]:
    return click.option(name, field, default=default, show_default=True, callback=_names, help=about)


def width(default: int = 36, about: str = "Units of the hidden layers.") -> Callable[[Command], Command]:
    """`--width`."""
    return _number("--width", default, about)


def size(
    default: int | None = None, about: str = "With --spec, height and width of the images; --width is channels then."
) -> Callable[[Command], Command]:
    """`--size`."""
    return click.option("--size", type=int, default=default, show_default=default is not None, help=about)


def batch(default: int = 1, about: str = "Samples a network.") -> Callable[[Command], Command]:
    """`--batch`."""
    return _number("--batch", default, about)


def depths(
    default: str, name: str = "--depths", about: str = "Depths: 5,10,20 or first:last:step."
) -> Callable[[Command], Command]:
    """`--depths` (or one of another name), given to the verb as a list of numbers."""
    return click.option(name, default=default, show_default=True, callback=_depths, help=about)


def designs(*default: str) -> Callable[[Command], Command]:
    """`--design`, given once for every design, and to the verb as the list `designs`; as all other verbs have it.

    Not a list with commas, as the names of some designs have commas of their own. Without a default the verb gets an
    empty list where none is given, and leaves them to the study.
    """
    return click.option(
        "--design",
        "designs",
        multiple=True,
        default=default,
        show_default=bool(default),
        callback=functools.partial(_designs, commas=not default),
        help="A design; may be given several times." + ("" if default else " All of the study if none is given."),
    )


def layers(output: str) -> Callable[[Command], Command]:
    """What all layers are like."""
    return several(
        click.option("--init", default="he", show_default=True, help="he, xavier, lecun or torch."),
        click.option("--activation", default="relu", show_default=True, help="relu, tanh or linear."),
        click.option("--output", default=output, show_default=True, help="Activation of the output layer."),
        click.option("--bias", is_flag=True, help="Give every layer a bias."),
    )


orders = _listed("--order", "orders", "before-add,after-add,pre-activation", "Where the ReLU is.")
norms = _listed("--norm", "norms", "none", "none, batch and layer, separated by commas.")
gains = click.option(
    "--gain",
    "gains",
    default="1,1/sqrt(L)",
    show_default=True,
    callback=_gains,
    help="Gains of the branch, separated by commas.",
)
features = _number("--features", 16, "Numbers a sample has.")
cotangent = click.option("--cotangent", default="gaussian", show_default=True, help="gaussian or ones.")
dense = several(
    width(),
    features,
    click.option("--order", default="before-add", show_default=True, help="before-add, after-add or pre-activation."),
    click.option("--norm", default="none", show_default=True, help="none, batch or layer."),
    layers(output="relu"),
    click.option("--shortcut-gain", default="1", show_default=True, callback=_gain, help="A number, 1/sqrt(L) or 1/L."),
    click.option("--branch-gain", default="1", show_default=True, callback=_gain, help="Likewise, or zero."),
    cotangent,
)


def _specs(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str] | None:
    for value in values:
        if "," in value:
            raise InputError(
                f"--spec is one network, given once for each and not with commas; got {quoted(value)}. Write e.g. "
                "--spec cifar-20 --spec cifar-20-plain."
            )
    return list(values) or None


specs = click.option(
    "--spec",
    "specs",
    multiple=True,
    callback=_specs,
    help="A network of the paper, as cifar-20, in place of designs; may be given several times.",
)
sized_specs = several(specs, size())
network = several(
    designs("plain", "residual", "twin", "matched"),
    _number("--depth", 28, "Layers of plain, blocks of residual networks."),
    dense,
)


# -------------------------------------------------------------------------------------------------------- training

data = click.option("--data", default="digits", show_default=True, help="What is learned: digits or patterns.")
order = click.option("--order", default="after-add", show_default=True, help="before-add, after-add or pre-activation.")


def steps(default: int) -> Callable[[Command], Command]:
    """`--steps`."""
    return _number("--steps", default, "Steps of training.")


trained_on = several(
    click.option(
        "--depth", type=int, default=8, show_default=True, help="Blocks of residual networks, layers of plain."
    ),
    width(32),
    data,
    order,
    click.option("--norm", default="batch", show_default=True, help="none, batch or layer."),
    steps(300),
    click.option("--rate", type=float, default=0.1, show_default=True, help="The learning rate."),
)
trained = several(trained_on, batch(64, "Samples a step."))
"""Networks of one depth, and how they are trained before somebody looks into them."""


# ------------------------------------------------------------------------------------------------- seeds and outputs


def seeds(default: int = 200) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--seeds --seed --dtype --jobs`; the verb gets `seeds`, a range, in place of the first two."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @_number("--seeds", default, "How many seeds.")
        @_number("--seed", 0, "The first seed.")
        @click.option("--dtype", default="float64", show_default=True, help="float64 or float32.")
        @_number("--jobs", 1, "Worker processes, -1 for all cores; the numbers stay the same.")
        @functools.wraps(command)
        def with_range(*, seeds: int, seed: int, **fields: Any) -> Any:
            return command(seeds=seed_range(seeds, seed), **fields)

        return with_range

    return decorate


def seed_range(seeds: int, seed: int) -> range:
    """So many seeds from the first.

    Raises:
        InputError: there are none, or they are beyond what the table of readings can hold.
    """
    first = require_int("--seed", seed, least=0)
    last = first + require_int("--seeds", seeds, least=1)
    if last > 2**63:  # seeds are 64-bit numbers in the table of readings
        raise InputError(f"--seed {seed} with --seeds {seeds} goes beyond 2^63: give smaller numbers.")
    return range(first, last)


def path(name: str, field: str | None = None, **told: Any) -> Callable[[Command], Command]:
    """An option that names a file or a folder."""
    return click.option(name, *([field] if field else []), type=click.Path(path_type=Path), **told)


overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
saving = several(
    path("--out", help="Save the readings there (.parquet)."),
    path("--report", "page", help="Write a report there (.html)."),
    overwrite,
)
folder = path("--folder", help="Keep the work there; the same command goes on.")
format_ = click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How the result is written.",
)
images = several(
    click.option("--data", default="digits", show_default=True, help="digits, fashion-mnist or cifar10."),
    path("--data-folder", help="Where its files are, if not where SKIPSCOPE_DATA or the system has them."),
)
"""What networks of images learn; the verb gets `data` and `data_folder`, as `skipscope.data.load_images` takes them."""
quiet = click.option("--quiet", is_flag=True, help="No progress, and only the result.")
