"""The Triton kernel computes what a convolution does, in Triton's interpreter and on a GPU."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from st_adapter.model.methods.adapter import _builds_kernels, depthwise_conv3d

pytest.importorskip("triton")
SHAPES = [(2, 8, 12, 96, 3), (1, 1, 7, 5, 3), (2, 4, 9, 70, 5), (3, 2, 64, 64, 1), (2, 3, 65, 1, 3)]
"""Clips, frames, patches, channels and frames that the kernel spans: no multiples of its blocks."""
NEAR = {"float32": 1e-6, "bfloat16": 8e-3, "float16": 5e-4}
"""Of the norm: results are computed in float32 and rounded once; the interpreter cuts bfloat16."""


@pytest.fixture(scope="module")
def interpreted():
    """Of every shape and type, `errors` in the interpreter, which Triton is imported for."""
    code = "import test_triton_convolution as t; t.print_errors()"
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def print_errors():
    """All of them, as JSON."""
    every = itertools.product(SHAPES, NEAR)
    print(json.dumps({f"{s} {d}": errors(s, getattr(torch, d), "cpu") for s, d in every}))


def errors(shape, dtype, device):
    """Of the result and three gradients, over the size of what float64 gives."""
    from st_adapter.model.methods.triton_convolution import convolve_over_time

    torch.manual_seed(0)
    b, t, n, d, k = shape
    x, grad = (torch.randn(b, t, d, n, device=device).to(dtype).mT for _ in range(2))
    weight, bias = torch.randn(k, d, device=device).T, torch.randn(d, 2, device=device)[:, 0]
    given = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    out = convolve_over_time(*given)
    assert out.dtype == dtype
    found = [out, *torch.autograd.grad(out, given, grad)]
    rows, weight, bias = (v.detach().double().requires_grad_() for v in given)
    rows_first = rows.permute(0, 3, 1, 2)
    exact = F.conv2d(rows_first, weight[:, None, :, None], bias, padding=(k // 2, 0), groups=d)
    exact = exact.permute(0, 2, 3, 1)
    exact = [exact, *torch.autograd.grad(exact, (rows, weight, bias), grad.double())]
    pairs = zip(found, exact, strict=True)
    return [
        float((ours.detach().double() - wanted).norm() / wanted.norm()) for ours, wanted in pairs
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", NEAR)
def test_kernel_is_the_convolution_in_the_interpreter(shape, dtype, interpreted):
    found = interpreted[f"{shape} {dtype}"]
    assert len(found) == 4
    assert max(found) < NEAR[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shape", [*SHAPES, (8, 8, 196, 384, 3)])
@pytest.mark.parametrize("dtype", NEAR)
def test_kernel_is_the_convolution_on_a_gpu(shape, dtype):
    assert max(errors(shape, getattr(torch, dtype), "cuda")) < NEAR[dtype]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_adapters_on_a_gpu_run_the_kernel_and_get_the_same_gradients_each_time():
    x = torch.randn(4, 8, 14, 14, 384, device="cuda", requires_grad=True)
    weight = torch.randn(384, 1, 3, 1, 1, device="cuda", requires_grad=True)
    bias = torch.randn(384, device="cuda", requires_grad=True)

    def run():
        out = depthwise_conv3d(x, weight, bias)
        return out, *torch.autograd.grad(out.square().sum(), (x, weight, bias))

    with torch.profiler.profile() as profile:
        once = run()
    assert {"_convolve", "_gradients"} <= {event.key for event in profile.key_averages()}
    for ours, again in zip(once, run(), strict=True):
        assert torch.equal(ours, again)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton works here")
def test_where_triton_does_not_work_it_is_said_and_torch_convolves(capsys):
    _builds_kernels.cache_clear()
    assert not _builds_kernels(torch.device("cuda"), torch.float32)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("note: Triton cannot build kernels here (")
    assert said.endswith("); adapters use a slower convolution")
