"""Every loss against its docstring's loop as code, in float64, value and gradient; against timm and open_clip; and two
processes against one."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.apart import on_two

from vitreg.errors import UserError
from vitreg.machine.reduce import gather_over_processes, max_over_processes, sum_over_processes
from vitreg.recipes import losses
from vitreg.recipes.masking import masks_weight
from vitreg.recipes.self_distill import targets


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution(*shape, seed=0):
    return torch.softmax(3 * randn(*shape, seed=seed), dim=-1)


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def same(loss, loop, *inputs):
    """Value and gradient of a loss are those of the loop, in every input that is trained."""
    results = []
    for function in (loss, loop):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        results.append((value.detach(), *torch.autograd.grad(value, leaves)))
    assert results[0][0].dtype == torch.float64
    assert results[0][1].abs().sum() > 0, "a loss without gradient would make this test empty"
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-11)


# The loops.


def softmax(scores):
    weights = [torch.exp(s) for s in scores]
    return [w / sum(weights) for w in weights]


def entropy(target, logits, temperature=1.0):
    return -sum(t * torch.log(p) for t, p in zip(target, softmax(logits / temperature), strict=True))


def loop_binary(logits, wanted):
    loss = 0
    for b in range(len(logits)):
        for c in range(logits.shape[1]):
            p = 1 / (1 + torch.exp(-logits[b, c]))
            loss += -torch.log(p if wanted[b, c] > 0 else 1 - p) / logits.numel()
    return loss


def loop_clip(images, texts, scale):
    loss, N = 0, len(images)
    for i in range(N):
        loss += -torch.log(softmax([scale * images[i] @ texts[j] for j in range(N)])[i]) / (2 * N)
        loss += -torch.log(softmax([scale * texts[i] @ images[j] for j in range(N)])[i]) / (2 * N)
    return loss


def loop_cls(student, teacher, temperature):
    V, B, G = *student.shape[:2], len(teacher)
    parts = {"local": 0 * student.sum(), "global": 0 * student.sum()}
    pairs = [(v, g) for v in range(V) for g in range(G) if v != g]
    for v, g in pairs:
        term = sum(entropy(teacher[g, b], student[v, b], temperature) for b in range(B)) / B / len(pairs)
        parts["global" if v < G else "local"] += term
    return parts["local"], parts["global"]


def loop_koleo(x, group, eps=1e-8):
    loss, rows = 0, [row / row.norm() for row in x]
    for i in range(len(rows)):
        start = i // group * group
        j = max((j for j in range(start, start + group) if j != i), key=lambda j, i=i: rows[i] @ rows[j])
        loss += -torch.log((rows[i] - rows[j] + eps).norm() + eps) / len(rows)
    return loss


def loop_decorrelation(registers):
    B, R, _ = registers.shape
    loss = 0
    for b in range(B):
        for i in range(R):
            for j in range(R):
                if i != j:
                    x, y = registers[b, i], registers[b, j]
                    loss += (x @ y / (x.norm() * y.norm())) ** 2 / (B * R * (R - 1))
    return loss


def loop_mae(prediction, pixels, hidden, norm_pixels):
    errors = []
    for b, i in hidden.nonzero().tolist():
        wanted = pixels[b, i]
        if norm_pixels:
            variance = ((wanted - wanted.mean()) ** 2).sum() / (len(wanted) - 1)
            wanted = (wanted - wanted.mean()) / (variance + 1e-6) ** 0.5
        errors.append(((prediction[b, i] - wanted) ** 2).mean())
    return sum(errors) / len(errors)


def loop_sinkhorn(logits, temperature, iterations=3):
    N, K = logits.shape
    Q = torch.exp(logits / temperature)
    Q = Q / Q.sum()
    for _ in range(iterations):
        for k in range(K):
            Q[:, k] = Q[:, k] / Q[:, k].sum() / K
        for n in range(N):
            Q[n] = Q[n] / Q[n].sum() / N
    return N * Q


# Losses with labels and texts.


def test_soft_cross_entropy_is_the_loop():
    wanted = distribution(5, 7, seed=1)
    same(
        lambda z: losses.soft_cross_entropy(z, wanted),
        lambda z: sum(entropy(wanted[b], z[b]) for b in range(5)) / 5,
        randn(5, 7),
    )


def test_binary_cross_entropy_is_the_loop():
    wanted = torch.tensor([[1.0, 0, 0, 0], [0, 1e-3, 0, 0.999], [0, 0, 0, 0]]).double()
    same(lambda z: losses.binary_cross_entropy(z, wanted), lambda z: loop_binary(z, wanted), 3 * randn(3, 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_losses_are_those_of_timm(smoothing):
    from timm.data.mixup import mixup_target
    from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

    logits, labels = randn(6, 10).float(), torch.tensor([0, 3, 3, 9, 5, 1])
    mixed = mixup_target(labels, 10, lam=0.7, smoothing=smoothing)
    torch.testing.assert_close(losses.soft_cross_entropy(logits, mixed), SoftTargetCrossEntropy()(logits, mixed))
    binary = BinaryCrossEntropy(target_threshold=0.0)
    torch.testing.assert_close(losses.binary_cross_entropy(logits, mixed), binary(logits, mixed))


def test_clip_loss_is_the_loop_and_that_of_open_clip():
    from open_clip.loss import ClipLoss

    inputs = unit(randn(6, 8)), unit(randn(6, 8, seed=1)), torch.tensor([14.3]).double()
    same(lambda *x: losses.clip_loss(*x)[0], lambda i, t, s: loop_clip(i, t, s).sum(), *inputs)
    same(lambda *x: losses.clip_loss(*x)[0], ClipLoss(), *inputs)


def test_clip_loss_counts_the_images_whose_text_is_nearest():
    images = torch.eye(4)
    _, top1 = losses.clip_loss(images, images[[0, 2, 1, 3]], torch.tensor(5.0))
    assert top1 == 0.5


# Losses between crops.


@pytest.mark.parametrize(("crops", "taught"), [(5, 2), (2, 2), (6, 3), (3, 1)])
@pytest.mark.parametrize("part", [0, 1])
def test_cls_losses_are_the_loop(crops, taught, part):
    teacher = distribution(taught, 3, 6, seed=1)
    if (crops, taught, part) in ((2, 2, 0), (3, 1, 1)):
        assert losses.cls_losses(randn(crops, 3, 6), teacher, 0.1)[part] == 0, "no such pairs"
        return
    same(
        lambda s: losses.cls_losses(s, teacher, 0.1)[part],
        lambda s: loop_cls(s, teacher, 0.1)[part],
        randn(crops, 3, 6),
    )


def test_the_global_part_is_dinov2s_swap():
    student, teacher = randn(10, 4, 6), distribution(2, 4, 6, seed=1)
    swapped = torch.stack(
        [entropy(teacher.flip(0).flatten(0, 1)[i], student[:2].flatten(0, 1)[i], 0.1) for i in range(8)]
    )
    torch.testing.assert_close(losses.cls_losses(student, teacher, 0.1)[1], 2 / 18 * swapped.mean())


@pytest.mark.parametrize(("crops", "taught"), [(1, 1), (1, 2)])
def test_cls_losses_need_two_crops(crops, taught):
    with pytest.raises(ValueError, match="no pair"):
        losses.cls_losses(randn(crops, 3, 6), distribution(taught, 3, 6), 0.1)


def test_ibot_loss_is_the_loop():
    masks = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    teacher, weights = distribution(5, 6, seed=1), torch.tensor([1 / 3] * 3 + [1 / 2] * 2, dtype=torch.float64)
    torch.testing.assert_close(masks_weight(masks), weights.float())

    def loop(student):
        places, loss = masks.nonzero().tolist(), 0
        for m, (crop, _) in enumerate(places):
            loss += entropy(teacher[m], student[m], 0.1) / sum(1 for c, _ in places if c == crop)
        return loss / 4

    same(lambda s: losses.ibot_loss(s, teacher, 0.1, weights, 4), loop, randn(5, 6))


@pytest.mark.parametrize("group", [2, 3, 6])
def test_koleo_is_the_loop(group):
    same(lambda x: losses.koleo(x, group), lambda x: loop_koleo(x, group), randn(6, 4))


def test_koleo_without_groups_takes_all_rows():
    assert losses.koleo(randn(6, 4)) == losses.koleo(randn(6, 4), 6) != losses.koleo(randn(6, 4), 3)


def test_koleo_has_the_golden_value():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])
    assert losses.koleo(points).item() == pytest.approx(0.188005, abs=5e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_koleo_of_identical_rows_is_finite(dtype):
    x = torch.ones(4, 8, dtype=dtype, requires_grad=True)
    loss = losses.koleo(x)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.log(1e-8 * (1 + 8**0.5)), abs=1e-3)
    assert x.grad.isfinite().all()


def test_koleo_never_takes_a_row_for_its_own_neighbour():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # -1 is the least similar that there is
    assert losses.koleo(opposite).item() == pytest.approx(-math.log(2), abs=1e-6)


def test_koleo_refuses_groups_without_neighbours():
    with pytest.raises(UserError, match="group 2 or more"):
        losses.koleo(randn(4, 3), 1)
    with pytest.raises(ValueError, match="whole groups of 3"):
        losses.koleo(randn(4, 3), 3)


@pytest.mark.parametrize("count", [2, 5])
def test_register_decorrelation_is_the_loop(count):
    same(losses.register_decorrelation, loop_decorrelation, randn(3, count, 4))


def test_register_decorrelation_from_none_to_all_equal():
    assert losses.register_decorrelation(randn(3, 1, 4)) == losses.register_decorrelation(randn(3, 0, 4)) == 0
    assert losses.register_decorrelation(torch.eye(4)[None]) == 0
    torch.testing.assert_close(
        losses.register_decorrelation(randn(2, 1, 4).expand(2, 3, 4)), torch.tensor(1.0).double()
    )


# Pixels.


@pytest.mark.parametrize("patch", [4, (2, 6)])
def test_patchify_takes_rows_then_columns_then_colours(patch):
    images = randn(2, 3, 8, 12)
    p, q = (patch, patch) if isinstance(patch, int) else patch
    found = losses.patchify(images, patch)
    assert found.shape == (2, 8 // p * (12 // q), p * q * 3)
    for r in range(8 // p):
        for c in range(12 // q):
            for y in range(p):
                for x in range(q):
                    wanted = images[:, :, r * p + y, c * q + x]  # [B, 3]
                    start = (y * q + x) * 3
                    assert torch.equal(found[:, r * (12 // q) + c, start : start + 3], wanted)


def test_patchify_refuses_a_remainder():
    with pytest.raises(ValueError, match="8x10 pixels are no whole 4x4 patches"):
        losses.patchify(randn(1, 3, 8, 10), 4)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_mae_loss_is_the_loop(norm_pixels):
    pixels, hidden = randn(2, 5, 12, seed=1), torch.tensor([[1, 0, 0, 1, 1], [0, 1, 0, 1, 1]]).bool()
    same(
        lambda x: losses.mae_loss(x, pixels, hidden, norm_pixels=norm_pixels),
        lambda x: loop_mae(x, pixels, hidden, norm_pixels),
        randn(2, 5, 12),
    )


# What the teacher wants.

LOGITS = torch.tensor([[1.0, 2, 0], [0, 1, 3], [2, 0, 1], [1, 1, 1]])
SPREAD = torch.tensor(
    [
        [0.107309, 0.887361, 0.00533],
        [0.006357, 0.052563, 0.94108],
        [0.934438, 0.019153, 0.046409],
        [0.402238, 0.45015, 0.147613],
    ]
)


def test_sinkhorn_has_the_golden_value():
    torch.testing.assert_close(targets.sinkhorn(LOGITS, 0.5), SPREAD, rtol=0, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_is_the_loop_and_leaves_its_input(iterations):
    logits = randn(7, 5)
    found = targets.sinkhorn(logits, 0.3, iterations)
    torch.testing.assert_close(found, loop_sinkhorn(logits, 0.3, iterations), rtol=1e-12, atol=1e-15)
    assert torch.equal(logits, randn(7, 5))


def test_sinkhorn_survives_what_overflows_and_what_vanishes():
    torch.testing.assert_close(targets.sinkhorn(LOGITS + 1e4, 0.5), SPREAD, rtol=0, atol=1e-5)
    far = LOGITS.double() / 0.5 + torch.tensor([0.0, 0.0, -300.0])  # exp(-300) is 0 in float32
    found = targets.sinkhorn(far.float(), 1.0)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), loop_sinkhorn(far, 1.0), rtol=1e-4, atol=1e-6)


def test_sinkhorn_balances_when_it_may_go_on():
    found = targets.sinkhorn(randn(12, 4), 0.5, iterations=200)
    torch.testing.assert_close(found.sum(0), torch.full((4,), 3.0).double())
    torch.testing.assert_close(found.sum(1), torch.ones(12).double())


def test_sinkhorn_of_nothing_is_nothing():
    assert targets.sinkhorn(torch.empty(0, 5), 0.1).shape == (0, 5)


def test_softmax_centring_is_the_loop():
    logits, centre = randn(3, 5), randn(5, seed=1)
    loop = torch.stack([torch.stack(softmax((z - centre) / 0.2)) for z in logits])
    torch.testing.assert_close(targets.softmax_centring(logits, centre, 0.2), loop)


def test_the_centre_is_a_running_mean():
    centre = torch.zeros(3)
    for step in range(1, 4):
        centre = targets.update_centre(centre, LOGITS.sum(0), torch.tensor(4.0))
        torch.testing.assert_close(centre, (1 - 0.9**step) * LOGITS.mean(0))
    torch.testing.assert_close(targets.update_centre(centre, LOGITS.sum(0), torch.tensor(4.0), 0.0), LOGITS.mean(0))
    assert torch.equal(targets.update_centre(centre, torch.zeros(3), torch.tensor(0.0)), centre)


# Half precision.

CASES = {
    "soft_cross_entropy": lambda x, y: losses.soft_cross_entropy(x, torch.softmax(y.float(), -1)),
    "binary_cross_entropy": lambda x, y: losses.binary_cross_entropy(x, y),
    "clip_loss": lambda x, y: losses.clip_loss(x, y, torch.tensor(0.3))[0],
    "cls_losses": lambda x, y: sum(
        losses.cls_losses(torch.stack([x, y, x]), torch.softmax(torch.stack([y, x]).float(), -1), 0.5)
    ),
    "ibot_loss": lambda x, y: losses.ibot_loss(x, torch.softmax(y.float(), -1), 0.5, torch.ones(8) / 4, 2),
    "koleo": lambda x, y: losses.koleo(x, group=4),
    "register_decorrelation": lambda x, y: losses.register_decorrelation(x[None]),
    "mae_loss": lambda x, y: losses.mae_loss(x[None], y[None], torch.ones(1, 8).bool()),
    "sinkhorn": lambda x, y: targets.sinkhorn(x, 0.3),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_computed_in_full_precision(name):
    x, y = (randn(8, 16, seed=seed).bfloat16() for seed in (0, 1))
    wanted = CASES[name](x.float(), y.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = CASES[name](x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


# Two processes. They take seconds to import torch, so these tests are slow.

PATCHES = (5, 2)  # masked patches of each process: not as many


def share(rank, folder):
    """One of two processes. Gradients are averaged as DDP does."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own, found = slice(4 * rank, 4 * rank + 4), {}
    weights, pixels, words, log_scale = clip_setting()
    features = unit(pixels[own] @ weights[0]), unit(words[own] @ weights[1])
    loss, top1 = losses.clip_loss(*features, log_scale.exp())
    found["clip"] = [loss.detach(), top1, *torch.autograd.grad(loss, [*weights, log_scale])]
    for value in found["clip"]:
        dist.all_reduce(value)
        value /= 2
    logits = randn(sum(PATCHES), 6, seed=9).split(PATCHES)[rank]
    found["sinkhorn"] = targets.sinkhorn(logits, 0.2)
    found["sinkhorn_alone"] = targets.sinkhorn(logits if rank == 0 else logits[:0], 0.2)
    count = torch.tensor(float(len(logits)))
    found["centre"] = targets.update_centre(torch.ones(6).double(), logits.sum(0), count)
    found["official_centre"] = targets.update_centre(torch.ones(6).double(), logits.mean(0), torch.tensor(1.0))
    x = torch.tensor([rank + 1.0, 5.0 - rank])
    found["reduced"] = [sum_over_processes(x), max_over_processes(x), x]
    gathered = gather_over_processes(x.requires_grad_())
    (rank * gathered + gathered**2).sum().backward()
    found["gathered"] = [gathered.detach(), x.grad]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def clip_setting():
    weights = [randn(5, 3, seed=seed).requires_grad_() for seed in (3, 4)]
    return weights, randn(8, 5, seed=5), randn(8, 5, seed=6), torch.tensor([1.7]).double().requires_grad_()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("processes")
    on_two(share, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_clip_on_two_processes_is_clip_on_one(two):
    weights, pixels, words, log_scale = clip_setting()
    features = unit(pixels @ weights[0]), unit(words @ weights[1])
    loss = loop_clip(*features, log_scale.exp()).sum()
    nearest = (features[0] @ features[1].T).argmax(1) == torch.arange(8)
    wanted = [loss.detach(), nearest.float().mean(), *torch.autograd.grad(loss, [*weights, log_scale])]
    for process in two:
        for mine, reference in zip(process["clip"], wanted, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


def test_targets_on_two_processes_are_those_on_one(two):
    logits = randn(sum(PATCHES), 6, seed=9)
    torch.testing.assert_close(torch.cat([p["sinkhorn"] for p in two]), loop_sinkhorn(logits, 0.2))
    alone = loop_sinkhorn(logits[: PATCHES[0]], 0.2)
    torch.testing.assert_close(torch.cat([p["sinkhorn_alone"] for p in two]), alone)
    for process in two:
        torch.testing.assert_close(process["centre"], 0.9 + 0.1 * logits.mean(0))
        means = torch.stack([part.mean(0) for part in logits.split(PATCHES)])
        torch.testing.assert_close(process["official_centre"], 0.9 + 0.1 * means.mean(0))


def test_reductions(two):
    for rank, process in enumerate(two):
        values = [v.tolist() for v in process["reduced"]]
        assert values == [[3.0, 9.0], [2.0, 5.0], [rank + 1.0, 5.0 - rank]], "the last is left as it was"
        gathered, gradient = process["gathered"]
        assert gathered.tolist() == [1.0, 5.0, 2.0, 4.0]
        own = torch.tensor([rank + 1.0, 5.0 - rank])
        assert gradient.tolist() == (1 + 4 * own).tolist()  # of both losses: 0 + 2x, and 1 + 2x


def test_one_process_needs_no_group():
    x = randn(3, 2)
    for reduce in (sum_over_processes, max_over_processes, gather_over_processes):
        assert torch.equal(reduce(x), x)
