"""Training steps in half precision have a form of attention of their own, scoring has torch's."""

import pytest
import torch
import torch.nn.functional as F

import st_adapter
from st_adapter.runtime.attention import speed_up_attention


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_changes_by_rounding_alone_and_scores_do_not_change(precision):
    model = st_adapter.create_model("vit_tiny_patch16_224", ["a", "b"], weights="random")
    model.set_precision(precision)
    clips = torch.randint(0, 256, (1, 2, 3, 224, 224), dtype=torch.uint8)

    def gradient():
        model.train().zero_grad()
        F.cross_entropy(model(clips), torch.tensor([1])).backward()
        return torch.cat(
            [p.grad.flatten() for p in model.trainable_parameters() if p.requires_grad]
        )

    def scores():
        with torch.inference_mode():
            return model.eval()(clips)

    gradient_before, scores_before = gradient(), scores()
    speed_up_attention(model, 224)
    after = gradient()
    assert (after - gradient_before).norm() < 0.05 * gradient_before.norm()
    assert torch.equal(after, gradient_before) == (precision == "float32")
    assert torch.equal(scores(), scores_before)
