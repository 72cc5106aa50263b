"""Counts of parameters and multiply-adds against networks that are built, and against the paper's Appendix B."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitreg.analysis.complexity import Architecture, percent_more
from vitreg.models.vit import VisionTransformer

L14 = Architecture(width=1024, depth=24, hidden=4096, patch=(14, 14), table=(37, 37))
B14 = Architecture(width=768, depth=12, hidden=3072, patch=(14, 14), table=(37, 37))
G14 = Architecture(width=1536, depth=40, hidden=4096, gated=True, patch=(14, 14), table=(37, 37))
B16 = Architecture(width=768, depth=12, hidden=3072)
S14 = Architecture(width=384, depth=12, hidden=1536, patch=(14, 14), table=(37, 37))


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (L14, {1: 0.40, 2: 0.81, 4: 1.62, 8: 3.24, 16: 6.48}),
        (B14, {1: 0.41, 2: 0.82, 4: 1.63, 8: 3.27, 16: 6.54}),
        (G14, {1: 0.40, 2: 0.80, 4: 1.60, 8: 3.20, 16: 6.40}),
        (B16, {1: 0.53, 2: 1.05, 4: 2.10, 8: 4.21, 16: 8.43}),
    ],
)
def test_the_increase_is_that_of_appendix_b(model, published):
    base = model.macs((224, 224), 0)
    assert {r: round(percent_more(model.macs((224, 224), r), base), 2) for r in published} == published


@pytest.mark.parametrize(("model", "giga"), [(L14, 81.0), (G14, 299.4), (B16, 17.6), (S14, 6.1)])
def test_the_absolute_count_at_224_pixels(model, giga):
    assert round(model.macs((224, 224), 0) / 1e9, 1) == giga


def test_small_crops_pay_more_and_large_images_less():
    def more(side):
        return round(percent_more(L14.macs((side, side), 4), L14.macs((side, side), 0)), 2)

    assert (more(98), more(518)) == (8.05, 0.34)


@pytest.mark.parametrize(("model", "percent"), [(L14, 0.0014), (B14, 0.0036), (G14, 0.0005), (B16, 0.0036)])
def test_four_registers_add_hardly_any_parameter(model, percent):
    assert model.parameters(4) - model.parameters(0) == 4 * model.width
    assert percent_more(model.parameters(4), model.parameters(0)) == pytest.approx(percent, abs=6e-5)


BUILT = [
    ({}, {}),
    ({"mlp": "swiglu"}, {"hidden": 88, "gated": True}),
    ({"layer_scale": 0.1}, {"layer_scale": True}),
    ({"pre_norm": True}, {"pre_norm": True}),
    ({"patch": (8, 4), "image_size": (32, 48)}, {"patch": (8, 4), "table": (4, 12)}),
    ({"cls_token": False}, {"cls_tokens": 0}),
]


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize(("arguments", "described"), BUILT)
def test_the_closed_form_is_what_a_network_has_and_does(arguments, described, registers):
    size = arguments.get("image_size", (32, 32))
    with torch.device("meta"):
        network = VisionTransformer(
            **{"image_size": size, "patch": 8, "width": 32, "depth": 3, "heads": 2, "registers": registers} | arguments
        )
        image = torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network.forward_features(image)
    shape = {"hidden": 128, "patch": (8, 8), "table": (4, 4)} | described
    ours = Architecture(width=32, depth=3, **shape)
    assert ours.parameters(registers) == sum(p.numel() for p in network.parameters())
    assert 2 * ours.macs(size, registers) == counter.get_total_flops()


def test_a_size_that_the_patch_does_not_divide_is_a_mistake():
    with pytest.raises(ValueError, match="no multiple"):
        B16.macs((224, 225), 0)
