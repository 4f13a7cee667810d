"""What anyone may rely on who reads the package from outside."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "st_adapter"
FILES = sorted(SOURCE.rglob("*.py"))

PRIVATE = {
    "cli/imports.py: _compile": "the module of `_disable_dynamo`",
    "cli/imports.py: _disable_dynamo": "torch's mark for what is not compiled, without the import "
    "of its compiler, which takes longer than torch; in the command alone, which does without "
    "where there is none",
    "training/loop.py: _reset_state": "accelerate keeps one state for the process, and refuses a "
    "second run with other settings; there is no public way to begin anew",
}
"""Private names of other libraries that are used, each with the reason."""


def private_names(file):
    """Private attributes and modules that a file uses and that this package does not define."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        else:
            continue
        yield from (n for n in names if n.startswith("_") and not n.startswith("__"))


def own_names():
    """Every private name that the package itself defines, as a function, class or attribute."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield node.name
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr


def test_private_names_of_other_libraries_are_listed_with_a_reason():
    own = {*own_names(), "_exit"}  # os._exit is public
    found = {
        f"{file.relative_to(SOURCE)}: {name}"
        for file in FILES
        for name in private_names(file)
        if name not in own
    }
    assert len(FILES) > 100
    assert found == set(PRIVATE)


def test_no_function_has_to_be_scrolled():
    """At most 60 lines without the docstring, which for a public name may be long."""
    longest = {
        f"{file.relative_to(SOURCE)}: {node.name}": (node.end_lineno or 0)
        - node.lineno
        + 1
        - len((ast.get_docstring(node, clean=False) or "").splitlines())
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in longest.items() if lines > 60} == {}


def test_no_folder_imports_in_a_circle():
    script = Path(__file__).parents[1] / "scripts" / "draw_house.py"
    drawn = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "imports between rooms" in drawn.stdout


def test_an_import_starts_nothing(tmp_path):
    """No handler of signals or of forks, no logging, no thread, no file, no changed environment."""
    check = """
import logging, os, signal, threading
import torch, timm, torchvision, accelerate, peft, av, matplotlib  # start what they do
import scipy.stats, sklearn.linear_model
hooks = []
os.register_at_fork = lambda **given: hooks.append(given)
signals = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
before = dict(os.environ), threading.active_count(), torch.get_rng_state().sum()
import st_adapter.training.loop
assert not hooks
assert not logging.getLogger("st_adapter").handlers
assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == signals
assert (dict(os.environ), threading.active_count(), torch.get_rng_state().sum()) == before
"""
    subprocess.run([sys.executable, "-c", check], check=True, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_scripts_and_benchmarks_import_what_is_there():
    """They run by hand and seldom; a name that moved would be noticed months later."""
    root = Path(__file__).parents[1]
    files = [
        f for folder in ("scripts", "benchmarks", "examples") for f in root.glob(f"{folder}/*.py")
    ]
    assert len(files) > 30
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("st_adapter"):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    if not hasattr(module, name):
                        importlib.import_module(f"{node.module}.{name}")  # says what is missing
