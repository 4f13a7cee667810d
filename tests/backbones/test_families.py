"""Laws that hold on every family of image model, each on a small random member of it."""

import copy
import pickle
import re
import threading
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import checkpoint_filter_fn

import st_adapter
from conftest import randomise
from st_adapter.backbones.build import build_backbone, create_backbone
from st_adapter.backbones.family import Inserted
from st_adapter.backbones.timm_models import TimmFamily
from st_adapter.backbones.vit import VisionTransformerFamily
from st_adapter.errors import ArgumentError
from st_adapter.model.spec import BACKBONE_OPTIONS

LABELS = ["a", "b", "c"]
SLIM = {"embed_dim": 32, "depth": 3, "num_heads": 2}
SLIM_SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "img_size": 64}

FAMILIES = {
    "ViT": ("test_vit", {}),
    "ViT, pooled patches": ("test_vit2", {}),
    "ViT, MAP and registers": ("test_vit3", {}),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", SLIM),
    "DeiT": ("deit_tiny_patch16_224", SLIM),
    "DeiT, distilled": ("deit_tiny_distilled_patch16_224", SLIM),
    "DINOv2": ("vit_small_patch14_dinov2", SLIM | {"img_size": 70, "init_values": 1.0}),
    "DINOv2, registers": (
        "vit_small_patch14_reg4_dinov2",
        SLIM | {"img_size": 70, "init_values": 1},
    ),
    "SigLIP": ("vit_base_patch16_siglip_224", SLIM),
    "hybrid ViT": ("vit_tiny_r_s16_p8_224", SLIM),
    "ViT, relative positions": (
        "vit_relpos_small_patch16_224",
        SLIM | {"img_size": 64, "init_values": 1},
    ),
    "BEiT": ("beit_base_patch16_224", SLIM | {"img_size": 64, "init_values": 1}),
    "EVA-02": ("eva02_tiny_patch14_224", SLIM | {"img_size": 70}),
    "EVA-02, post-norm": ("eva02_enormous_patch14_clip_224", SLIM | {"img_size": 70}),
    "DINOv3": ("vit_small_patch16_dinov3", SLIM),
    "Swin": ("swin_tiny_patch4_window7_224", SLIM_SWIN),
    "Swin v2": ("swinv2_tiny_window8_256", SLIM_SWIN),
    "MaxViT": ("test_maxvit", {}),
    "Hiera": ("hiera_tiny_224", {"stages": (1, 1, 1, 1), "img_size": 128, "embed_dim": 24}),
    "PVT v2": ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}),
    "XCiT": ("xcit_nano_12_p16_224", {"depth": 2}),
    "ConvNeXt": ("test_convnext", {}),
    "ConvNeXt v2": ("test_convnext2", {}),
    "ResNet": ("test_resnet", {}),
    "EfficientNet": ("test_efficientnet", {}),
    "MobileNetV4": ("mobilenetv4_conv_small_035", {}),
}
FIXED_SIZE = {"ViT, relative positions", "BEiT", "MaxViT", "Hiera"}
"""Families whose members are made for one input size."""
LATE_CLASS_TOKEN = {"XCiT"}
"""Families whose class token reads the patches after all blocks."""
families = pytest.mark.parametrize("family", FAMILIES)
several_families = pytest.mark.parametrize(
    "family",
    ["ViT", "CLIP", "DINOv2, registers", "DINOv3", "Swin", "XCiT", "ConvNeXt v2", "ResNet"],
)
"""For what takes seconds: each way in which adapters are brought in, and each layout."""
ATTENTION = ("attn", "token_mixer")
TWO_BRANCHES = ["ViT, relative positions", "BEiT", "EVA-02", "EVA-02, post-norm", "DINOv3", "Swin"]
TWO_BRANCHES += ["Swin v2", "Hiera", "PVT v2"]


def make_backbone(family):
    torch.manual_seed(0)
    name, options = FAMILIES[family]
    return create_backbone(name, **options).eval()


def make_model(family, **options):
    config = st_adapter.AdapterConfig(bottleneck=8)
    return st_adapter.attach(make_backbone(family), LABELS, config, **options).eval()


def size_of(family):
    name, options = FAMILIES[family]
    return options.get("img_size") or {"test_maxvit": 160}.get(name, 64)


def random_clips(family, frames=3, batch=2):
    size = size_of(family)
    return torch.randint(0, 256, (batch, frames, 3, size, size), dtype=torch.uint8)


def train_three_steps(model, clips):
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=0.03, weight_decay=0)
    labels = torch.arange(len(clips)) % len(LABELS)
    for _ in range(3):
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def is_dead(family, model, parameter):
    """Patch tokens do not reach a pooled class token after the last attention, as published."""
    last = list(model.adapters)[-1]
    pooled = getattr(model.backbone, "global_pool", "") == "token"
    return (
        pooled
        and family not in LATE_CLASS_TOKEN
        and last.endswith("_mlp")
        and parameter.startswith(f"adapters.{last}.")
    )


@families
def test_adapted_model_equals_the_frozen_one_at_init_bit_for_bit(family):
    model, clips = make_model(family), random_clips(family)
    with torch.no_grad():
        adapted = model(clips)
        with model.adapters_disabled():
            assert torch.equal(model(clips), adapted)


@families
def test_features_of_one_frame_are_those_of_timm(family):
    model, clips = make_model(family), random_clips(family, frames=1)
    backbone = make_backbone(family)
    frames = (clips[:, 0] / 255 - model.mean) / model.std
    with torch.no_grad():
        expected = backbone.forward_head(backbone.forward_features(frames), pre_logits=True)
        torch.testing.assert_close(model.features(clips), expected, rtol=1e-4, atol=1e-5)


@families
def test_frozen_weights_stay_bit_identical_and_each_adapter_tensor_moves(family):
    model = make_model(family, dropout=0.0).train()
    frozen = {n: t.clone() for n, t in model.backbone.state_dict().items()}
    trained = {n: p.detach().clone() for n, p in model.trained_tensors().items()}
    train_three_steps(model, random_clips(family))
    assert len(frozen) > 10
    for n, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, frozen[n]), n
    assert len(trained) > 6
    for n, parameter in model.trained_tensors().items():
        assert torch.equal(parameter, trained[n]) == is_dead(family, model, n), n


@families
def test_order_of_frames_matters_to_st_adapter_alone(family):
    model, clips = randomise(make_model(family)), random_clips(family, frames=4)
    backwards = clips.flip(1)
    with torch.no_grad():
        forwards = model(clips)
        assert (forwards - model(backwards)).abs().max() > 1e-4 * forwards.abs().max()
        with model.adapters_disabled():
            torch.testing.assert_close(model(clips), model(backwards), rtol=1e-3, atol=1e-5)


@families
def test_any_number_of_frames_and_other_sizes(family):
    """Each length on frames that are wider, higher or larger than the model's own."""
    model, size = randomise(make_model(family)), size_of(family)
    step = 14 if size == 70 else 0 if family in FIXED_SIZE else 32
    sizes = ((size, size), (size + step, size), (size, size + 2 * step), (size + step, size + step))
    with torch.no_grad():
        for frames, (height, width) in zip((1, 3, 8, 33), sizes, strict=True):
            clips = torch.rand(1, frames, 3, height, width)
            logits = model(clips)
            assert logits.shape == (1, len(LABELS))
            assert logits.isfinite().all()
            together = model(torch.cat([clips, clips.flip(1)]))
            torch.testing.assert_close(together[:1], logits, rtol=1e-3, atol=1e-3)


CONVOLUTIONAL = ["ConvNeXt", "ResNet", "EfficientNet", "MobileNetV4"]


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_sizes_that_nothing_divides(family):
    model = randomise(make_model(family))
    with torch.no_grad():
        for height, width in ((67, 71), (101, 53)):
            assert model(torch.rand(1, 3, 3, height, width)).isfinite().all()


LOADABLE = [f for f, (_, options) in FAMILIES.items() if options.keys() <= set(BACKBONE_OPTIONS)]


@pytest.mark.parametrize("family", LOADABLE)
def test_saved_and_loaded_classifiers_give_the_same_logits(family, tmp_path):
    name, options = FAMILIES[family]
    backbone = build_backbone(name, "random", options=options)
    model = randomise(st_adapter.attach(backbone, LABELS)).eval()
    model.spec = replace(model.spec, backbone=name, weights="random", backbone_options=options)
    model.save_adapter(tmp_path)
    with torch.no_grad():
        clips = random_clips(family)
        assert torch.equal(st_adapter.load(tmp_path)(clips), model(clips))


@pytest.mark.usefixtures("unchecked")
@several_families
def test_compiled_model_equals_eager_in_logits_and_gradients(family):
    model, clips = randomise(make_model(family)), random_clips(family)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients, trained = [], [p for p in model.trainable_parameters() if p.requires_grad]
    for run in (model, compiled):
        logits = run(clips)
        gradients.append(torch.autograd.grad(logits.sum(), trained, allow_unused=True))
        assert sum(g is not None for g in gradients[-1]) >= 8
    torch.testing.assert_close(compiled(clips), model(clips), rtol=1e-4, atol=1e-4)
    for eager, traced in zip(*gradients, strict=True):
        if eager is not None:
            assert (traced - eager).norm() <= 1e-3 * eager.norm() + 1e-6


@pytest.mark.usefixtures("unchecked")
@several_families
def test_exported_model_equals_eager_for_other_numbers_of_clips_and_frames(family):
    model = randomise(make_model(family))
    shapes = {0: torch.export.Dim("clips"), 1: torch.export.Dim("frames")}
    with torch.no_grad():
        program = torch.export.export(model, (random_clips(family),), dynamic_shapes=(shapes,))
        others = random_clips(family, frames=5, batch=3)
        torch.testing.assert_close(program.module()(others), model(others), rtol=1e-4, atol=1e-4)


@families
def test_grids_lie_as_the_picture_does(family):
    """A bright corner of the frame is brightest in the same corner of the first grid."""
    model, size = make_model(family), size_of(family)
    site = model.family.sites()[0]
    seen = []

    def look(grid):
        seen.append(grid)
        return torch.zeros_like(grid)

    for corner in (0.0, 1.0):
        frame = torch.zeros(1, 3, size, size)
        frame[..., : size // 2, size // 2 :] = corner
        with torch.no_grad():
            model.family.run(frame, Inserted({site.name: look}))
    change = (seen[1] - seen[0])[0].square().sum(-1)
    rows, columns = change.shape
    quarters = {
        (top, left): change[
            top * rows // 2 : (top + 1) * rows // 2, left * columns // 2 : (left + 1) * columns // 2
        ].mean()
        for top in (0, 1)
        for left in (0, 1)
    }
    assert (max(quarters, key=quarters.get) == (0, 1)) == site.ordered


@pytest.mark.parametrize("family", TWO_BRANCHES)
def test_an_adapter_before_the_mlp_is_in_the_residual_stream(family):
    """The block ends as if its MLP branch had started from the adapted stream."""
    model, clips = randomise(make_model(family)), random_clips(family, frames=1, batch=1)
    block = model.backbone.get_submodule(first_block_name(model.backbone))
    site = next(s for s in model.family.sites() if s.position == "mlp")
    entry = block.norm2 if site.name == "blocks_0_mlp" and not post_norm(family) else block.mlp
    seen = {}

    def keep(name):
        return lambda _module, args, *output: seen.update({name: (args, *output)})

    handles = [
        block.register_forward_pre_hook(keep("in")),
        block.register_forward_hook(keep("out")),
    ]
    handles += [entry.register_forward_pre_hook(keep("middle"), prepend=True)]
    only = {site.name: model.adapters[site.name]}

    def adapt(grid):
        return only[site.name].update(grid[None])[0]

    frames = clips[0] / 255
    size = (frames.shape[-2], frames.shape[-1])
    with torch.no_grad():
        model.family.run(frames, Inserted({site.name: adapt}))
        for handle in handles:
            handle.remove()
        middle, arguments = seen["middle"][0][0], seen["in"][0]
        adapted = site.layout.adapt(middle, size, adapt).reshape(arguments[0].shape)
        attention = next(getattr(block, name) for name in ATTENTION if hasattr(block, name))
        off = attention.register_forward_hook(lambda _m, _a, output: torch.zeros_like(output))
        expected = block(adapted, *arguments[1:])
        off.remove()
    torch.testing.assert_close(seen["out"][-1], expected, rtol=1e-4, atol=1e-4)


def post_norm(family):
    return family in ("EVA-02, post-norm", "Swin v2")


def first_block_name(backbone):
    names = [name for name, _ in backbone.named_modules()]
    return next(n for n in names if re.fullmatch(r"(blocks|(stages|layers)\.0\.blocks)\.0", n))


def test_both_ways_of_running_a_vit_agree():
    """The explicit loop of the ViT family, and hooks on the same blocks."""
    model = randomise(make_model("ViT, pooled patches"))
    adapters = {name: clip_of_frames(adapter) for name, adapter in model.adapters.items()}
    frames = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        found = []
        for family in (VisionTransformerFamily(model.backbone), TimmFamily(model.backbone)):
            assert [site.name for site in family.sites()] == list(adapters)
            found.append(family.finish(family.pool(family.run(frames, Inserted(adapters)))))
    explicit, hooked = found
    torch.testing.assert_close(hooked, explicit, rtol=1e-4, atol=1e-5)


def clip_of_frames(adapter):
    return lambda grid: adapter.update(grid[None])[0]


@pytest.mark.parametrize("family", ["ViT", "EVA-02", "Swin", "ResNet"])
def test_two_threads_with_different_frame_counts_get_what_they_get_alone(family):
    model = randomise(make_model(family))
    inputs = [random_clips(family, frames=n) for n in (2, 5)]
    with torch.no_grad():
        expected = [model(clips) for clips in inputs]
    results = [[], []]

    def work(i):
        with torch.no_grad():
            for _ in range(10):
                results[i].append(model(inputs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert len(results[i]) == 10
        for result in results[i]:
            torch.testing.assert_close(result, expected[i])


def test_attaching_from_several_threads_puts_hooks_once():
    for _ in range(5):
        backbone, barrier = make_backbone("Swin"), threading.Barrier(4)

        def attach(backbone=backbone, barrier=barrier):
            barrier.wait()
            st_adapter.attach(backbone, LABELS)

        threads = [threading.Thread(target=attach) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sites = backbone._st_adapter_opened["TimmFamily",].sites
        hooks = sum(len(module._forward_pre_hooks) for module in backbone.modules())
        assert hooks == len(sites) == 8


@pytest.mark.parametrize("family", ["ViT", "Swin"])
def test_classifiers_can_be_copied_and_pickled(family):
    model, clips = randomise(make_model(family)), random_clips(family)
    with torch.no_grad():
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(again(clips), model(clips))


def test_a_backbone_that_checkpoints_gradients_is_refused():
    model, clips = make_model("Swin"), random_clips("Swin")
    model.backbone.set_grad_checkpointing()
    with pytest.raises(ArgumentError, match=r"Swin.* call its set_grad_checkpointing\(False\)"):
        model(clips)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_a_backbone_that_pools_nothing_is_refused(name):
    backbone = timm.create_model(name, num_classes=0, global_pool="").train()
    with pytest.raises(ArgumentError, match="does not pool its features"):
        st_adapter.attach(backbone, LABELS)
    assert backbone.training


@pytest.mark.parametrize("family", ["ViT", "Swin", "ResNet"])
def test_two_classifiers_share_one_backbone(family):
    backbone, clips = make_backbone(family), random_clips(family)
    config = st_adapter.AdapterConfig(bottleneck=8)
    models = [randomise(st_adapter.attach(backbone, LABELS, config)).eval() for _ in range(2)]
    alone = [randomise_like(make_model(family), model) for model in models]
    with torch.no_grad():
        for model, expected in zip(models, alone, strict=True):
            assert torch.equal(model(clips), expected(clips))


def randomise_like(model, other):
    with torch.no_grad():
        for mine, theirs in zip(
            model.trainable_parameters(), other.trainable_parameters(), strict=True
        ):
            mine.copy_(theirs)
    return model


def test_positions_are_resized_as_timm_resizes_them():
    """A ViT made for 64 px, at 96 px, against one that timm makes for 96 px of its weights."""
    small = create_backbone("test_vit", img_size=64).eval()
    large = timm.create_model("test_vit", img_size=96, num_classes=0).eval()
    large.load_state_dict(checkpoint_filter_fn(small.state_dict(), large))
    frames = torch.rand(2, 3, 96, 96)
    model = st_adapter.attach(small, LABELS).eval()
    with torch.no_grad():
        ours = model.family.pool(model.family.run(frames))
        theirs = large.forward_features(frames)[:, 0]
        torch.testing.assert_close(small.norm(ours), theirs, rtol=1e-4, atol=1e-5)


def test_a_size_that_patches_do_not_divide_is_as_in_timm_where_the_model_was_made_for_it():
    slim = SLIM | {"img_size": 76}  # as 384 px in patches of 14
    ours = create_backbone("vit_so400m_patch14_siglip_384", **slim).eval()
    theirs = timm.create_model("vit_so400m_patch14_siglip_384", num_classes=0, **slim).eval()
    theirs.load_state_dict(ours.state_dict())
    frames = torch.rand(2, 3, 76, 76)
    model = st_adapter.attach(ours, LABELS).eval()
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(frames), pre_logits=True)
        features = model.family.pool(model.family.run(frames))
        torch.testing.assert_close(features, expected)
        with pytest.raises(AssertionError, match="divisible by patch size"):
            model(torch.rand(1, 1, 3, 80, 80))


def test_an_adapter_trained_on_short_small_clips_runs_on_long_large_ones(tmp_path):
    model = st_adapter.create_model("test_vit", LABELS, weights="random", dropout=0.0).train()
    train_three_steps(model, torch.rand(1, 8, 3, 224, 224))
    model.save_adapter(tmp_path)
    again, model = st_adapter.load(tmp_path), model.eval()
    clips = torch.rand(1, 32, 3, 336, 336)
    with torch.no_grad():
        assert torch.equal(again(clips), model(clips))


def test_a_kernel_over_space_is_refused_where_patches_are_shuffled():
    config = st_adapter.AdapterConfig(kernel_size=(3, 3, 3))
    with pytest.raises(ArgumentError, match=r"order of the picture.*not \(3, 3, 3\)"):
        st_adapter.attach(make_backbone("Hiera"), LABELS, config)
    assert st_adapter.attach(make_backbone("Swin"), LABELS, config)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tnt_s_legacy_patch16_224", r"TNT: its block blocks.0 takes features of shape \[196, 16"),
        ("selecsls42", "SelecSls: its block features.0 takes no tensor"),
        ("qwen3_vit_88m_enc", "does not support classification"),
    ],
)
def test_a_model_that_adapters_do_not_fit_is_refused_with_the_reason(name, reason):
    with torch.device("meta"), pytest.raises(ArgumentError, match=f"do not fit .*{reason}"):
        st_adapter.attach(timm.create_model(name), LABELS)
    with pytest.raises(ArgumentError, match="cannot find the blocks of Linear: it is not an image"):
        st_adapter.attach(torch.nn.Linear(3, 3), LABELS)


class OtherBlock(timm.models.vision_transformer_relpos.RelPosBlock):
    """A block as another version of timm might write it: its MLP is added to its own norm."""

    def forward(self, x, shared_rel_pos=None):
        x = x + self.attn(self.norm1(x), shared_rel_pos=shared_rel_pos)
        x = self.norm2(x)
        return x + self.mlp(x)


def test_a_block_of_another_form_than_is_known_here_is_refused():
    backbone = make_backbone("ViT, relative positions")
    backbone.blocks[1].__class__ = OtherBlock
    OtherBlock.__module__, OtherBlock.__name__ = "timm.vision_transformer_relpos", "RelPosBlock"
    with pytest.raises(
        ArgumentError, match=r"block blocks\.1 does not add its MLP to the input of"
    ):
        st_adapter.attach(backbone, LABELS)


def test_a_vit_that_computes_otherwise_than_is_known_here_is_refused():
    backbone = make_backbone("ViT")
    backbone.blocks[0].register_forward_hook(lambda _, args, out: out.flip(-1))
    with pytest.raises(ArgumentError, match="computes other features than st-adapter expects"):
        st_adapter.attach(backbone, LABELS)
