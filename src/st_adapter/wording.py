"""How messages name settings: flags for the command, arguments for a Python program."""

import re
from contextvars import ContextVar

COMMAND: ContextVar[str] = ContextVar("command", default="")
"""The command line that is being run, or "" in a program that uses the library."""

SWITCHES = {
    *("checkpoint-activations", "compile", "fit-batch", "flip", "randaugment", "resume"),
    *("square-pixels", "temporal"),
}
"""Flags without a value, which are arguments with the value True."""

VALUES = {
    *("None", "True", "False", "all", "none", "auto", "cpu", "hub", "package", "random"),
    *("area", "jitter", "names", "same", "relu", "gelu", "difference", "best", "last"),
    *("pyav", "torchcodec", "tensorboard", "trackio", "wandb"),
}
"""Words that are the value of the flag before them.

So is any word in capitals, or with a digit or a sign such as "_" in it. Other words continue the
sentence.
"""

# A whole shell command, which means the same in a program; or a flag and perhaps its value. What
# comes before a flag tells it from a part of a path, and what follows from a flag such as
# accelerate's --multi_gpu.
_SHELL_OR_FLAG = re.compile(
    r"""(?:st-adapter\ [a-z-]+\ |docker\ run\ )[^\n)]*
    | (?<![\w/.-])--(?P<flag>[a-z][a-z0-9-]*)(?![\w=])(?:\ (?P<word>\w[^\s;)]*(?<![,.:])))?""",
    re.VERBOSE,
)


def for_caller(message: str) -> str:
    """Write the settings in a message as the caller gives them.

    Messages are written with flags, such as "lower --lr, or use --precision float32". They stay so
    in the command. In a program they become 'lower lr, or use precision="float32"'.
    """
    return message if COMMAND.get() else _SHELL_OR_FLAG.sub(_as_argument, message)


def _as_argument(match: re.Match[str]) -> str:
    flag, word = match["flag"], match["word"]
    if flag is None:
        return match[0]
    name, rest = flag.removeprefix("no-").replace("-", "_"), "" if word is None else f" {word}"
    if word is not None and _is_value(word):
        argument, rest = f"{name}={_literal(word)}", ""
    elif flag.startswith("no-"):
        argument = f"{name}=False"
    else:
        argument = f"{name}=True" if flag in SWITCHES else name
    # Of "--batch-size 4 --accumulate 2", two arguments are separated by a comma.
    comma = "," if match.string.startswith(" --", match.end()) and "=" in argument else ""
    return argument + rest + comma


def _is_value(word: str) -> bool:
    return word in VALUES or word.isupper() or bool(re.search(r"[\d_=:/-]", word))


def _literal(word: str) -> str:
    """Write a value as in Python: numbers and placeholders such as FILE as they are."""
    bare = (
        word.isupper()
        or word in ("None", "True", "False")
        or re.fullmatch(r"[\d.]+(e-?\d+)?", word)
    )
    return word if bare else f'"{word}"'


def setting(name: str, value: object = "") -> str:
    """Name a setting, and perhaps a value, as the caller gives it.

    Call it where the message is made, not when a module is imported.

    Args:
        name: The flag without its dashes, such as "batch-size", or the name of the argument.
        value: A value to advise, or a placeholder in capitals, such as "FILE".

    Returns:
        `--batch-size`, `--precision float32` or `--weights FILE` while a command line is run.
        Otherwise `batch_size`, `precision="float32"` or `weights=FILE`.
    """
    if COMMAND.get():
        flag = f"--{name.replace('_', '-')}"
        return flag if value == "" else f"{flag} {value}"
    argument = name.replace("-", "_")
    if value == "":
        return argument
    is_word = isinstance(value, str) and not value.isupper()
    return f'{argument}="{value}"' if is_word else f"{argument}={value}"


def switch(name: str, *, on: bool = True) -> str:
    """Name a setting that is on or off, as the caller turns it on or off.

    Returns:
        `--flip` or `--no-flip` while a command line is run, otherwise `flip=True` or `flip=False`.
    """
    if COMMAND.get():
        return setting(name if on else f"no-{name}")
    return setting(name, on)
