"""Declare subcommands, with a flag for each setting that they take."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from st_adapter.config import EARLIER_NAMES, TrainConfig, check_limits
from st_adapter.errors import ArgumentError, did_you_mean

DEFAULTS = {item.name: item.default for item in dataclasses.fields(TrainConfig)}
"""Default value of every setting."""

DATA_SETTINGS = ("videos", "columns", "split", "group")
"""Settings that control how DATA is read."""

RUN_SETTINGS = (
    *("weights", "frames", "size", "views", "batch_size"),
    *("workers", "decoder", "compile", "precision", "device"),
)
"""Settings of the subcommands that use a trained run."""

RUN_DEFAULTS = {
    "batch_size": 8,
    "workers": 2,
    "decoder": "pyav",
    "compile": False,
    "precision": "float32",
    "device": "auto",
}
"""Defaults of those subcommands. Settings without one here keep their values from training."""


_PRESENT_FLAGS = {
    f"--{before}".replace("_", "-"): f"--{now}".replace("_", "-")
    for before, now in EARLIER_NAMES.items()
}


class _Path(click.Path):
    """A path that must not be empty, because `Path("")` is the working directory."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Convert to a path; an empty value often comes from an unset shell variable."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class PartOf(click.ParamType[tuple[int, int]]):
    """A part of a table or a data set: its number from 1 and the number of parts, as I/N."""

    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Convert "2/4" to (2, 4)."""
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is not a part such as 1/4, the first of four", param, ctx)
        return int(match[1]), int(match[2])


PATH = _Path(path_type=Path)

DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, help="Show the full traceback of an error."
)
"""A flag without an effect of its own: `main` looks for it after an error."""


class Verbs(click.Group):
    """A group of commands in the order they were added, which suggests names for a typo."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command, which click would cut off to fit its line."""
        rows = [(name, one.get_short_help_str(limit=1000)) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command by name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            hint = did_you_mean(args[0], [*self.commands])
            raise ArgumentError(
                f"unknown command {args[0]!r}; commands are {', '.join(self.commands)}{hint}"
            )
        return super().resolve_command(ctx, args)


class _Verb(click.Command):
    """A command whose help groups its options, and which accepts the earlier names of some."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, with the present name of each option."""
        return super().parse_args(ctx, [_present_name(argument) for argument in args])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def verb(
    *settings: str, name: str | None = None, defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Turn a function into a subcommand with a flag for each of the given settings.

    Args:
        *settings: Names of TrainConfig fields.
        name: Name of the subcommand. By default, the name of the function.
        defaults: Values of flags that are not given. By default, they are all None, so that they
            do not override the recipe.
    """

    def decorate(function: Callable[..., int | None]) -> click.Command:
        command = click.command(name, cls=_Verb)(function)
        command.params += [
            _SettingOption(item, defaults)
            for item in dataclasses.fields(TrainConfig)
            if item.name in settings
        ]
        command.params.append(DEBUG)
        return command

    return decorate


class _SettingOption(click.Option):
    """A flag that is declared by a field of TrainConfig."""

    def __init__(self, item: dataclasses.Field[Any], defaults: Mapping[str, Any] | None) -> None:
        default = None if defaults is None else defaults.get(item.name)
        flag = item.name.replace("_", "-")
        takes_auto = item.name == "batch_size" and defaults is None
        super().__init__(
            [f"--{flag}/--no-{flag}" if item.type is bool else f"--{flag}"],
            default=default,
            help=item.metadata["help"] + _shown_default(item, defaults),
            type=_clips_or_auto if takes_auto else _click_type(item.type),
            metavar="INTEGER|auto" if takes_auto else None,
        )
        self.item = item
        self.group = f"{item.metadata['group']} options"

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert the value, and check that it is within the limits of the setting."""
        read = super().type_cast_value(ctx, value)
        check_limits(self.item, read)
        return read


def _present_name(argument: str) -> str:
    """Return `--keep-features=1` for `--prefix-cache=1`, and other arguments unchanged."""
    flag, *value = argument.split("=", 1)
    present = _PRESENT_FLAGS.get(flag, flag)
    return "=".join([present, *value])


def _shown_default(item: dataclasses.Field[Any], defaults: Mapping[str, Any] | None) -> str:
    """Return the end of a flag's help, which tells its default."""
    values = DEFAULTS if defaults is None else defaults
    shown = values.get(item.name, "as in training")
    if shown is None or item.name not in values:
        shown = None if "By default" in item.metadata["help"] else shown or "none"
    if shown is None:
        return ""
    if isinstance(shown, bool):
        shown = "on" if shown else "off"
    elif isinstance(shown, tuple):
        shown = " ".join(map(str, shown))
    return f"  [default: {shown}]"


def _click_type(declared: Any) -> Any:
    """Return the type for click, which needs no None: flags that are not given are None anyway."""
    if get_origin(declared) is Literal:
        return click.Choice(get_args(declared))
    if get_origin(declared) is tuple:
        return get_args(declared)
    choices = [choice for choice in get_args(declared) if choice is not type(None)]
    return choices[0] if choices else declared


def _clips_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a whole number nor auto") from error


def given_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings whose flags were given. `--batch-size auto` becomes `fit_batch`."""
    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("batch_size") == "auto":
        del given["batch_size"]
        given["fit_batch"] = True
    return given
