"""What the docs promise about themselves. Their code blocks run by `conftest.py` in the root."""

import re
import tomllib
from pathlib import Path

import st_adapter
from st_adapter.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNS_ELSEWHERE = re.compile(r"model hub|network|GPU|CLIP's weights|the CI script")


def test_readme_has_two_commands_and_ci_runs_the_second():
    blocks = [block.strip() for block in re.findall(r"```sh\n(.*?)```", README, flags=re.S)]
    demo = [block for block in blocks if block.endswith("st-adapter demo")]
    tests = [block for block in blocks if block.endswith("pytest")]
    assert len(demo) == len(tests) == 1
    assert tests[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_names_every_verb():
    assert all(f"`st-adapter {verb}" in README for verb in app.commands)


def test_readme_is_short_and_shows_the_first_result_on_its_first_screen():
    lines = README.splitlines()
    assert len(lines) < 150
    first = "\n".join(lines[:40])
    assert "](docs/images/demo.png)" in first
    assert "pip install" in first
    assert "```text" in first


def test_the_picture_of_the_readme_is_small():
    assert 10_000 < (ROOT / "docs" / "images" / "demo.png").stat().st_size < 200_000


def test_every_skipped_block_says_why_it_cannot_run_here():
    reasons = [
        reason
        for page in PAGES
        for reason in re.findall(r"<!-- skip: next ?(.*?) ?-->", page.read_text())
    ]
    assert len(reasons) >= 2
    for reason in reasons:
        assert RUNS_ELSEWHERE.search(reason), reason


def test_the_requirements_list_exactly_the_extras():
    page = (ROOT / "docs" / "reference" / "requirements.md").read_text()
    table = page.partition("## Extras")[2].partition("## GPU")[0]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*re.findall(r"^\| `([\w-]+)`", table, re.M)} == {*extras["optional-dependencies"]}


def test_links_in_the_docs_lead_somewhere():
    links = 0
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)
            links += 1
    assert links >= 20


def test_the_reference_documents_exactly_the_public_names():
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    documented = re.findall(r"^::: st_adapter\.(\w+)$", page, flags=re.M)
    assert sorted(documented) == sorted(st_adapter.__all__)
