import json
import runpy
from pathlib import Path

import pytest
import timm

from st_adapter.catalogue.backbone_table import read_table
from st_adapter.catalogue.costs import inspect_backbone, recipe_costs
from st_adapter.cli.main import main
from st_adapter.recipes import ALIASES, RECIPES, find_recipe, resolve

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_every_published_configuration_has_a_recipe():
    lengths = [
        f"{data}-{size}-{n}f" for data in ALIASES for size in ("b16", "l14") for n in (8, 16, 32)
    ]
    assert set(RECIPES) == {"default", *lengths, *(f"{data}-in21k-b16-8f" for data in ALIASES)}
    for name, recipe in RECIPES.items():
        assert bool(recipe.published) == bool(recipe.source), name
    reached = {name: recipe.published for name, recipe in RECIPES.items() if recipe.published}
    assert reached == {
        "k400-b16-8f": "82.0",
        "k400-b16-32f": "82.7",
        "k400-l14-32f": "87.2",
        "ssv2-b16-8f": "66.9",
        "ssv2-b16-32f": "69.5",
        "ssv2-l14-32f": "72.3",
        "epic-b16-8f": "verb 67.6, noun 55.0",
    }


def test_only_the_released_configurations_have_no_value_of_our_own():
    assert [name for name, recipe in RECIPES.items() if not recipe.chosen] == [
        "default", "k400-b16-8f", "ssv2-b16-8f",
    ]  # fmt: skip


def test_longer_clips_span_the_same_window():
    for frames in (8, 16, 32):
        config = resolve(f"k400-l14-{frames}f", None, {})
        assert (config.frames, config.frames * config.stride) == (frames, 128)
        assert resolve(f"ssv2-l14-{frames}f", None, {}).stride == 0


def test_costs_of_recipes_are_those_that_inspect_counts():
    costs = {cost.name: cost for cost in recipe_costs()}
    assert list(costs) == [name for name in RECIPES if name != "default"]
    assert {cost.adapters for cost in costs.values()} == {"12x384", "24x384", "48x384"}
    for name in ("k400-b16-16f", "epic-l14-8f"):
        config = costs[name].config
        counted = inspect_backbone(
            backbone=config.backbone,
            frames=config.frames,
            size=224,
            classes=find_recipe(name).classes,
            bottleneck=384,
            positions=config.positions,
            adapter_layers="all",
        )
        assert costs[name].trained == counted.adapters + counted.head
        assert costs[name].gmacs == pytest.approx(counted.gmacs, rel=1e-9)


def output(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_recipes_are_listed_and_shown(capsys):
    code, text, _ = output(capsys, "recipes")
    assert code == 0
    line = next(line for line in text.splitlines() if line.startswith("k400-l14-32f"))
    assert line.split()[1:] == [
        "24x384", "19.355", "M", "2747.2", "3x1", "*", "87.2", "paper,", "quoted", "by", "others",
    ]  # fmt: skip
    assert [row["name"] for row in json.loads(output(capsys, "recipes", "--json")[1])]

    code, text, _ = output(capsys, "recipes", "k400-l14-32f")
    assert code == 0
    assert "stride = 4\n" in text
    assert "published top-1, %: 87.2 (paper" in text
    assert "stride: covers the same window of 128 frames" in text
    assert json.loads(output(capsys, "recipes", "ssv2", "--json")[1])["epochs"] == 50

    code, _, error = output(capsys, "recipes", "k400-l14-23f")
    assert code == 2
    assert "did you mean k400-l14-32f" in error


def test_the_packaged_table_has_every_pretrained_model_of_the_timm_it_was_made_with():
    rows = {row.model: row for row in read_table()}
    names = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    assert set(rows) <= set(timm.list_models())
    assert len(set(rows) & names) >= 0.9 * len(names)
    fit = [row for row in rows.values() if not row.refused]
    assert len(fit) >= 0.9 * len(rows)
    assert all(row.adapters and row.positions for row in fit)


@pytest.mark.parametrize(
    "model", ["test_vit", "test_convnext", "levit_128s", "crossvit_tiny_240", "tnt_b_patch16_224"]
)
def test_a_row_of_the_packaged_table_is_found_again(model):
    examine = runpy.run_path(str(SCRIPTS / "list_backbones.py"))["examine"]
    assert examine(model) in read_table()


def test_backbones_are_listed_by_part_of_the_name_or_pattern(capsys):
    code, text, _ = output(capsys, "backbones", "vit_base_patch16_clip_quickgelu")
    assert code == 0
    lines = text.splitlines()
    assert lines[1].split() == [
        "vit_base_patch16_clip_quickgelu_224", "85.8", "M", "224+", "24",
        "metaclip_2pt5b", "metaclip_400m", "openai",
    ]  # fmt: skip
    assert not lines[2]  # the only row
    rows = [
        json.loads(row)
        for row in output(capsys, "backbones", "tnt_*", "--refused", "--json")[1].splitlines()
    ]
    assert len(rows) == 3
    assert all("not one grid of patches" in row["refused"] for row in rows)
    code, text, _ = output(capsys, "backbones", "vit_base_patch16_clip_*.openai")
    rows_shown = text.split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in rows_shown] == [
        "vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224",
    ]  # fmt: skip
    code, _, error = output(capsys, "backbones", "resnet18.nonsense")
    assert code == 2
    assert "resnet18 has no tag 'nonsense'; tags: a1_in1k" in error
    code, _, error = output(capsys, "backbones", "resnett50")
    assert code == 2
    assert "did you mean resnet50" in error
    code, _, error = output(capsys, "backbones", "tnt_*")
    assert code == 2
    assert "no supported backbone matches 'tnt_*'" in error
