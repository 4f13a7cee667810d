"""What type checkers see of the package: its public names, and the Python examples of the docs."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import st_adapter

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "docs" / "tutorial.md"),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
PUBLIC = {name: getattr(st_adapter, name) for name in st_adapter.__all__}

MYPY = """
[mypy]
check_untyped_defs = true
allow_redefinition_new = true
local_partial_types = true
ignore_missing_imports = true
follow_imports = silent
mypy_path = {source}
[mypy-st_adapter.*]
ignore_missing_imports = false
[mypy-timm.*,torchvision.*,accelerate.*,peft.*]
follow_imports = skip
"""


def functions():
    """Every public function, and every public method of a public class, by name."""
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield name, value
            continue
        for attribute, member in vars(value).items():
            ours = inspect.isfunction(member) and member.__module__.startswith("st_adapter")
            if ours and (not attribute.startswith("_") or attribute in ("__init__", "__call__")):
                yield f"{name}.{attribute}", member


def own_types(annotation):
    """Classes of this package in an annotation."""
    for part in get_args(annotation):
        yield from own_types(part)
    if getattr(annotation, "__module__", "").startswith("st_adapter"):
        yield annotation.__name__


def test_type_checkers_are_told_the_same_names_as_programs():
    tree = ast.parse((ROOT / "src" / "st_adapter" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (f"st_adapter.{home}", name) for home, names in st_adapter._HOMES.items() for name in names
    }
    assert {(node.module, node.names[0].asname) for node in block.body} == imported


def test_every_public_function_is_annotated():
    found = dict(functions())
    assert len(found) > 20
    for name, function in found.items():
        signature = inspect.signature(function)
        given = {n for n, p in signature.parameters.items() if p.annotation is not p.empty}
        assert given >= {*signature.parameters} - {"self"}, name
        assert signature.return_annotation is not signature.empty, name


@pytest.mark.parametrize(
    "name", ["attach", "create_model", "load", "train", "evaluate", "advise", "push"]
)
def test_types_in_the_signatures_of_functions_are_public(name):
    hints = get_type_hints(PUBLIC[name])
    assert {own for hint in hints.values() for own in own_types(hint)} <= PUBLIC.keys()


def test_the_package_says_that_it_has_types():
    """Hatchling puts every file of the package that git does not ignore into the wheel."""
    marker = "src/st_adapter/py.typed"
    assert (ROOT / marker).read_bytes() == b""
    ignored = subprocess.run(["git", "check-ignore", "-q", marker], cwd=ROOT, check=False)
    assert ignored.returncode != 0


def test_the_python_examples_of_the_docs_have_no_type_errors(tmp_path):
    """One call checks all pages; the blocks of a page are one program."""
    (tmp_path / "mypy.ini").write_text(MYPY.format(source=ROOT / "src"))
    files = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)
        if blocks:
            files.append(tmp_path / f"{page.stem.replace('-', '_')}.py")
            files[-1].write_text("\n".join(blocks))
    assert len(files) >= 10
    files.append(tmp_path / "wrong.py")  # shows that mistakes are found
    files[-1].write_text("import st_adapter\nst_adapter.atach\nst_adapter.load(3)\n")
    cache = ["--cache-dir", str(ROOT / ".mypy_cache" / "docs")]
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", *cache, *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert 'wrong.py:2: error: Module has no attribute "atach"' in lines[0]
    assert 'wrong.py:3: error: Argument 1 to "load" has incompatible type "int"' in lines[1]
