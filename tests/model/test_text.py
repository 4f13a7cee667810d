import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import st_adapter
from st_adapter.backbones.build import build_backbone
from st_adapter.cli.main import main
from st_adapter.errors import ArgumentError
from st_adapter.model.text import embed_labels, text_vectors, words

open_clip = pytest.importorskip("open_clip")

LABELS = ("Archery", "BasketballDunk", "horse_race", "Surfing")
PROMPTS = ("archery", "basketball dunk", "horse race", "surfing")
BACKBONE = "vit_base_patch16_clip_quickgelu_224"
SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 1, "img_size": 32}


@pytest.fixture(scope="module")
def clip():
    """A tiny CLIP with random weights, of the architecture of OpenAI's models."""
    torch.manual_seed(0)
    picture = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 64, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=picture, text_cfg=text, quick_gelu=True).eval()
    with torch.no_grad():
        clip.visual.ln_post.weight.uniform_(0.5, 2)
        clip.visual.ln_post.bias.normal_()
        clip.visual.proj.normal_(std=0.1)
    return clip


@pytest.fixture(scope="module")
def tokenizer():
    return open_clip.get_tokenizer("ViT-B-32")


@pytest.fixture(scope="module")
def backbone(clip, tmp_path_factory):
    """The picture tower of that model, as timm has it."""
    file = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file({name: t.contiguous() for name, t in clip.state_dict().items()}, file)
    return build_backbone(BACKBONE, str(file), SIZES)


def by_hand(clip, tokenizer, templates):
    """The text vectors as open_clip's own zero-shot example computes them."""
    vectors = []
    with torch.no_grad():
        for prompt in PROMPTS:
            texts = tokenizer([template.format(prompt) for template in templates])
            mean = F.normalize(clip.encode_text(texts), dim=-1).mean(0)
            vectors.append(mean / mean.norm())
    return torch.stack(vectors)


def test_names_of_classes_are_read_as_words():
    assert [words(label) for label in LABELS] == [*PROMPTS]
    assert words("verb/OpenDoor") == "open door"


@pytest.mark.parametrize("templates", [("a video of {}.",), ("a video of {}.", "{}, filmed")])
def test_text_vectors_are_those_of_open_clip(clip, tokenizer, templates):
    vectors = text_vectors(LABELS, clip, tokenizer, templates, joint_space=True)
    assert tuple(vectors) == LABELS
    expected = by_hand(clip, tokenizer, templates)
    torch.testing.assert_close(torch.stack([*vectors.values()]), expected)


def test_a_linear_head_of_text_vectors_ranks_classes_as_clip_does(clip, tokenizer, backbone):
    templates = ("a video of {}.", "a photo of {}.")
    model = st_adapter.attach(backbone, LABELS).eval()
    model.set_head(text_vectors(LABELS, clip, tokenizer, templates))
    pictures = torch.rand(64, 3, 32, 32)
    with torch.no_grad():
        # A clip of one picture; CLIP gets the picture normalised, and the classifier normalises.
        logits = model(pictures[:, None])
        projected = clip.encode_image(model.normalise(pictures[:, None])[:, 0])
        cosines = F.normalize(projected, dim=1) @ by_hand(clip, tokenizer, templates).T
    factor = logits / cosines  # of one clip, the same for all classes
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-3, atol=1e-3)
    assert torch.equal(logits.argmax(1), cosines.argmax(1))
    assert len(cosines.argmax(1).unique()) > 1
    # The factor is about CLIP's own, where it would be 1 / 0.07.
    torch.testing.assert_close(
        factor[:, 0], clip.logit_scale.exp().expand(64).detach(), rtol=0.5, atol=0
    )


def test_a_head_in_the_wrong_space_is_explained(clip, tokenizer, backbone):
    model = st_adapter.attach(backbone, LABELS)
    vectors = text_vectors(LABELS, clip, tokenizer, joint_space=True)
    with pytest.raises(ArgumentError, match="width 16, but the features of this model have wid"):
        model.set_head(vectors)


def test_the_command_writes_vectors_of_names_and_of_data(tmp_path, folder_data, capsys):
    out = tmp_path / "text.safetensors"
    model = ("--model", "RN50", "--pretrained", "random", "--joint-space")
    assert main(["labels", "embed", "BasketballDunk", "Tai Chi", "--out", str(out), *model]) == 0
    assert capsys.readouterr().out == f"{out}: 2 classes, width 1024\n"
    assert load_file(out).keys() == {"BasketballDunk", "Tai Chi"}
    assert main(["labels", "embed", str(folder_data), "--out", str(out), *model]) == 0
    assert load_file(out).keys() == {"brightens", "darkens"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-16-quickgeluu"}, "open_clip does not have a model.*did you mean ViT-B"),
        ({"pretrained": "opena"}, "neither a file nor a name of weights.*did you mean openai"),
        ({"templates": ["a video"]}, "a template has one {} for the class name, not 'a video'"),
    ],
)
def test_models_that_do_not_exist_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        embed_labels(["a"], **options)


def test_a_projection_that_is_not_a_matrix_is_refused(clip, tokenizer, monkeypatch):
    attention = torch.nn.Module()
    monkeypatch.setattr(clip, "visual", attention)
    with pytest.raises(ArgumentError, match="projection of this model's image encoder is not"):
        text_vectors(LABELS, clip, tokenizer)


def test_a_file_that_does_not_fit_is_named(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ArgumentError, match="cannot load RN50 with weights .*x.safetensors"):
        embed_labels(["a"], model="RN50", pretrained=str(tmp_path / "x.safetensors"))


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr("st_adapter.model.text.find_spec", lambda name: None)
    assert main(["labels", "embed", "a", "--out", str(tmp_path / "a.safetensors")]) == 2
    assert "need an extra: pip install 'st-adapter[open-clip]'" in capsys.readouterr().err
