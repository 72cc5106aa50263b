"""DINOv2 and DINO: each recipe against a transcription with loops over crops, images and patches."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from tests.apart import on_two
from tests.unit.recipes.self_distill_by_hand import (
    LATER,
    MODEL,
    START,
    V1,
    V2,
    batch_of,
    build,
    close_gradients,
    masks_of,
    naive,
    run,
    with_centres,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vitreg.errors import UserError
from vitreg.recipes.recipe import Progress
from vitreg.recipes.self_distill.dino import Dino
from vitreg.recipes.self_distill.dinov2 import DinoV2
from vitreg.recipes.self_distill.teacher import teacher_temperature as temperature_of
from vitreg.recipes.settings import DinoV2Config, MaskConfig, OptimConfig

# The transcription. Nothing of vitreg.recipes is used but the weights, and which patches are masked.


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
