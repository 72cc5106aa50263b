"""A toy recipe that keeps all promises, and one broken recipe for each promise."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vitreg.data.batches.batch import TrainBatch
from vitreg.models.vit import VisionTransformer
from vitreg.recipes.average import Average
from vitreg.recipes.parameters import ParamGroup, group_parameters
from vitreg.recipes.recipe import StepOutput


class Toy(nn.Module):
    """A recipe that keeps all promises: images to one number, with an average."""

    group = 2

    def __init__(self):
        super().__init__()
        self.vit = VisionTransformer(16, 8, 8, 1, 2, registers=1)
        self.last = nn.Linear(8, 1)
        self.average = Average(self.vit, 0.9)

    def forward(self, batch, progress):
        said = self.last(self.vit(batch.views[0][0]))[:, 0]  # [B]
        loss = (said - batch.targets).square().mean()
        return StepOutput(loss, {"error": loss.detach().sqrt()}, len(batch))

    def after_step(self, progress):
        self.average.follow(self.vit)

    def parameter_groups(self, optim):
        return group_parameters(self, optim)

    def begin_with(self, fill):
        notes = fill(self.vit)
        self.average.start_at(self.vit)
        return notes

    def backbone(self):
        return self.average.network

    def why_whole_batch(self):
        return None

    def shards(self):
        return [*self.vit.blocks, *self.average.network.blocks]


def toy_batch(step):
    draw = torch.Generator().manual_seed(step)
    return TrainBatch((torch.randn(1, 4, 3, 16, 16, generator=draw),), torch.randn(4, generator=draw))


def with_loss(output, change):
    return replace(output, loss=change(output.loss))


class NotFinite(Toy):
    def forward(self, batch, progress):
        return with_loss(super().forward(batch, progress), lambda loss: loss * float("nan"))


class MetricWithItsGraph(Toy):
    def forward(self, batch, progress):
        output = super().forward(batch, progress)
        return replace(output, metrics={"loss": output.loss})


class Miscounted(Toy):
    def forward(self, batch, progress):
        return replace(super().forward(batch, progress), examples=1)


class Unused(Toy):
    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3))


class TeacherIsTrainable(Toy):
    def __init__(self):
        super().__init__()
        self.average.requires_grad_(True)


class FrozenInAGroup(Toy):
    def parameter_groups(self, optim):
        name, parameter = next(self.average.named_parameters())
        return [*super().parameter_groups(optim), ParamGroup((f"average.{name}",), (parameter,))]


class InTwoGroups(Toy):
    def parameter_groups(self, optim):
        return [*super().parameter_groups(optim), ParamGroup(("last.bias",), (self.last.bias,))]


class InNoGroup(Toy):
    def parameter_groups(self, optim):
        return super().parameter_groups(optim)[1:]


class WrongNames(Toy):
    def parameter_groups(self, optim):
        return [
            replace(group, names=tuple(f"module.{name}" for name in group.names))
            for group in super().parameter_groups(optim)
        ]


class TorchsRandomness(Toy):
    def forward(self, batch, progress):
        noise = torch.randn(len(batch), 1, 1, 1) / 10
        return super().forward(replace(batch, views=(batch.views[0] + noise,)), progress)


class NumpysRandomness(Toy):
    def after_step(self, progress):
        super().after_step(progress)
        np.random.rand()


class PythonsRandomness(Toy):
    def forward(self, batch, progress):
        share = random.random()
        return with_loss(super().forward(batch, progress), lambda loss: loss * (1 + share))


class Counting(Toy):
    calls = 0

    def forward(self, batch, progress):
        self.calls += 1
        return with_loss(super().forward(batch, progress), lambda loss: loss * self.calls)


class TeacherInTraining(Toy):
    def train(self, mode=True):
        super().train(mode)
        self.average.network.train(mode)
        return self


class WakesItsTeacher(Toy):
    def after_step(self, progress):
        super().after_step(progress)
        self.average.network.train()


class AverageStartsElsewhere(Toy):
    def begin_with(self, fill):
        return fill(self.vit)


class LosesTheNotes(Toy):
    def begin_with(self, fill):
        super().begin_with(fill)
        return []


class ShardsOfACopy(Toy):
    def shards(self):
        return [*copy.deepcopy(self.vit).blocks]


class ShardsInShards(Toy):
    def shards(self):
        return [*self.vit.blocks, self.vit.blocks[0].attn]


class HiddenBackbone(Toy):
    def backbone(self):
        return copy.deepcopy(self.vit)


class SumOfLosses(Toy):
    def forward(self, batch, progress):
        return with_loss(super().forward(batch, progress), lambda loss: loss * len(batch))


class SamplesMeet(Toy):
    def forward(self, batch, progress):
        views = (batch.views[0] - batch.views[0].mean(1, keepdim=True),)
        return super().forward(replace(batch, views=views), progress)


class IgnoresItsPlace(Toy):
    """Every micro-batch draws as the first one does."""

    def forward(self, batch, progress):
        noise = torch.randn(len(batch), 1, 1, 1, generator=progress.generator("noise"))
        return super().forward(replace(batch, views=(batch.views[0] + noise,)), progress)


class SaysNothing(Toy):
    def why_whole_batch(self):
        return ""


class NoAverage(Toy):
    def after_step(self, progress):
        pass


class AverageRunsAway(Toy):
    def after_step(self, progress):
        for mean, weight in zip(self.average.parameters(), self.vit.parameters(), strict=True):
            mean.data.lerp_(weight.data, 1.5)


class AverageIsNotFinite(Toy):
    def after_step(self, progress):
        for mean in self.average.parameters():
            mean.data.fill_(float("inf"))


class StateBeside(Toy):
    """What it saw is kept where no state dict finds it."""

    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(())

    def forward(self, batch, progress):
        return with_loss(super().forward(batch, progress), lambda loss: loss * (1 + self.seen))

    def after_step(self, progress):
        super().after_step(progress)
        self.seen = self.seen + 1


class ForgetsAtTheEnd(Toy):
    """A buffer that changes what is learned, and is not saved."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.ones(()), persistent=False)

    def forward(self, batch, progress):
        return with_loss(super().forward(batch, progress), lambda loss: loss * self.weight)

    def after_step(self, progress):
        super().after_step(progress)
        self.weight *= 1.1


class RemembersItsBirth(Toy):
    """Late in the run it does otherwise if this process has not seen the beginning."""

    born = None

    def after_step(self, progress):
        super().after_step(progress)
        self.born = progress.step if self.born is None else self.born
        if self.born and progress.step == 3:
            self.last.bias.data.add_(0.01)


class Uphill(Toy):
    def forward(self, batch, progress):
        return with_loss(super().forward(batch, progress), lambda loss: 2 * loss.detach() - loss)


class Raises(Toy):
    def shards(self):
        raise KeyError("blocks")


FAULTS = {
    NotFinite: ("loss", "the loss is nan"),
    MetricWithItsGraph: ("loss", "'loss' is not detached"),
    Miscounted: ("loss", "1 examples in a batch of 4"),
    Unused: ("gradients", "no gradient reaches 'spare'"),
    TeacherIsTrainable: ("gradients", "no gradient reaches 'average.network.cls_token'"),
    FrozenInAGroup: ("groups", "'average.network.cls_token' is in a group and not trainable"),
    InTwoGroups: ("groups", "'last.bias' is in more than one group"),
    InNoGroup: ("groups", "is trainable and in no group"),
    WrongNames: ("groups", "'module.vit.cls_token'"),
    TorchsRandomness: ("random numbers", "generator of 'torch'"),
    NumpysRandomness: ("random numbers", "generator of 'numpy'"),
    PythonsRandomness: ("random numbers", "generator of 'Python'"),
    Counting: ("same again", "the same batch and progress give"),
    TeacherInTraining: ("training flags", "in training mode after train"),
    WakesItsTeacher: ("training flags", "a step changes the training mode of 'average.network'"),
    AverageStartsElsewhere: ("begin with", "backbone() has not taken over 'cls_token'"),
    LosesTheNotes: ("begin with", "not what fill said"),
    ShardsOfACopy: ("parts", "'Block', which is no part"),
    ShardsInShards: ("parts", "'vit.blocks.0.attn' lies inside another"),
    HiddenBackbone: ("parts", "backbone() is no part"),
    SumOfLosses: ("micro-batches", "the loss of micro-batches is off"),
    SamplesMeet: ("micro-batches", "the loss of micro-batches is off"),
    IgnoresItsPlace: ("micro-batches", "the loss of micro-batches is off"),
    SaysNothing: ("micro-batches", "says nothing"),
    NoAverage: ("averages", "does not follow what is trained"),
    AverageRunsAway: ("averages", "is no average"),
    AverageIsNotFinite: ("averages", "is not finite after"),
    StateBeside: ("state dict", "a recipe with its state gives the loss"),
    ForgetsAtTheEnd: ("state dict", "a recipe with its state gives the loss"),
    RemembersItsBirth: ("resume", "weights of 'last.bias' end otherwise"),
    Uphill: ("learning", "the loss goes from"),
    Raises: ("parts", "KeyError"),
}
