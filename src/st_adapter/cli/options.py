"""Flags of the command: those made of the configuration's fields, those of every trained run."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from st_adapter.config import PRECISIONS, TrainConfig
from st_adapter.errors import ArgumentError, did_you_mean


class _Verb(click.Command):
    """A command whose help lists its flags in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Verbs(click.Group):
    """Commands in the order of a user's day, with near misses for a mistyped one."""

    command_class = _Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were made."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb, or say which are near."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            hint = did_you_mean(args[0], [*self.commands])
            raise ArgumentError(f"no verb {args[0]!r}; have {', '.join(self.commands)}{hint}")
        return super().resolve_command(ctx, args)


class _ConfigOption(click.Option):
    """A flag made of a field of TrainConfig; unset unless given, so that it overrides a recipe."""

    def __init__(self, item: dataclasses.Field[Any], kind: Any) -> None:
        name = item.name.replace("_", "-")
        inner = [a for a in get_args(kind) if a is not type(None)]
        if get_origin(kind) is not Literal and type(None) in get_args(kind):
            kind = inner[0]
        shown = "unset" if item.default is None else item.default
        if isinstance(shown, tuple):
            shown = " ".join(map(str, shown))
        super().__init__(
            [f"--{name}/--no-{name}" if kind is bool else f"--{name}"],
            default=None,
            help=f"{item.metadata['help']}  [default recipe: {shown}]",
            **_click_type(_size_or_auto if item.name == "batch_size" else kind),
        )
        self.group = f"{item.metadata['group']} options"


def _size_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a whole number nor auto") from None


def given_values(flags: dict[str, Any]) -> dict[str, Any]:
    """Fields of TrainConfig by the flags that were given."""
    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("batch_size") == "auto":
        del given["batch_size"]
        given["fit_batch"] = True
    return given


def _click_type(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"nargs": len(get_args(kind)), "type": get_args(kind)[0]}
    if kind is _size_or_auto:
        return {"type": kind, "metavar": "INTEGER|auto"}
    return {"type": kind}


def config_options(*without: str) -> Callable[[click.Command], click.Command]:
    """Give a verb one flag for each field of TrainConfig, but for those named."""
    hints = get_type_hints(TrainConfig)

    def decorate(command: click.Command) -> click.Command:
        command.params += [
            _ConfigOption(item, hints[item.name])
            for item in dataclasses.fields(TrainConfig)
            if item.name not in without
        ]
        return command

    return decorate


def data_options(command: Callable[..., int]) -> Callable[..., int]:
    """Flags that say where the videos of a list are and what its columns are called."""
    for option in (
        click.option("--split", type=click.IntRange(1), help="Of several published ones (HMDB51)."),
        click.option("--columns", help="What a table calls its columns: path=file,label=class."),
        click.option("--videos", help="Folder of the videos that DATA lists."),
    ):
        command = option(command)
    return command


def run_options(command: Callable[..., int]) -> Callable[..., int]:
    """Flags of the verbs that use a trained run."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps ..."),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="float32",
            show_default=True,
            help="Arithmetic; auto takes bfloat16 where that is 1.15 times as fast.",
        ),
        click.option(
            "--decoder",
            type=click.Choice(("pyav", "torchcodec")),
            default="pyav",
            show_default=True,
            help="What decodes videos.",
        ),
        click.option("--compile", is_flag=True, help="torch.compile; for many videos."),
        click.option("--workers", type=click.IntRange(0), default=2, help="Decoding processes."),
        click.option("--batch-size", type=click.IntRange(1), default=8, help="Clips at a time."),
        click.option("--size", type=click.IntRange(1), help="Pixels of a clip, if not as trained."),
        click.option("--frames", type=click.IntRange(1), help="Frames, if not as in training."),
        click.option("--views", help='Temporal x spatial views, such as "3x1".'),
        click.option("--weights", help="The backbone's weights, if not where they were."),
    ):
        command = option(command)
    return command
