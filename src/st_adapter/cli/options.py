"""How verbs and their flags are declared."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from st_adapter.config import TrainConfig, check_limits
from st_adapter.errors import ArgumentError, did_you_mean

DEFAULTS = {item.name: item.default for item in dataclasses.fields(TrainConfig)}
"""Of every setting."""

DATA_SETTINGS = ("videos", "columns", "split")
"""Settings that say how to read DATA."""

RUN_SETTINGS = (
    *("weights", "frames", "size", "views", "batch_size"),
    *("workers", "decoder", "compile", "precision", "device"),
)
"""Settings of the verbs that use a trained run."""

RUN_DEFAULTS = {
    "batch_size": 8,
    "workers": 2,
    "decoder": "pyav",
    "compile": False,
    "precision": "float32",
    "device": "auto",
}
"""What those verbs take; the other settings, unset, are those that the run was trained with."""


class _Path(click.Path):
    """A path that is not empty: an empty one would be the working directory."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse what a shell makes of a variable that is not set."""
        if value == "":
            self.fail("it is empty; give a path", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)

DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, help="Show the traceback behind an error."
)
"""A flag that `main` looks for when an error has ended the verb."""


class Verbs(click.Group):
    """Commands in the order they were added, with near misses for a mistyped one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb, or name similar ones."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            hint = did_you_mean(args[0], [*self.commands])
            raise ArgumentError(f"no verb {args[0]!r}; have {', '.join(self.commands)}{hint}")
        return super().resolve_command(ctx, args)


class _Verb(click.Command):
    """A command whose help lists its flags in groups."""

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
    """Make a function a verb, with a flag for each of some settings of TrainConfig.

    Args:
        settings: names of fields.
        name: the verb; unset is the name of the function.
        defaults: values of flags that are not given. Unset makes all of them None, so that they
            override no recipe.
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
    """A flag made of a field of TrainConfig."""

    def __init__(self, item: dataclasses.Field[Any], defaults: Mapping[str, Any] | None) -> None:
        default = None if defaults is None else defaults.get(item.name)
        shown = item.default if defaults is None else default
        if isinstance(shown, tuple):
            shown = " ".join(map(str, shown))
        note = "" if shown is None else f"  [default: {shown}]"
        if defaults is None:
            note = f"  [default recipe: {'unset' if shown is None else shown}]"
        flag = item.name.replace("_", "-")
        takes_auto = item.name == "batch_size" and defaults is None
        super().__init__(
            [f"--{flag}/--no-{flag}" if item.type is bool else f"--{flag}"],
            default=default,
            help=item.metadata["help"] + note,
            type=_clips_or_auto if takes_auto else _click_type(item.type),
            metavar="INTEGER|auto" if takes_auto else None,
        )
        self.item = item
        self.group = f"{item.metadata['group']} options"

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Read the value and hold it to the limits of the setting."""
        read = super().type_cast_value(ctx, value)
        check_limits(self.item, read)
        return read


def _click_type(kind: Any) -> Any:
    """Click's name of a type; None is a flag that is not given."""
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        return get_args(kind)
    choices = [choice for choice in get_args(kind) if choice is not type(None)]
    return choices[0] if choices else kind


def _clips_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is neither a whole number nor auto") from error


def given_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """Fields of TrainConfig whose flags were given."""
    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("batch_size") == "auto":
        del given["batch_size"]
        given["fit_batch"] = True
    return given
