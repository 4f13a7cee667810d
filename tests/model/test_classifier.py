import pytest
import timm
import torch
import torch.nn.functional as F

import st_adapter
from conftest import randomise
from st_adapter.errors import ArgumentError

LABELS = ["a", "b", "c"]


def make_backbone(name):
    """A small random model of each kind; every one takes any input size."""
    torch.manual_seed(0)
    if name == "clip":
        tiny = {"embed_dim": 32, "depth": 3, "num_heads": 2, "dynamic_img_size": True}
        return timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, **tiny)
    options = {"dynamic_img_size": True} if "vit" in name else {}
    return timm.create_model(name, num_classes=0, **options)


def make_model(name, **options):
    model = st_adapter.attach(make_backbone(name), labels=LABELS, **options)
    return model.eval()


def random_clips(frames=3, batch=2):
    return torch.randint(0, 256, (batch, frames, 3, 64, 64), dtype=torch.uint8)


def train_three_steps(model, clips):
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=0.03)
    labels = torch.arange(len(clips)) % len(LABELS)
    model.train()
    for _ in range(3):
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def test_the_scale_of_a_clip_does_not_depend_on_its_neighbour():
    model = st_adapter.create_model("test_vit", ["a", "b"], weights="random").eval()
    dark, bright = torch.full((1, 2, 3, 32, 32), 0.9), torch.full((1, 2, 3, 32, 32), 200.0)
    with torch.no_grad():
        together = model(torch.cat([dark, bright]))
        torch.testing.assert_close(together, torch.cat([model(dark), model(bright)]))


@pytest.mark.parametrize("name", ["test_vit", "xcit_nano_12_p16_224"])
def test_a_classifier_can_be_built_in_inference_mode(name):
    with torch.inference_mode():
        st_adapter.create_model(name, ["a", "b"], weights="random")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_spatial_adapter_is_blind_to_order(name):
    model, clips = randomise(make_model(name, method="adapter")), random_clips(frames=4)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), model(clips.flip(1)), rtol=1e-4, atol=1e-5)


def test_clips_in_one_batch_do_not_mix():
    model = randomise(make_model("test_vit"))
    clips = random_clips(frames=4, batch=3)
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in clips])
        torch.testing.assert_close(model(clips), alone, rtol=1e-4, atol=1e-5)


def test_adapters_are_on_again_after_overlapping_uses_of_disabled():
    model, clips = randomise(make_model("test_vit")), random_clips()
    with torch.no_grad():
        expected = model(clips)
        one, two = model.adapters_disabled(), model.adapters_disabled()
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert not torch.equal(model(clips), expected)
        two.__exit__(None, None, None)
        assert torch.equal(model(clips), expected)


def test_attach_renames_copies_and_changes_no_tensor():
    backbone = make_backbone("test_vit")
    before = {name: (p.data_ptr(), p.clone()) for name, p in backbone.named_parameters()}
    model = st_adapter.attach(backbone, labels=LABELS)
    train_three_steps(model, random_clips())
    after = dict(backbone.named_parameters())
    assert list(after) == list(before)
    for name, (pointer, values) in before.items():
        assert after[name].data_ptr() == pointer
        assert torch.equal(after[name], values)


def test_float_clips_in_0_to_1_equal_uint8_clips():
    model, clips = make_model("test_vit"), random_clips()
    floats = clips / 255
    given = floats.clone(), clips.clone()
    with torch.no_grad():
        torch.testing.assert_close(model(floats), model(clips))
    assert torch.equal(floats, given[0])
    assert torch.equal(clips, given[1])


def test_batch_norm_keeps_its_statistics_in_training():
    model = make_model("test_resnet").train()
    before = model.backbone.bn1.running_mean.clone()
    model(random_clips())
    assert torch.equal(model.backbone.bn1.running_mean, before)


def test_positions_and_layers_choose_the_sites():
    config = st_adapter.AdapterConfig(bottleneck=8, positions=("mlp",), layers=2)
    model = make_model("clip", adapter=config)
    assert list(model.adapters) == ["blocks_1_mlp", "blocks_2_mlp"]
    assert model.adapters["blocks_2_mlp"].down.weight.shape == (8, 32)
    everywhere = make_model("clip")
    assert len(everywhere.adapters) == 6
    assert everywhere.adapters["blocks_0_mlp"].down.weight.shape == (16, 32)


def test_parameters_are_counted_by_part():
    model = make_model("test_vit", method="linear")
    assert len(model.trainable_parameters()) == 2
    assert model.num_parameters(only_trainable=True) == 64 * 3 + 3
    frozen = sum(p.numel() for p in make_backbone("test_vit").parameters())
    assert model.num_parameters() == frozen + 64 * 3 + 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "labels must be one or more different names"),
        ({"labels": ["a", "a"]}, "labels must be one or more different names"),
        ({"labels": "ab"}, "a list of names, not the text 'ab'"),
        ({"method": "lora-x"}, "unknown method 'lora-x'"),
        ({"adapter": st_adapter.AdapterConfig(positions=("norm",))}, "not 'norm'"),
        (
            {"adapter": st_adapter.AdapterConfig(layers=99)},
            "adapter layers must be at most .* not 99",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        st_adapter.attach(make_backbone("test_vit"), **({"labels": LABELS} | arguments))


def test_clips_of_another_shape_are_refused():
    model = make_model("test_vit")
    unchecked = type(model).forward.__wrapped__  # below the shape checks of the tests
    with pytest.raises(ArgumentError, match=r"\[b, t, 3, h, w\], not \[2, 3, 64, 64\]"):
        unchecked(model, torch.zeros(2, 3, 64, 64))
    with pytest.raises(ArgumentError, match=r"not \[2, 0, 3, 64, 64\]"):
        unchecked(model, torch.zeros(2, 0, 3, 64, 64))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_checkpointed_activations_give_the_same_gradients(precision):
    clips = torch.rand(2, 4, 3, 32, 32)
    model = randomise(make_model("test_vit"))

    def gradients():
        kept = []
        keep = torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: kept.pop())
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = model(clips).square().sum()
            with keep:
                again = model(clips)
        model.zero_grad()
        loss.backward()
        del again
        return [p.grad for p in model.trainable_parameters() if p.grad is not None], len(kept)

    plain, many = gradients()
    model.family.checkpoints = True
    recomputed, few = gradients()
    assert all(map(torch.equal, plain, recomputed))
    assert few < many / 2


def test_floats_of_both_scales_are_the_same_clip():
    model = st_adapter.create_model("test_vit", ["a", "b"], weights="random").eval()
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(clips)
        for given in (clips.float(), clips.float() / 255, clips.half(), (clips / 255).double()):
            torch.testing.assert_close(model(given), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_a_model_of_one_channel_is_refused_in_a_line(name):
    backbone = timm.create_model(name, in_chans=1, num_classes=0)
    with pytest.raises(ArgumentError, match="does not take the three channels of RGB"):
        st_adapter.attach(backbone, ["a", "b"])


def test_distributed_data_parallel_trains_step_after_step(tmp_path):
    """Whatever asks for a gradient gets one: the wrapper fails in its second step otherwise."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        model = st_adapter.create_model("test_vit", ["a", "b"], weights="random").train()
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
        for _ in range(3):
            wrapped(clips).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    asked = [p for p in model.trainable_parameters() if p.requires_grad]
    assert all(p.grad is not None for p in asked)
    assert len(model.trainable_parameters()) - len(asked) == 6  # of the last adapter, as published
