import dataclasses
import json

import pytest

from st_adapter.config import (
    AdapterConfig,
    ClipConfig,
    DataConfig,
    MethodConfig,
    TrainConfig,
    pair_classes,
    parse_views,
    split_pairs,
)
from st_adapter.errors import ArgumentError
from st_adapter.recipes import RECIPES, resolve


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid(recipe):
    assert isinstance(resolve(recipe, None, {}), TrainConfig)


def test_published_learning_rates():
    assert resolve("k400", None, {"processes": 3}).peak_lr() == pytest.approx(7.5e-4)
    assert resolve("ssv2", None, {"processes": 4}).peak_lr() == pytest.approx(1e-3)


def test_published_recipes():
    k400, ssv2 = resolve("k400", None, {}), resolve("ssv2", None, {})
    assert (k400.frames, k400.stride, k400.clip.views, k400.epochs) == (8, 16, (3, 1), 12)
    assert (k400.crop, k400.crop_range, k400.flip) == ("jitter", (1.0, 1.15), True)
    assert (k400.adapter.positions, k400.bottleneck, k400.randaugment) == (("mlp",), 384, False)
    assert (ssv2.frames, ssv2.stride, ssv2.clip.views, ssv2.epochs) == (8, 0, (1, 3), 50)
    assert (ssv2.crop, ssv2.crop_range, ssv2.flip) == ("area", (0.08, 1.0), False)
    assert (ssv2.adapter.positions, ssv2.randaugment) == (("attention", "mlp"), True)
    for recipe in (k400, ssv2):
        assert (recipe.weight_decay, recipe.warmup_epochs, recipe.dropout) == (0.01, 2, 0.5)
        assert (recipe.init, recipe.head_std, recipe.average) == ("conv-zero", 0.02, 0.0)


def test_flags_override_the_file_and_the_file_the_recipe(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"frames": 16, "epochs": 3}))
    config = resolve("k400", file, {"epochs": 1})
    assert (config.frames, config.epochs, config.stride) == (16, 1, 16)


def test_a_record_of_a_run_reads_back_as_the_same_configuration(tmp_path):
    config = resolve("ssv2", None, {"seed": 4})
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"recipe": "ssv2", "data": "x", "config": config.to_json()}))
    assert resolve("default", file, {}) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frmes": 8}, "unknown key 'frmes'; did you mean frames"),
        ({"frames": 0}, "frames must be at least 1, not 0"),
        ({"frames": "8"}, "frames must be int, not '8'"),
        ({"frames": True}, "frames must be int, not True"),
        ({"crop": "foo"}, r"crop must be one of \['area', 'jitter'\], not 'foo'"),
        ({"precision": "float8"}, "precision must be one of"),
        ({"lr": "fast"}, r"lr must be float \| None, not 'fast'"),
        ({"positions": ["mlp"]}, "positions must be str, not"),
        ({"flip": "no"}, "flip must be bool, not 'no'"),
        ({"method": "st-adaptr"}, "unknown method 'st-adaptr'.*did you mean st-adapter"),
        ({"kernel_size": [3, 2, 1]}, "odd numbers"),
        ({"kernel_size": [3, 1]}, "kernel_size must be tuple"),
        ({"positions": ""}, "positions"),
        ({"adapter_layers": "some"}, "adapter_layers takes"),
        ({"adapter_layers": "0"}, "at least 1"),
        ({"lr": None}, "set lr or lr_per_256"),
        ({"lr": -1.0}, "lr must be above 0, not -1.0"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"lr": float("inf")}, "lr must be above 0, not inf"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"average": 1.0}, "average must be at least 0 and below 1, not 1.0"),
        ({"head_std": -1.0}, "head_std must be at least 0, not -1.0"),
        ({"frames": 1}, "init difference needs at least 2 frames.*use init=.up-zero"),
        ({"val_fraction": 1.5}, "val_fraction must be above 0 and below 1, not 1.5"),
        ({"crop_range": [0.0, 1.0]}, r"crop_range must lie within \(0, 1\] for an area crop"),
        ({"crop": "jitter"}, "crop_range must be 1 or more for a jitter crop"),
        ({"views": "3x2"}, "1 or 3 in space"),
        ({"views": "many"}, "written like"),
        ({"bottleneck": 0}, "bottleneck must be at least 1"),
        ({"epochs": -1}, "epochs must be at least 0, not -1"),
        ({"head": "cosin"}, "head must be one of"),
        ({"freeze_head": True}, "freeze_head keeps the class vectors that head_init gives"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ArgumentError, match=message):
        TrainConfig.from_json(values, "file.json")


def test_unknown_recipe_and_unreadable_file_are_named(tmp_path):
    with pytest.raises(ArgumentError, match="unknown recipe 'k40'.*did you mean k400"):
        resolve("k40", None, {})
    with pytest.raises(ArgumentError, match=r"x\.json does not exist"):
        resolve("default", tmp_path / "x.json", {})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"x\.json: not a readable JSON"):
        resolve("default", tmp_path / "x.json", {})


def test_the_default_recipe_is_what_the_study_found():
    config = resolve("default", None, {})
    assert (config.init, config.dropout, config.head_std) == ("difference", 0.0, 0.002)
    assert (config.lr, config.batch_size, config.label_smoothing) == (1e-3, 8, 0.0)


def test_an_int_will_do_for_a_float():
    assert TrainConfig(lr=1, warmup_epochs=0).peak_lr() == 1


def test_a_part_has_the_defaults_of_a_run():
    config = TrainConfig()
    parts = (config.adapter, config.method_config, config.clip, config.data)
    assert parts == (AdapterConfig(), MethodConfig(), ClipConfig(), DataConfig())


def test_a_run_passes_its_settings_to_its_parts():
    config = TrainConfig(
        frames=4, positions="attention,mlp", adapter_layers="1", views="3x1", rank=2
    )
    assert config.adapter == AdapterConfig(positions=("attention", "mlp"), layers=1)
    assert config.clip == ClipConfig(frames=4, views=(3, 1))
    assert config.method_config.rank == 2


def test_every_setting_has_a_full_sentence_of_help():
    texts = [item.metadata["help"] for item in dataclasses.fields(TrainConfig)]
    assert len(texts) > 50
    assert all(text[0].isupper() and text.endswith(".") for text in texts)


def test_a_learning_rate_per_256_clips_replaces_the_absolute_one():
    assert resolve("default", None, {"lr_per_256": 1e-2}).peak_lr() == pytest.approx(1e-2 * 8 / 256)
    assert resolve("k400", None, {"lr": 2e-4}).peak_lr() == 2e-4


def test_clips_check_themselves():
    for values in ({"views": (2, 2)}, {"size": 0}, {"frames": -1}, {"stride": -1}):
        with pytest.raises(ArgumentError, match=next(iter(values))):
            ClipConfig(**values)


def test_views_are_read():
    assert parse_views("3x1") == (3, 1)
    assert parse_views("2") == (2, 1)
    assert parse_views("1X3") == (1, 3)


def test_class_pairs_go_both_ways():
    pairs = {"Sit": "Stand", "Stand": "Sit", "Open": "Close", "Close": "Open"}
    assert pair_classes("reversal", split_pairs("Sit=Stand, Open=Close")) == pairs


@pytest.mark.parametrize("text", ["Sit", "Sit=", "Sit=Stand,Sit=Walk", "Sit=Sit", ""])
@pytest.mark.parametrize("name", ["reversal", "mirror"])
def test_what_is_no_pair_of_classes_is_refused(name, text):
    with pytest.raises(ArgumentError, match=f"{name} takes pairs like"):
        TrainConfig(**{name: text})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mixup": -1.0}, "mixup must be at least 0"),
        ({"cutmix": float("nan")}, "cutmix must be at least 0"),
        ({"erasing": 1.5}, "erasing must be at least 0 and at most 1"),
        ({"repeats": 3}, "batch_size 8 is not a multiple of the 3 repeats"),
        ({"repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_augmentation_that_makes_no_sense_is_refused(values, said):
    with pytest.raises(ArgumentError, match=said):
        TrainConfig(**values)


def test_a_group_that_is_no_pattern_is_refused():
    with pytest.raises(ArgumentError, match="is not a regular expression"):
        TrainConfig(group="(")
