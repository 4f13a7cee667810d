import re
from pathlib import Path

import pytest

from st_adapter.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, flags=re.S)


def test_readme_opens_with_two_commands_and_ci_runs_the_second():
    demo, tests = (text.strip() for kind, text in BLOCKS[:2])
    assert demo.endswith("st-adapter demo")
    assert tests.endswith("pytest")
    assert tests in (ROOT / ".ci" / "run").read_text().splitlines()


def test_readme_names_every_verb():
    assert all(f"`st-adapter {verb}" in README for verb in app.commands)


def test_python_in_the_readme_runs(trained_run, folder_data, tmp_path, monkeypatch, capsys):
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert len(blocks) == 3
    (tmp_path / "run").symlink_to(trained_run)
    (tmp_path / "my_videos").symlink_to(folder_data)
    (tmp_path / "new.mp4").symlink_to(folder_data / "darkens" / "clip 0.mp4")
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block.replace("pretrained=True, ", ""), {})  # the model hub is not asked in tests
    said = capsys.readouterr().out
    assert re.search(r"(brightens|darkens): \d+\.\d%", said)
    assert re.search(r"top-1 \d+\.\d% on 2 videos that were held out", said)


@pytest.mark.parametrize("kind", ["sh"])
def test_commands_in_the_readme_parse(kind):
    lines = [
        line.split()[1:]
        for found, text in BLOCKS
        if found == kind
        for line in text.splitlines()
        if line.startswith("st-adapter ")
    ]
    assert len(lines) == 2
    for verb, *arguments in lines:
        app.commands[verb].make_context(verb, arguments)


def test_links_in_the_docs_lead_somewhere():
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert len(files) >= 2
    links = 0
    for file in files:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", file.read_text()):
            assert (file.parent / target).exists(), (file, target)
            links += 1
    assert links >= 2
