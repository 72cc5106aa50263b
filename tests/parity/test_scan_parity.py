"""The same scan by other means must say the same: bfloat16, another batch size, another device, and a plain hook script."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from vitreg.backbones import Backbone
from vitreg.data import IMAGENET, ImageSource, stream
from vitreg.models import planted
from vitreg.verbs.scan.verb import ScanOptions, scan

pytestmark = pytest.mark.usefixtures("few_resamples", "planted_once")


@pytest.fixture(scope="module")
def pixels(photographs):
    return torch.cat([batch.pixels for batch in stream(ImageSource(photographs[:6]), IMAGENET, 3)])


@pytest.fixture(scope="module")
def model():
    return planted.build("high-norm", seed=5)[0]


@pytest.fixture(scope="module")
def result(model, pixels):
    return scan(Backbone(model), pixels)


def close(a, b, tolerance):
    for one, other in zip(a.layers, b.layers, strict=True):
        for name in ("median", "p99", "max", "min", "cls_norm"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=tolerance), (one.index, name)
        for q, value in one.quantiles.items():
            assert other.quantiles[q] == pytest.approx(value, rel=tolerance)
    assert a.verdict.kind == b.verdict.kind
    assert a.verdict.ratio == pytest.approx(b.verdict.ratio, rel=tolerance)
    # The planted trigger is a steep step: rounding may flip single borderline patches, here at most 4 of 1176.
    assert a.verdict.outlier_fraction == pytest.approx(b.verdict.outlier_fraction, rel=tolerance, abs=4.5 / 1176)


def test_statistics_of_a_bfloat16_forward_are_within_two_percent_of_fp32(result, pixels):
    half = planted.build("high-norm", seed=5)[0].to(torch.bfloat16)
    close(result, scan(Backbone(half), pixels), 0.02)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_does_not_matter(result, model, pixels, batch_size):
    close(result, scan(Backbone(model), pixels, options=ScanOptions(batch_size=batch_size)), 1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_says_what_the_cpu_says(result, pixels, dtype):
    there = planted.build("high-norm", seed=5)[0].to("cuda", dtype)
    close(result, scan(Backbone(there), pixels), 0.02 if dtype == torch.bfloat16 else 2e-3)


def test_a_plain_hook_script_finds_the_same_numbers():
    """Norms again, the naive way, on a timm model with registers: hooks on the blocks, registers apart."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", reg_tokens=3, no_embed_class=True, depth=3).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "reg_token" in name or "cls_token" in name:
                parameter.normal_()
            if "attn.qkv.weight" in name:
                parameter.mul_(20)  # attention that is far from uniform
            if "blocks.1.mlp.fc2.bias" in name:
                parameter.normal_()
    images = torch.rand(6, 3, 224, 224)
    images[:, :, :64] = 0.5  # a plain strip: redundant patches
    result = scan(Backbone(model), images)

    hidden, inputs, embeddings = [], [], []
    handles = [b.register_forward_hook(lambda _m, _i, o: hidden.append(o)) for b in model.blocks]
    handles += [b.attn.register_forward_pre_hook(lambda _m, i: inputs.append(i[0])) for b in model.blocks]
    handles.append(model.patch_embed.proj.register_forward_hook(lambda _m, _i, o: embeddings.append(o)))
    with torch.no_grad():
        model.forward_features(images)
    for handle in handles:
        handle.remove()
    prefix = 1 + 3
    for layer, record in enumerate(result.layers):
        norms = hidden[layer].norm(dim=-1).numpy()
        assert record.median == pytest.approx(np.median(norms[:, prefix:]), rel=0.004)
        assert record.p99 == pytest.approx(np.quantile(norms[:, prefix:], 0.99), rel=0.008)
        assert record.max == pytest.approx(norms[:, prefix:].max(), rel=1e-5)
        assert record.cls_norm == pytest.approx(norms[:, 0].mean(), rel=1e-5)
        assert record.register_norms == pytest.approx(norms[:, 1:prefix].mean(0), rel=1e-5)


def test_outliers_of_a_planted_model_by_a_plain_hook_script(model, pixels, result):
    hidden, inputs, embeddings = [], [], []
    handles = [b.register_forward_hook(lambda _m, _i, o: hidden.append(o)) for b in model.blocks]
    handles += [b.attn.register_forward_pre_hook(lambda _m, i: inputs.append(i[0])) for b in model.blocks]
    handles.append(model.patch_embed.proj.register_forward_hook(lambda _m, _i, o: embeddings.append(o)))
    with torch.no_grad():
        model.forward_features(pixels)
    for handle in handles:
        handle.remove()
    _compare_outliers(result, model, hidden, inputs, embeddings[0], result.verdict.peak_layer, 1)


def _compare_outliers(result, model, hidden, inputs, embedded, peak, prefix):
    norms = hidden[peak][:, prefix:].norm(dim=-1)
    outlier = norms >= result.layers[peak].threshold
    assert result.layers[peak].outlier_fraction == pytest.approx(outlier.float().mean().item(), abs=2 / outlier.numel())
    places = outlier.float().mean(0).reshape(14, 14).numpy()
    np.testing.assert_allclose(np.array(result.positions.values), places, atol=1e-6)
    assert result.per_image.counts == np.bincount(outlier.sum(1).numpy()).tolist()

    cosine = torch.zeros(outlier.shape)
    for image, grid in enumerate(embedded):
        for row in range(14):
            for col in range(14):
                around = [(row + dy, col + dx) for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
                near = [
                    F.cosine_similarity(grid[:, row, col], grid[:, r, c], dim=0)
                    for r, c in around
                    if 0 <= r < 14 and 0 <= c < 14
                ]
                cosine[image, row * 14 + col] = torch.stack(near).mean()
    assert result.redundancy.outlier_mean == pytest.approx(cosine[outlier].mean().item(), abs=0.004)  # bins of 0.008
    assert result.redundancy.other_mean == pytest.approx(cosine[~outlier].mean().item(), abs=0.004)

    attention = model.blocks[peak + 1].attn
    x = inputs[peak + 1]
    with torch.no_grad():
        q, k, _ = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1).mean(1)  # [B, N, N]
    cls = weights[:, 0, prefix:]
    share = (cls / cls.sum(1, keepdim=True))[outlier].sum().item() / len(cls)
    assert result.layers[peak].cls_attention == pytest.approx(share, rel=1e-3)
