"""Fill the reference pages of the site from the code, so that they cannot go out of date."""

import dataclasses
from collections.abc import Iterable

from st_adapter.config import TrainConfig
from st_adapter.methods import METHODS
from st_adapter.recipes import ALIASES, RECIPES


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the marks `[[configuration]]`, `[[methods]]` and `[[recipes]]` of a page."""
    for mark, write in (
        ("[[configuration]]", configuration),
        ("[[methods]]", methods),
        ("[[recipes]]", recipes),
    ):
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return markdown


def configuration() -> str:
    """One table of settings per group."""
    groups: dict[str, list[list[str]]] = {}
    for item in dataclasses.fields(TrainConfig):
        limits = ", ".join(
            f"{word.replace('_', ' ')} {limit}" for word, limit in item.metadata["limits"].items()
        )
        default = "unset" if item.default is None else f"`{_plain(item.default)}`"
        text = item.metadata["help"] + (f" Range: {limits}." if limits else "")
        groups.setdefault(item.metadata["group"], []).append([f"`{item.name}`", default, text])
    return "\n\n".join(
        f"## {group}\n\n{_table(['setting', 'default', 'what it does'], rows)}"
        for group, rows in groups.items()
    )


def methods() -> str:
    """The transfer methods: what each trains, and who described it."""
    rows = [[f"`{name}`", method.summary, method.source] for name, method in METHODS.items()]
    return _table(["method", "trains, besides the head", "source"], rows)


def recipes() -> str:
    """What each recipe sets."""
    short = {name: alias for alias, name in ALIASES.items()}
    rows = []
    for name, recipe in RECIPES.items():
        values = ", ".join(f"`{key}={_plain(value)}`" for key, value in recipe.values.items())
        alias = f" (`{short[name]}`)" if name in short else ""
        rows.append([f"`{name}`{alias}", values or "the defaults above", recipe.published])
    return _table(["recipe", "sets", "published top-1, %"], rows)


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
