"""Laws of every method: what it trains, what it leaves alone, what it saves, if it sees order."""

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from st_adapter.backbones.build import create_backbone
from st_adapter.catalogue.costs import inspect_backbone
from st_adapter.errors import ArgumentError
from st_adapter.methods import METHODS
from st_adapter.model import checkpoint

LABELS = ("a", "b", "c")
BACKBONES = {
    "test_vit": 160,
    "test_efficientnet": 64,
    "beit_base_patch16_224": 64,
    "test_convnext": 64,
}
PROMPTED = {"test_vit"}
SLIM = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 64, "init_values": 1}


def fits(method, backbone):
    return METHODS[method].prompts == "none" or backbone in PROMPTED


CASES = [(m, b) for m in METHODS for b in BACKBONES if fits(m, b)]
cases = pytest.mark.parametrize(("method", "backbone"), CASES)
named = pytest.mark.parametrize(("method", "backbone"), [c for c in CASES if "beit" not in c[1]])
"""Without the slim BEiT, which has no name to be built again by."""


def make_backbone(name):
    torch.manual_seed(0)
    return create_backbone(name, **(SLIM if name.startswith("beit") else {})).eval()


def make_model(method, backbone, **options):
    frozen = make_backbone(backbone)
    return st_adapter.attach(frozen, LABELS, method=method, dropout=0.0, **options)


def random_clips(backbone, frames=3):
    size = BACKBONES[backbone]
    return torch.randint(0, 256, (2, frames, 3, size, size), dtype=torch.uint8)


def train_steps(model, clips, steps=3):
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        F.cross_entropy(model(clips), torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@cases
def test_three_steps_move_what_a_method_trains_and_nothing_else(method, backbone):
    model = make_model(method, backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = model.trained_tensors()
    train_steps(model, random_clips(backbone))
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert moved <= set(trained)
    still = set(trained) - moved
    assert {"head.weight", "head.bias"} <= moved
    assert len(still) <= len(trained) / 10, still  # a class token or a norm that nothing reads


@cases
def test_only_order_aware_methods_answer_otherwise_for_a_reversed_clip(method, backbone):
    clips = random_clips(backbone)
    model = train_steps(make_model(method, backbone), clips)
    with torch.inference_mode():
        forward, backward = model(clips), model(clips.flip(1))
    changed = (forward - backward).abs().max() > 1e-5 * forward.abs().max()
    order_aware = ("st-adapter", "temporal", "full-temporal", "ordered", "side")
    assert bool(changed) == (method in order_aware) == METHODS[method].sees_order


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_costs_is_counted_without_weights_or_data(method, backbone):
    choices = {"backbone": backbone, "frames": 2, "size": 64, "classes": 3, "method": method}
    if "prompt" in method and backbone == "test_efficientnet":
        with pytest.raises(ArgumentError, match="needs a plain vision transformer"):
            inspect_backbone(**choices)
        return
    assert inspect_backbone(**choices).gmacs > 0


@named
def test_a_saved_classifier_answers_alike_and_its_file_holds_the_trained_alone(
    method, backbone, tmp_path
):
    model = st_adapter.create_model(backbone, LABELS, weights="random", method=method, dropout=0.0)
    clips = random_clips(backbone)
    train_steps(model, clips)
    model.save_adapter(tmp_path)
    saved = checkpoint.read_tensors(tmp_path)
    assert set(saved) == set(model.trained_tensors())
    again = st_adapter.load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(clips), model(clips))


@cases
def test_any_number_of_frames(method, backbone):
    model = make_model(method, backbone).eval()
    for frames in (1, 5):
        with torch.inference_mode():
            assert model(random_clips(backbone, frames)).shape == (2, len(LABELS))


@cases
def test_disabled_is_the_frozen_image_model_where_there_is_one(method, backbone):
    clips = random_clips(backbone)
    model = make_model(method, backbone).eval()
    if not METHODS[method].has_frozen_model:
        with pytest.raises(ArgumentError, match="no frozen image model"):
            model.adapters_disabled().__enter__()
        return
    frozen = make_model("linear", backbone).eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.normal_(std=0.3)
    with torch.inference_mode():
        enabled = model.features(clips)
        with model.adapters_disabled():
            assert torch.equal(model.features(clips), frozen.features(clips))
        assert torch.equal(model.features(clips), enabled)
        assert torch.equal(enabled, frozen.features(clips)) == (method == "linear")


@pytest.mark.parametrize("method", ["prompt", "prompt-shallow"])
def test_prompts_are_refused_where_blocks_take_no_further_tokens(method):
    with pytest.raises(ArgumentError, match="needs a plain vision transformer"):
        make_model(method, "test_resnet")


def test_deep_prompts_take_the_place_of_those_before():
    sizes = st_adapter.MethodConfig(prompt_tokens=3)
    deep = make_model("prompt", "test_vit", method_config=sizes)
    shallow = make_model("prompt-shallow", "test_vit", method_config=sizes)
    num_blocks = len(deep.backbone.blocks)
    assert [list(p.shape) for p in deep.prompts] == [[3, 64]] * num_blocks
    assert [list(p.shape) for p in shallow.prompts] == [[3, 64]]
    seen = []
    for block in deep.backbone.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        block.norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    with torch.inference_mode():
        deep(random_clips("test_vit"))
    assert seen == [1 + 3 + 100] * num_blocks


def test_low_rank_updates_are_put_on_maps_that_are_called_alone():
    names = [
        n for n in make_model("lora", "beit_base_patch16_224").trained_tensors() if "lora_A" in n
    ]
    assert [n.split("backbone.")[1].split(".lora")[0] for n in names] == [
        f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.proj", "mlp.fc1", "mlp.fc2")
    ]


def test_partial_trains_the_last_blocks_alone():
    sizes = st_adapter.MethodConfig(trained_blocks=1)
    model = make_model("partial", "test_vit", method_config=sizes)
    last = len(model.backbone.blocks) - 1
    inside = [n for n in model.trained_tensors() if n.startswith("backbone")]
    assert inside
    assert all(n.startswith(f"backbone.blocks.{last}.") for n in inside)


def test_more_trained_blocks_than_there_are_is_an_error():
    sizes = st_adapter.MethodConfig(trained_blocks=99)
    with pytest.raises(ArgumentError, match="trained blocks must be at most .* not 99"):
        make_model("partial", "test_vit", method_config=sizes)


def test_every_method_names_its_source():
    assert all(
        "arXiv" in m.source or m.source.startswith("an upper bound") for m in METHODS.values()
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", METHODS)
def test_an_exported_classifier_takes_other_numbers_of_clips_and_frames(method):
    model = train_steps(make_model(method, "test_vit"), random_clips("test_vit"), steps=1)
    shapes = {0: torch.export.Dim("clips"), 1: torch.export.Dim("frames")}
    with torch.no_grad():
        example = random_clips("test_vit")
        program = torch.export.export(model, (example,), dynamic_shapes=(shapes,))
        other = random_clips("test_vit", frames=5).repeat(2, 1, 1, 1, 1)
        torch.testing.assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["full", "partial"])
def test_backbones_that_keep_position_biases_are_trained_step_after_step(method):
    torch.manual_seed(0)
    options = {"embed_dim": (16, 24, 32), "key_dim": 8, "depth": (1, 1, 1), "num_heads": (2, 2, 2)}
    backbone = create_backbone("levit_128s", img_size=64, **options)
    model = st_adapter.attach(backbone, LABELS, method=method, dropout=0.0)
    clips = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    trained = [n for n in model.trained_tensors() if "attention_biases" in n]
    before = {n: model.get_parameter(n).detach().clone() for n in trained}
    train_steps(model, clips)
    assert trained
    assert any(not torch.equal(model.get_parameter(n), before[n]) for n in trained)


def test_lora_is_in_every_block_alike():
    model = st_adapter.create_model("test_vit", ["a", "b"], weights="random", method="lora")
    names = [n.removeprefix("backbone.blocks.").split(".", 1) for n in model.trained_tensors()]
    inside = {i: {name for block, name in names if block == str(i)} for i in range(6)}
    assert all("attn.qkv.lora_A.default.weight" in found for found in inside.values())
    assert len(set(map(frozenset, inside.values()))) == 1
