"""DINOv2 and DINO: each recipe against a transcription with loops over crops, images and patches."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests.apart import on_two
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vitreg.data.batches.batch import TrainBatch
from vitreg.data.views.settings import MultiCropConfig
from vitreg.errors import UserError
from vitreg.models.settings import ModelConfig
from vitreg.recipes.recipe import Progress
from vitreg.recipes.self_distill.dino import Dino
from vitreg.recipes.self_distill.dinov2 import DinoV2, hide_patches
from vitreg.recipes.self_distill.teacher import Targets
from vitreg.recipes.self_distill.teacher import teacher_temperature as temperature_of
from vitreg.recipes.settings import DinoConfig, DinoV2Config, MaskConfig, OptimConfig

MODEL = ModelConfig(width=32, depth=2, heads=2, patch=8, image_size=32, registers=2, layer_scale=None, token_init=0.02)
CROPS = MultiCropConfig(local_crops=2, local_size=16)
SMALL = {"crops": CROPS, "prototypes": 64, "hidden": 48, "bottleneck": 16, "group": 2, "epoch_steps": 10}
V2 = DinoV2Config(**SMALL, ibot_prototypes=64, ibot_bottleneck=24)
V1 = DinoConfig(**SMALL)
START = Progress(step=0, total=100, epoch_steps=10, seed=5)
LATER = replace(START, step=40)


def batch_of(samples, locals_=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    stacks = (
        torch.randn(2, samples, 3, 32, 32, generator=draw),
        torch.randn(locals_, samples, 3, 16, 16, generator=draw),
    )
    return TrainBatch(stacks if locals_ else stacks[:1])  # as the loader gives them


def build(config, model=MODEL, seed=0):
    """A recipe whose student has moved away from its teacher, with weights large enough to tell tokens apart."""
    torch.manual_seed(seed)
    recipe = (DinoV2 if isinstance(config, DinoV2Config) else Dino)(model, config)
    with torch.no_grad():
        for tower, seed in ((recipe.student, 1), (recipe.teacher, 2)):
            draw = torch.Generator().manual_seed(seed)
            for parameter in tower.parameters():
                if parameter.ndim > 1:
                    parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return recipe.train()


def run(recipe, batch, progress=LATER):
    recipe.zero_grad()
    output = recipe(batch, progress)
    output.loss.backward()
    return output, {name: p.grad for name, p in recipe.named_parameters() if p.grad is not None}


# The transcription. Nothing of vitreg.recipes is used but the weights, and which patches are masked.


def cross_entropy(target, logits):
    return -sum(t * p for t, p in zip(target, torch.log_softmax(logits / 0.1, dim=0), strict=True))


def sinkhorn(logits, temperature):
    q = torch.exp(torch.stack(logits).double() / temperature)
    q = q / q.sum()
    for _ in range(3):
        for k in range(q.shape[1]):
            q[:, k] = q[:, k] / q[:, k].sum() / q.shape[1]
        for i in range(q.shape[0]):
            q[i] = q[i] / q[i].sum() / q.shape[0]
    return list((q * q.shape[0]).float())


def koleo(features):
    unit = [f / f.norm() for f in features]
    nearest = [
        max((j for j in range(len(unit)) if j != i), key=lambda j, i=i: unit[i] @ unit[j]) for i in range(len(unit))
    ]
    return -sum(torch.log((unit[i] - unit[j] + 1e-8).norm() + 1e-8) for i, j in enumerate(nearest)) / len(unit)


def teacher_temperature(config, progress):
    warmup = round(config.teacher_temp_epochs * progress.epoch_steps)
    ramp = [
        config.teacher_temp_start + (config.teacher_temp - config.teacher_temp_start) * i / (warmup - 1)
        for i in range(warmup)
    ]
    return ramp[progress.step] if progress.step < warmup else config.teacher_temp


def naive(recipe, batch, progress, masks=None):
    """The losses of one group per `config.group` samples, crop by crop and image by image, by their names."""
    config, samples = recipe.config, range(len(batch))
    views = [view for stack in batch.views for view in stack]
    temperature = teacher_temperature(config, progress)

    def tokens(tower, view, sample, mask=None):
        return tower.backbone.forward_features(views[view][sample][None], mask=None if mask is None else mask[None])[0]

    def targets(logits, centre):
        if centre is None:
            return sinkhorn(logits, temperature)
        return [torch.softmax((z - centre) / temperature, dim=0) for z in logits]

    places = [(view, sample) for view in range(2) for sample in samples]
    with torch.no_grad():
        taught = {place: tokens(recipe.teacher, *place) for place in places}
        logits = [recipe.teacher.dino_head(taught[place][0]) for place in places]
        target = dict(zip(places, targets(logits, centre_of(recipe, "cls")), strict=True))
    seen = {
        (view, sample): tokens(
            recipe.student, view, sample, masks[view, sample] if masks is not None and view < 2 else None
        )
        for view in range(len(views))
        for sample in samples
    }
    losses = {"dino_local": torch.zeros(()), "dino_global": torch.zeros(())}
    pairs = 2 * (len(views) - 2) + 2
    for teacher_view in range(2):
        for view in range(len(views)):
            if view == teacher_view:
                continue
            for sample in samples:
                logits = recipe.student.dino_head(seen[view, sample][0])
                entropy = cross_entropy(target[teacher_view, sample], logits) / len(samples)
                losses["dino_global" if view < 2 else "dino_local"] += entropy / pairs
    if masks is None:
        return losses
    first_patch = 1 + recipe.model.registers
    hidden = [
        (view, sample, patch) for view, sample in places for patch in masks[view, sample].nonzero()[:, 0].tolist()
    ]
    teacher_head = recipe.teacher.ibot_head or recipe.teacher.dino_head
    student_head = recipe.student.ibot_head or recipe.student.dino_head
    with torch.no_grad():
        logits = [teacher_head(taught[view, sample][first_patch + patch]) for view, sample, patch in hidden]
        patch_targets = targets(logits, centre_of(recipe, "patch"))
    losses["ibot"] = torch.zeros(())
    for (view, sample, patch), wanted in zip(hidden, patch_targets, strict=True):
        entropy = cross_entropy(wanted, student_head(seen[view, sample][first_patch + patch]))
        losses["ibot"] += entropy / masks[view, sample].sum() / len(places)
    groups = [samples[start : start + config.group] for start in range(0, len(samples), config.group)]
    losses["koleo"] = sum(
        koleo([seen[view, sample][0] for sample in group]) / len(groups) for view in range(2) for group in groups
    )
    return losses


def centre_of(recipe, kind):
    if isinstance(recipe, Dino):
        return recipe.targets.centre
    return (recipe.cls_targets if kind == "cls" else recipe.patch_targets).centre


def masks_of(recipe, samples, progress):
    """The masks that the recipe draws, as [view, sample, patch]."""
    hidden = hide_patches(recipe.config.masks, (4, 4), samples, recipe.group, progress, torch.device("cpu"))
    return hidden.mask.unflatten(0, (2, samples))


def with_centres(recipe):
    """Give centres that matter."""
    draw = torch.Generator().manual_seed(9)
    for module in recipe.modules():
        if isinstance(module, Targets) and module.centre is not None:
            module.centre.copy_(torch.randn(module.centre.shape, generator=draw) / 10)
    return recipe


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"separate_heads": False},
        {"centring": "softmax"},
        {"koleo_weight": 2.0, "dino_weight": 0.3, "ibot_weight": 1.7},
    ],
    ids=["sinkhorn", "one head", "centre", "weights"],
)
def test_dinov2_is_its_transcription_in_value_and_gradient(change):
    recipe, batch = with_centres(build(replace(V2, **change))), batch_of(4)
    output, gradients = run(recipe, batch)
    recipe.zero_grad()
    config, parts = recipe.config, naive(recipe, batch, LATER, masks_of(recipe, 4, LATER))
    loss = (
        config.dino_weight * (parts["dino_local"] + parts["dino_global"])
        + config.ibot_weight * parts["ibot"]
        + config.koleo_weight * parts["koleo"]
    )
    loss.backward()
    for name, value in parts.items():
        torch.testing.assert_close(output.metrics[name], value.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, loss, rtol=1e-4, atol=1e-5)
    close_gradients(gradients, {name: p.grad for name, p in recipe.named_parameters() if p.grad is not None})


@pytest.mark.parametrize("locals_", [3, 0])
def test_dino_is_its_transcription_in_value_and_gradient(locals_):
    recipe, batch = with_centres(build(V1)), batch_of(4, locals_)
    output, gradients = run(recipe, batch)
    recipe.zero_grad()
    parts = naive(recipe, batch, LATER)
    sum(parts.values()).backward()
    torch.testing.assert_close(output.loss, sum(parts.values()), rtol=1e-4, atol=1e-5)
    close_gradients(gradients, {name: p.grad for name, p in recipe.named_parameters() if p.grad is not None})


def close_gradients(one, other, tolerance=1e-4):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert (gradient - other[name]).norm() <= tolerance * other[name].norm() + 1e-7, name


@pytest.mark.parametrize("config", [V2, V1], ids=["dinov2", "dino"])
def test_undecided_networks_have_the_entropy_of_the_prototypes(config):
    recipe = build(config)
    with torch.no_grad():  # equal prototypes: every logit of a token is the same, every target uniform
        for head in (recipe.student.dino_head, recipe.teacher.dino_head):
            head.last_layer.weight_v.fill_(1.0)
            head.last_layer.weight_g.fill_(1.0)
    metrics = recipe(batch_of(2, locals_=8), START).metrics
    assert metrics["dino_local"].item() == pytest.approx(16 / 18 * math.log(64), rel=1e-5)
    assert metrics["dino_global"].item() == pytest.approx(2 / 18 * math.log(64), rel=1e-5)
    assert metrics["teacher_entropy"].item() == pytest.approx(math.log(64), rel=1e-5)


@pytest.mark.parametrize("config", [V2, replace(V2, separate_heads=False), V1], ids=["dinov2", "one head", "dino"])
def test_every_weight_of_the_student_learns_and_none_of_the_teacher(config):
    recipe = build(config)
    _, gradients = run(recipe, batch_of(4))
    trainable = {name for name, p in recipe.named_parameters() if p.requires_grad}
    assert set(gradients) == trainable
    assert all(name.startswith("student.") for name in trainable)
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())
    frozen = {name for name, p in recipe.student.named_parameters() if not p.requires_grad}
    assert frozen == ({"dino_head.last_layer.weight_g"} if config is V1 else set())
    assert not recipe.teacher.training
    assert recipe.student.training


@pytest.mark.parametrize("config", [V2, V1], ids=["dinov2", "dino"])
def test_the_teacher_starts_equal_and_follows_by_the_momentum_of_the_step(config):
    torch.manual_seed(0)
    recipe = (DinoV2 if config is V2 else Dino)(MODEL, config)
    for name, value in recipe.student.state_dict().items():
        assert torch.equal(value, recipe.teacher.state_dict()[name])
    recipe = build(config)
    before = copy.deepcopy(recipe.teacher.state_dict())
    recipe(batch_of(4), LATER)
    recipe.after_step(LATER)
    momentum = 1.0 - (1.0 - config.momentum) * (math.cos(math.pi * 40 / 100) + 1) / 2
    for name, value in recipe.teacher.state_dict().items():
        expected = momentum * before[name] + (1 - momentum) * recipe.student.state_dict()[name]
        torch.testing.assert_close(value, expected, msg=name)
    assert recipe.backbone() is recipe.teacher.backbone


def test_centres_move_after_the_step_by_the_mean_of_what_the_teacher_said():
    recipe, batch = build(replace(V2, centring="softmax", momentum=1.0)), batch_of(4)
    first = recipe(batch, START).loss
    assert recipe(batch, START).loss == first  # not moved within a step
    masks = masks_of(recipe, 4, START)  # [view, sample, patch]
    with torch.no_grad():
        tokens = [recipe.teacher.backbone.forward_features(view) for view in batch.views[0]]
        cls = torch.cat([recipe.teacher.dino_head(t[:, 0]) for t in tokens])
        logits = torch.stack([recipe.teacher.ibot_head(t[:, 3:]) for t in tokens])  # [view, sample, patch, K]
    by_group = [logits[:, g][masks[:, g]].mean(0) for g in (slice(0, 2), slice(2, 4))]  # officially of a GPU each
    recipe.after_step(START)
    torch.testing.assert_close(recipe.cls_targets.centre, 0.1 * cls.mean(0))
    torch.testing.assert_close(recipe.patch_targets.centre, 0.1 * torch.stack(by_group).mean(0))
    assert recipe(batch, START).loss != first
    recipe.after_step(START)
    torch.testing.assert_close(recipe.cls_targets.centre, (0.9 * 0.1 + 0.1) * cls.mean(0))
    kept = recipe.cls_targets.centre.clone()
    recipe.after_step(START)  # nothing was seen
    assert torch.equal(recipe.cls_targets.centre, kept)


@pytest.mark.parametrize("config", [replace(V2, centring="softmax"), V1], ids=["dinov2", "dino"])
def test_micro_batches_are_exact_with_a_centre(config):
    model = replace(MODEL, drop_path=0.3, drop_path_mode="subset", register_dropout=0.3, register_decorrelation=0.1)
    whole, parts = build(config, model), build(config, model)
    assert whole.why_whole_batch() is None
    batch = batch_of(6)
    output, gradients = run(whole, batch)
    pieces = [(part, replace(LATER, first=part.first)) for part in batch.split(2)]
    losses = [parts(part, progress).loss / 3 for part, progress in pieces]
    sum(losses).backward()
    torch.testing.assert_close(output.loss, sum(losses))
    close_gradients(gradients, {name: p.grad for name, p in parts.named_parameters() if p.grad is not None})
    whole.after_step(LATER)
    parts.after_step(LATER)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, parts.state_dict()[name], msg=name)


def test_sinkhorn_needs_the_whole_batch_and_says_so():
    recipe, batch = build(V2), batch_of(4)
    assert "Sinkhorn" in recipe.why_whole_batch()
    whole = recipe(batch, START).loss
    parts = [recipe(part, replace(START, first=part.first)).loss for part in batch.split(2)]
    assert abs(whole - sum(parts) / 2) > 1e-4


@pytest.mark.parametrize("config", [V2, replace(V2, separate_heads=False), V1], ids=["dinov2", "one head", "dino"])
def test_every_weight_of_the_student_is_in_one_group_and_prototypes_wait(config):
    recipe = build(config)
    groups = recipe.parameter_groups(OptimConfig(layer_decay=0.9, decay_tokens=True))
    named = dict(recipe.named_parameters())
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, p in named.items() if p.requires_grad)
    for group in groups:
        assert all(named[name] is p for name, p in zip(group.names, group.params, strict=True))
        assert {name.split(".")[1] for name in group.names} == {group.module}
        assert {"last_layer" in name for name in group.names} == {group.frozen_steps > 0}
        assert group.frozen_steps in (0, config.epoch_steps)


@pytest.mark.parametrize("config", [V2, V1], ids=["dinov2", "dino"])
def test_the_loss_falls_on_a_fixed_batch(config):
    recipe = build(replace(config, teacher_temp_epochs=0.0))
    batch = batch_of(4)
    optimizer = torch.optim.AdamW([p for p in recipe.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for step in range(30):
        progress = replace(START, step=step)
        optimizer.zero_grad()
        loss = recipe(batch, progress).loss
        loss.backward()
        optimizer.step()
        recipe.after_step(progress)
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.8 * losses[0]


@pytest.mark.parametrize("config", [V2, V1], ids=["dinov2", "dino"])
@pytest.mark.parametrize("change", [{"drop_path": 0.4}, {"register_dropout": 0.5}], ids=["depth", "registers"])
def test_a_step_is_a_function_of_its_place_in_the_run(config, change):
    recipe, batch = build(config, replace(MODEL, **change)), batch_of(4)
    first = recipe(batch, START)
    torch.rand(7)
    assert recipe(batch, START).loss == first.loss
    assert recipe(batch, replace(START, seed=6)).metrics["dino_local"] != first.metrics["dino_local"]
    assert build(config)(batch, START).loss != first.loss


@pytest.mark.parametrize("change", [{"drop_path": 0.4}, {"register_dropout": 0.5}], ids=["depth", "registers"])
def test_every_crop_draws_for_itself(change):
    student = build(V2).student
    crops = batch_of(4).views[0][:1].expand(2, -1, -1, -1, -1)  # twice the same
    same, other = student.study(MODEL, (crops, crops), None, 2, START)
    torch.testing.assert_close(same, other)
    drawn = torch.cat(student.study(replace(MODEL, **change), (crops, crops), None, 2, START)).unflatten(0, (4, 4))
    assert all((drawn[one] - drawn[two]).abs().max() > 1e-3 for one in range(4) for two in range(one))


def test_similar_registers_cost_something():
    batch = batch_of(4)
    plain = build(V2)(batch, START)
    dearer = build(V2, replace(MODEL, register_decorrelation=0.5))(batch, START)
    torch.testing.assert_close(dearer.loss, plain.loss + dearer.metrics["decorrelation"])
    assert dearer.metrics["decorrelation"] > 0


def test_the_teacher_has_the_names_of_official_checkpoints():
    names = set(build(V2).teacher.state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "dino_head", "ibot_head"}
    assert {"dino_head.mlp.4.bias", "dino_head.last_layer.weight_g", "ibot_head.last_layer.weight_v"} <= names


def test_a_group_of_one_sample_has_no_neighbours():
    with pytest.raises(UserError, match="group"):
        build(replace(V2, group=1, masks=MaskConfig(share=0.9)))(batch_of(2), START)


def test_the_temperature_is_the_official_ramp():
    config = DinoV2Config()

    def at(step):
        progress = Progress(step=step, total=625_000, epoch_steps=1250)
        return temperature_of(progress, config.teacher_temp_start, config.teacher_temp, config.teacher_temp_epochs)

    assert [at(0), at(18_750), at(37_499), at(600_000)] == pytest.approx([0.04, 0.055, 0.07, 0.07], abs=1e-6)


# Two processes.


def part_of_two(rank, folder, config, sharded):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    recipe = build(config)
    if sharded:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
        for module in [*recipe.shards(), recipe]:
            fully_shard(module, mesh=mesh)
        wrapped = recipe
    else:
        wrapped = torch.nn.parallel.DistributedDataParallel(recipe, broadcast_buffers=False)
    piece = batch_of(4).split(2)[rank]
    output = wrapped(piece, replace(LATER, first=piece.first))
    output.loss.backward()
    recipe.after_step(LATER)
    gradients = {name: whole(p.grad) for name, p in recipe.named_parameters() if p.grad is not None}
    state = {name: whole(value) for name, value in recipe.state_dict().items()}
    torch.save((output.loss.detach(), gradients, state), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("config", [V2, replace(V2, centring="softmax"), V1], ids=["sinkhorn", "centre", "dino"])
def test_two_processes_are_one(config, sharded, tmp_path):
    on_two(part_of_two, tmp_path, config, sharded)
    (loss, gradients, state), (other_loss, _, other_state) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    recipe = build(config)
    output, expected = run(recipe, batch_of(4))
    recipe.after_step(LATER)
    torch.testing.assert_close((loss + other_loss) / 2, output.loss.detach())
    close_gradients(gradients, expected)
    for name, value in recipe.state_dict().items():
        torch.testing.assert_close(state[name], value, msg=name)
        assert torch.equal(state[name], other_state[name])
