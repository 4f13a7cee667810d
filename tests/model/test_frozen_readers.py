"""Laws of the methods that read a frozen image model: the side network and ordered attention."""

import pytest
import torch

import st_adapter
from st_adapter.backbones import family_of
from st_adapter.backbones.build import create_backbone
from st_adapter.backbones.family import Inserted
from st_adapter.catalogue.costs import inspect_backbone
from st_adapter.config import MethodConfig
from st_adapter.errors import ArgumentError
from st_adapter.model.methods.pooling import TokenPool, interpolated

LABELS = ("a", "b")
BACKBONES = {"test_vit": 160, "test_vit3": 160, "test_efficientnet": 64, "resnet18": 64}


def side_model(backbone="test_vit", **sizes):
    torch.manual_seed(0)
    model = st_adapter.attach(
        create_backbone(backbone), LABELS, method="side", method_config=MethodConfig(**sizes)
    )
    return model.eval()


def clips_for(backbone, frames=4):
    size = BACKBONES[backbone]
    return torch.randint(0, 256, (2, frames, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(("width", "published"), [(128, 4e6), (320, 21e6)])
def test_both_sizes_train_as_many_parameters_as_published(width, published):
    found = inspect_backbone(
        backbone="vit_base_patch16_224",
        method="side",
        side_width=width,
        side_every=1,
        frames=8,
        size=224,
        classes=174,
    )
    assert found.adapters == pytest.approx(published, rel=0.08)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_who_reads_along_sees_every_block_and_changes_nothing(backbone):
    model = create_backbone(backbone).eval()
    family = family_of(model)
    size = BACKBONES[backbone]
    frames, seen = torch.randn(2, 3, size, size), []
    with torch.inference_mode():
        alone = family.pool(family.run(frames))
        watched = family.pool(family.run(frames, Inserted(watch=seen.append)))
    assert torch.equal(alone, watched)
    assert len(seen) == len(family.blocks())
    assert all(len(output.grid) == 2 and output.grid.ndim == 4 for output in seen)


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_no_gradient_runs_back_through_the_image_model(backbone):
    model = side_model(backbone).train()
    summaries = model.summarise_clips(clips_for(backbone), Inserted())
    assert not summaries.requires_grad
    model.classify(model.pool_clips(summaries)).sum().backward()
    assert all(p.grad is not None for p in model.trainable_parameters())


@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_a_frame_is_read_alike_in_any_batch(backbone):
    model, clips = side_model(backbone), clips_for(backbone)
    with torch.inference_mode():
        together = model.summarise_clips(clips, Inserted())
        one_by_one = [model.summarise_clips(clips[:, i : i + 1], Inserted()) for i in range(4)]
        torch.testing.assert_close(together, torch.cat(one_by_one, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("every", "steps"), [(1, 6), (2, 3), (4, 2), (9, 1)])
def test_every_kth_block_is_read_and_the_last_always(every, steps):
    side = side_model(side_every=every).side
    assert len(side.steps) == steps
    assert side.blocks_read[-1] == 5


def test_frames_that_patches_do_not_cover_are_resized():
    model = side_model("test_efficientnet")
    clips = torch.randint(0, 256, (1, 3, 3, 75, 90), dtype=torch.uint8)
    assert model(clips).shape == (1, 2)


def test_half_precision_keeps_the_summaries_in_it():
    model, clips = side_model(), clips_for("test_vit")
    with torch.inference_mode():
        before = model(clips)
        model.set_precision("bfloat16")
        assert model.summarise_clips(clips, Inserted()).dtype == torch.bfloat16
        torch.testing.assert_close(model(clips), before, rtol=0.1, atol=0.02)


def test_a_backbone_that_shuffles_its_patches_is_refused():
    backbone = create_backbone("hiera_tiny_224", embed_dim=24, stages=(1, 1, 1, 1))
    with pytest.raises(ArgumentError, match="patches in the order of the picture"):
        st_adapter.attach(backbone, LABELS, method="side")


def test_as_many_frames_as_codes_get_the_codes_themselves():
    codes = torch.randn(8, 5)
    assert torch.equal(interpolated(codes, 8), codes)
    torch.testing.assert_close(interpolated(codes, 1), codes[3:5].mean(0, keepdim=True))
    assert torch.equal(interpolated(codes, 80)[[0, -1]], codes[[0, -1]])


@pytest.mark.parametrize("ordered", [True, False])
def test_only_ordered_pooling_tells_frames_apart(ordered):
    torch.manual_seed(0)
    pool, tokens = TokenPool(24, ordered=ordered), torch.randn(2, 4, 9, 24)
    same = torch.allclose(pool(tokens), pool(tokens.flip(1)), atol=1e-5)
    assert same != ordered
