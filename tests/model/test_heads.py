import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import st_adapter
from st_adapter.catalogue.costs import inspect_backbone, inspect_run
from st_adapter.common.task import Task
from st_adapter.errors import ArgumentError
from st_adapter.model.class_vectors import match_vectors, read_vectors, write_vectors
from st_adapter.model.heads import CosineHead, build_head
from st_adapter.model.prototypes import set_prototypes

LABELS = ["a", "b", "c"]
CLIPS = torch.randint(0, 256, (4, 3, 3, 32, 32), dtype=torch.uint8)


def make_model(**options):
    torch.manual_seed(0)
    return st_adapter.create_model("test_vit", LABELS, weights="random", **options).eval()


def clouds(spread=0.3, each=6, classes=3, width=5):
    """Features around a center of each class, far from zero; the first video is of class 0."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(classes, width, generator=generator) + 4
    targets = [i % classes for i in range(each * classes)]
    noise = torch.randn(len(targets), width, generator=generator)
    return centers[targets] + spread * noise, [(target,) for target in targets]


def test_a_cosine_head_computes_scaled_cosines():
    head = build_head("cosine", 4, 2)
    features = torch.randn(3, 4)
    with torch.no_grad():
        head.center.copy_(torch.tensor([1.0, 0, 0, 0]))
        logits = head(features)
        cosines = F.cosine_similarity(
            (features - head.center)[:, None], head.weight[None].expand(3, 2, 4), dim=2
        )
    torch.testing.assert_close(logits, cosines / 0.07)


def close_clips():
    """A trained cosine head at scale 100, and clips whose best two classes are close."""
    torch.manual_seed(0)
    head = build_head("cosine", 256, 20)
    with torch.no_grad():
        head.weight.copy_(torch.randn(256) + 0.1 * torch.randn(20, 256))
        head.log_scale.fill_(math.log(100))
    return head, torch.randn(200, 256)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_cosine_head_computes_in_float32_under_autocast(compiled):
    head, features = close_clips()
    forward = torch.compile(head, backend="aot_eager", fullgraph=True) if compiled else head
    with torch.no_grad():
        exact = head(features)
        with torch.autocast("cpu", torch.bfloat16):
            found = forward(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-4)


def test_a_classifier_in_half_precision_keeps_the_cosines_of_its_head():
    model = make_model(head="cosine")
    model.set_precision("bfloat16")
    with torch.no_grad():
        model.head.log_scale.fill_(math.log(100))
        features = model.features(CLIPS)
        torch.testing.assert_close(model(CLIPS), model.head(features), rtol=1e-5, atol=1e-4)


def test_a_cosine_head_is_exported_under_autocast():
    head, features = close_clips()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        exported = torch.export.export(head, (features,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(features), head(features))


def test_the_scale_of_a_cosine_head_is_at_most_100():
    head = build_head("cosine", 2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
        head.log_scale.fill_(10)
    logits = head(torch.tensor([[3.0, 0]]))
    torch.testing.assert_close(logits, torch.tensor([[100.0, 0]]))


def test_a_cosine_head_is_saved_and_loaded_bit_for_bit(tmp_path):
    model = make_model(head="cosine", freeze_head=True)
    with torch.no_grad():
        model.head.center.fill_(0.1)
    model.save_adapter(tmp_path)
    loaded = st_adapter.load(tmp_path)
    assert isinstance(loaded.head, CosineHead)
    assert (loaded.spec.head, loaded.spec.freeze_head) == ("cosine", True)
    with torch.no_grad():
        assert torch.equal(loaded(CLIPS), model(CLIPS))
    assert inspect_run(tmp_path).head_type == "cosine"
    assert "mean over 8 frames, cosine head of 3 classes" in inspect_run(tmp_path).to_text()


def test_the_linear_head_has_the_initial_weights_that_it_had_before_there_was_another():
    torch.manual_seed(5)
    head = torch.nn.Linear(64, 3)
    torch.nn.init.normal_(head.weight, std=0.002)
    backbone = st_adapter.create_model("test_vit", LABELS, weights="random").backbone
    torch.manual_seed(5)
    model = st_adapter.attach(backbone, LABELS, method="linear")
    assert torch.equal(model.head.weight, head.weight)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_class_vectors_stay_bit_identical_and_the_rest_is_trained(kind, frozen):
    model = make_model(
        head=kind, freeze_head=frozen, adapter=st_adapter.AdapterConfig(bottleneck=4)
    )
    before = {name: p.detach().clone() for name, p in model.trained_tensors().items()}
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=0.03)
    for _ in range(3):
        F.cross_entropy(model.train()(CLIPS), torch.arange(4) % 3).backward()
        optimizer.step()
    moved = {n for n, p in model.trained_tensors().items() if not torch.equal(p, before[n])}
    assert "adapters.blocks_0_mlp.up.weight" in moved
    assert ("head.weight" in moved) is not frozen
    assert ("head.log_scale" in moved) is (kind == "cosine")
    assert "head.center" not in moved


def test_frozen_class_vectors_are_not_counted_as_trained():
    free, frozen = (make_model(freeze_head=choice) for choice in (False, True))
    difference = free.num_parameters(only_trainable=True) - frozen.num_parameters(True)
    assert difference == 3 * 64 + 3
    assert free.num_parameters() == frozen.num_parameters()


def test_a_cosine_head_needs_one_label_per_video():
    with pytest.raises(ArgumentError, match="cosine head cannot be used if a video has any number"):
        make_model(head="cosine", task=Task(multi_label=True))


def test_inspect_counts_either_head():
    shape = {"backbone": "test_vit", "frames": None, "size": None, "classes": 3}
    linear = inspect_backbone(**shape)
    cosine = inspect_backbone(**shape, head="cosine")
    assert (linear.head, cosine.head) == (3 * 64 + 3, 3 * 64 + 64 + 1)
    assert (linear.head_type, cosine.head_type) == ("linear", "cosine")
    assert linear.adapters == cosine.adapters


def test_set_head_gives_inner_products_in_a_linear_head():
    model = make_model()
    vectors = {label: torch.randn(64) for label in reversed(LABELS)}
    model.set_head(vectors)
    with torch.no_grad():
        expected = model.features(CLIPS) @ torch.stack([vectors[label] for label in LABELS]).T
        torch.testing.assert_close(model(CLIPS), expected)


def test_set_head_gives_cosines_in_a_cosine_head():
    model = make_model(head="cosine")
    vectors = {label: 5 * np.random.default_rng(i).normal(size=64) for i, label in enumerate("abc")}
    model.set_head(vectors)
    stacked = torch.tensor(np.stack([vectors[label] for label in LABELS])).float()
    with torch.no_grad():
        features = F.normalize(model.features(CLIPS), dim=1)
        torch.testing.assert_close(model(CLIPS), features @ F.normalize(stacked, dim=1).T / 0.07)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, r"vectors must have a vector for each class; without a vector: 'a'$"),
        ({"a": None, "aa": torch.ones(64)}, r"without a vector: 'a'.*; not a class: 'aa'"),
        ({"d": torch.ones(64)}, r"vectors must have a vector for each class; not a class: 'd'$"),
        ({"b": torch.ones(63)}, r"vectors of width 63, but the features of this model have width"),
        ({"b": torch.ones(2, 64)}, r"one vector per class.*'b' has shape \[2, 64\]"),
        ({"b": torch.zeros(64)}, r"the vector of 'b' is zero"),
        ({"b": torch.full((64,), torch.nan)}, r"the vector of 'b' has values that are NaN"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(change, message):
    model = make_model()
    before = model.head.weight.detach().clone()
    given = {label: torch.ones(64) for label in LABELS} | change
    with pytest.raises(ArgumentError, match=message):
        model.set_head({name: vector for name, vector in given.items() if vector is not None})
    assert torch.equal(model.head.weight, before)


def test_a_misspelt_class_is_recognised():
    with pytest.raises(ArgumentError, match=r"'Archery' \(did you mean archery\?\); not a class"):
        match_vectors({"archery": torch.ones(2), "b": torch.ones(2)}, ["Archery", "b"], "x.csv")


def test_vectors_after_clips_projection_are_explained():
    import timm

    tiny = {"embed_dim": 32, "depth": 1, "num_heads": 2, "dynamic_img_size": True}
    backbone = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, **tiny)
    model = st_adapter.attach(backbone, ["a"])
    with pytest.raises(ArgumentError, match="space that CLIP shares with text.*labels embed"):
        model.set_head({"a": torch.ones(512)})


def test_vector_files_of_all_kinds_are_read(tmp_path):
    vectors = {"Tai Chi": torch.tensor([1.0, -2.0]), "b": torch.tensor([0.5, 1e-3])}
    write_vectors(tmp_path / "v.safetensors", vectors)
    np.savez(tmp_path / "v.npz", **{name: v.numpy() for name, v in vectors.items()})
    rows = "Tai Chi,1.0,-2\nb,0.5,1e-3\n"
    (tmp_path / "v.csv").write_text(rows)
    (tmp_path / "header.csv").write_text("\ufeffclass,x,y\n" + rows)
    for name in ("v.safetensors", "v.npz", "v.csv", "header.csv"):
        read = read_vectors(tmp_path / name)
        assert read.keys() == vectors.keys()
        assert all(torch.equal(read[label], vectors[label]) for label in vectors), name


def test_files_that_are_no_vectors_are_refused(tmp_path):
    for name, text, message in (
        ("v.txt", "", "give a .safetensors, .npz or .csv file"),
        ("v.csv", "", "does not contain any class vectors"),
        ("w.csv", "a,1\na,2\n", "two rows are named 'a'"),
        ("x.csv", "a,1\nb,x\n", "not a readable file of class vectors: could not convert"),
        ("v.npz", "x", "not a readable file of class vectors"),
        ("v.safetensors", "x", "not a readable file of class vectors"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ArgumentError, match=message):
            read_vectors(tmp_path / name)
    with pytest.raises(ArgumentError, match=r"gone\.csv does not exist"):
        read_vectors(tmp_path / "gone.csv")
    objects = {"a": np.array([{}], dtype=object)}
    np.savez(tmp_path / "objects.npz", **objects)
    with pytest.raises(ArgumentError, match="not a readable file"):  # would run code
        read_vectors(tmp_path / "objects.npz")


def test_prototypes_are_a_linear_discriminant_analysis():
    features, targets = clouds(spread=1.0)
    head = build_head("linear", 5, 3)
    set_prototypes(head, features, targets, Task())
    truth, features = torch.tensor(targets)[:, 0], features.double()
    means = torch.stack([features[truth == k].mean(0) for k in range(3)])
    residuals = features - means[truth]
    covariance = residuals.T @ residuals
    equal = torch.eye(5).double() * covariance.trace() / 5
    inverse = (0.1 * covariance + 0.9 * equal).inverse()
    with torch.no_grad():
        logits = head.double()(features)
    apart = features[:, None] - means
    distances = torch.einsum("nkc,cd,nkd->nk", apart, inverse, apart)
    # Logits are distances times a negative factor, plus a number that is the same for all classes.
    ratio = (logits - logits.mean(1, True)) / (distances.mean(1, True) - distances)
    assert float(ratio[0, 0]) > 0
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)


def test_prototypes_of_two_points_split_the_plane_between_them():
    """Class 0 is at (2, 0) and class 1 at (0, 0). Each logit is linear, and equal at (1, 0)."""
    head = build_head("linear", 2, 2)
    set_prototypes(head, torch.tensor([[2.0, 0], [0, 0]]), [(0,), (1,)], Task())
    with torch.no_grad():
        logits = head(torch.tensor([[2.0, 0], [1, 0], [1, 7], [0, 0]]))
    margin = math.log(2)
    apart = torch.tensor([margin, 0, 0, -margin])
    torch.testing.assert_close(logits[:, 0] - logits[:, 1], apart)


@pytest.mark.parametrize("classes", [2, 4, 40])
def test_prototypes_give_a_training_video_a_probability_of_about_one_half(classes):
    features, targets = clouds(spread=0.5, classes=classes, width=30)
    head = build_head("linear", 30, classes)
    set_prototypes(head, features, targets, Task())
    with torch.no_grad():
        right = head(features).softmax(1).gather(1, torch.tensor(targets))
    assert 0.4 < float(right.mean()) < 0.7


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_prototypes_with_one_video_per_class_or_none(kind):
    features, targets = clouds(each=1)
    head = build_head(kind, 5, 4)  # the last class has no videos
    set_prototypes(head, features, targets, Task())
    with torch.no_grad():
        logits = head(features)
    assert logits.isfinite().all()
    assert logits.argmax(1).tolist() == [0, 1, 2]


def test_prototypes_of_several_heads_are_those_of_each():
    features, targets = clouds()
    both = [(t, 3 + (i % 2)) for i, (t,) in enumerate(targets)]
    task = Task(heads=(("verb", 3), ("side", 2)))
    head, verb = build_head("linear", 5, 5), build_head("linear", 5, 3)
    set_prototypes(head, features, both, task)
    set_prototypes(verb, features, targets, Task())
    assert torch.equal(head.weight[:3], verb.weight)
    assert torch.equal(head.bias[:3], verb.bias)


def test_prototypes_of_any_number_of_labels_tell_videos_with_a_class_from_those_without():
    features, targets = clouds()
    many = [(t,) if t else (0, 1) for (t,) in targets]  # class 1 is in the videos of 0 and 1
    head = build_head("linear", 5, 4)
    set_prototypes(head, features, many, Task(multi_label=True))
    with torch.no_grad():
        scores = head(features).sigmoid()
    shown = torch.tensor([[t == 0, t in (0, 1), t == 2, False] for (t,) in targets])
    assert torch.equal(scores > 0.5, shown)
    assert (scores[:, 3] < 0.1).all()


def test_cosine_prototypes_find_their_classes_in_features_that_all_point_one_way():
    features, targets = clouds(spread=0.2)
    head = build_head("cosine", 5, 3)
    set_prototypes(head, features, targets, Task())
    with torch.no_grad():
        assert head(features).argmax(1).tolist() == [t for (t,) in targets]


def test_the_head_of_a_spec_is_checked():
    spec = make_model().spec
    with pytest.raises(ArgumentError, match="head must be one of"):
        dataclasses.replace(spec, head="square")


def test_a_file_of_vectors_has_one_ending(tmp_path):
    with pytest.raises(ArgumentError, match="written to a .safetensors file"):
        write_vectors(tmp_path / "v.csv", {"a": torch.ones(2)})
    save_file({"a": torch.ones(2)}, tmp_path / "v.safetensors")
    assert read_vectors(tmp_path / "v.safetensors")["a"].tolist() == [1, 1]
