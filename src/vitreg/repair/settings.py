"""The settings of every repair: flags of `vitreg fix`, keywords of `vitreg.fit_repair`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vitreg import plugins
from vitreg.errors import UserError
from vitreg.passes.options import ImageOptions

METHODS: tuple[str, ...] = (
    "test-time",
    "attention-bias",
    "substitute",
    "clip-norm",
    "mask-keys",
    "prefix",
    "position-rows",
    "denoise",
    "border",
    "distill",
    "singular",
)
"""Every repair: `repair/methods/NAME.py`, and `NameSettings` here."""
CHOOSES = ("auto",)
"""What `vitreg fix` takes in place of a repair: it chooses one."""


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Settings of a repair: the flags of the command line, each with a docstring."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        return

    @property
    def files(self) -> list[Path]:
        """The files that it reads."""
        return [value for each in fields(self) if isinstance(value := getattr(self, each.name), Path)]


@dataclass(frozen=True, kw_only=True)
class FitOptions(ImageOptions):
    """Which images a repair is fitted on."""

    limit: int | None = 500
    """Use at most this many images: half to judge, a sixth to choose with (64 at most), the rest to fit on."""
    seed: int = 0
    """Seed of every random draw."""
    force: bool = False
    """Repair a model without outliers all the same."""
    control: bool = False
    """Fit a control: as many random neurons, tokens or places."""


def _at_least(low: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} must be at least {low:g}, not {value:g}.")


@dataclass(frozen=True, kw_only=True)
class TestTimeSettings(MethodSettings):
    """Test-time registers: move the activation of a few MLP neurons from the patches to added tokens. No training.

    The neurons that write the outliers are found in one forward pass; how many are moved is searched on other images.

    Example: vitreg fix test-time timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    registers: int = 1
    """Tokens added, directly before the patches; neuron i goes to token i mod registers."""
    neurons: int | None = None
    """How many neurons to move; searched if unset."""
    neurons_from: Path | None = None
    """Move the neurons of this list, without a search: neurons.json, as vitreg fix writes it beside a repair."""
    score: Literal["contrast", "activation"] = "contrast"
    """How neurons are ranked: by the difference between outliers and other patches times what the neuron writes, or, as
    published, by the mean size of the activation on outliers."""
    first_block: int | None = None
    """The first block whose neurons may be moved; unset 3, and 2 of fewer than 12 blocks: moving an earlier one costs accuracy."""
    rounds: int = 1
    """Fit again on the repaired model, up to so many times, while that lowers the share of outliers."""
    token: Literal["zero", "mean"] = "zero"
    """What an added token is before block 0: zeros, or the mean patch of the images fitted on."""
    max_damage: float = 0.02
    """Stop the search once the class token has changed by this much (1 - cosine, mean over images)."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(1, registers=self.registers, neurons=self.neurons, rounds=self.rounds)
        if self.neurons_from is not None and (self.neurons is not None or self.rounds > 1):
            raise UserError("--neurons-from says which neurons are moved; leave --neurons and --rounds out.")
        _at_least(0, max_damage=self.max_damage, first_block=self.first_block)


@dataclass(frozen=True, kw_only=True)
class AttentionBiasSettings(TestTimeSettings):
    """Attention bias: test-time registers without the token. No training, and the sequence keeps its length.

    The neurons that write the outliers are 0 everywhere, and every attention has an extra key and value: those of the
    test-time register, mean over the images fitted on.

    Example: vitreg fix attention-bias timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    registers: int = 1
    """Extra keys and values of every head: those of so many test-time registers."""


TestTimeSettings.__test__ = False  # pytest: no test class  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class DetectedSettings(MethodSettings):
    """How a repair that looks for outliers in every image finds them."""

    detector: Literal["norm", "lof"] = "norm"
    """Outliers by the scan's threshold of norms, or by the local outlier factor of the image's patches."""
    neighbours: int = 30
    """Neighbours of the local outlier factor."""
    share: float = 0.05
    """Share of an image's patches that the local outlier factor marks."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(1, neighbours=self.neighbours)
        if not 0 < self.share < 1:
            raise UserError(f"--share is a share of the patches between 0 and 1, not {self.share:g}.")


@dataclass(frozen=True, kw_only=True)
class SubstituteSettings(DetectedSettings):
    """Replace outliers by the mean of their neighbours. No training, no new weights.

    Example: vitreg fix substitute timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    where: Literal["onset", "late", "output"] = "onset"
    """After the block at which outliers appear, after the last block but one, or in the output only."""


@dataclass(frozen=True, kw_only=True)
class ClipNormSettings(DetectedSettings):
    """Rescale outliers to the median norm of the image's patches. No training, no new weights.

    Example: vitreg fix clip-norm timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    where: Literal["onset", "late", "output"] = "onset"
    """After the block at which outliers appear, after the last block but one, or in the output only."""


@dataclass(frozen=True, kw_only=True)
class MaskKeysSettings(DetectedSettings):
    """Hide outliers from the attention of other tokens. No training, no new weights.

    Example: vitreg fix mask-keys timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    queries: Literal["patches", "all"] = "patches"
    """Hide them from the other patches, or from every token."""


@dataclass(frozen=True, kw_only=True)
class PrefixSettings(MethodSettings):
    """Cache the keys and values of a few outliers for every image, and delete the image's own. No training.

    Example: vitreg fix prefix timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    tokens: int | None = None
    """How many tokens are cached; if unset, the fewest of 1, 2, 4 and 8 that are as good as any."""
    candidates: int = 8
    """The most extreme tokens of so many images are the candidates."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(1, tokens=self.tokens, candidates=self.candidates)
        if self.tokens is not None and self.tokens > self.candidates:
            raise UserError(
                f"--tokens {self.tokens} are more than the {self.candidates} candidates; raise --candidates."
            )


@dataclass(frozen=True, kw_only=True)
class BorderSettings(MethodSettings):
    """A border of empty patches as registers, and attention trained to use it. Changes weights.

    Fitted on up to 5000 images. Adds 2 * (rows + columns) + 4 tokens to a grid of rows x columns.

    Example: vitreg fix border timm:vit_small_patch14_dinov2.lvd142m photos/ --limit 5000 --out fixed
    """

    rank: int = 8
    """Rank of the additions to the projections of attention."""
    epochs: int = 2
    """Passes over the images fitted on."""
    images_at_once: int = 8
    """Images of one step."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(1, rank=self.rank, epochs=self.epochs, images_at_once=self.images_at_once)


@dataclass(frozen=True, kw_only=True)
class DistillSettings(MethodSettings):
    """Train the model, with new registers, to give what it gives on average over shifted views. Changes weights.

    The same training without registers is reported beside it.

    Example: vitreg fix distill timm:vit_base_patch16_224 photos/ --out fixed
    """

    registers: int = 16
    """Register tokens added, directly before the patches."""
    epochs: int = 10
    """Passes over the images fitted on, at most 5000."""
    shifts: int = 10
    """Views of an image that the teacher averages, see denoise."""
    lr: float = 1e-4
    """Learning rate of the first epoch."""
    last_lr: float = 5e-6
    """Learning rate of the last."""
    images_at_once: int = 8
    """Images of one step."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(0, registers=self.registers)
        _at_least(1, epochs=self.epochs, images_at_once=self.images_at_once)
        _at_least(2, shifts=self.shifts)
        if not 0 < self.last_lr <= self.lr:
            raise UserError(f"--last-lr must be above 0 and at most --lr {self.lr:g}, not {self.last_lr:g}.")


@dataclass(frozen=True, kw_only=True)
class PositionRowsSettings(MethodSettings):
    """Replace rows of the position table that stand out by the interpolation of their neighbours. Changes weights.

    For outliers that sit at the same places in every image. Costs nothing when the model runs.

    Example: vitreg fix position-rows timm:vit_base_patch16_siglip_224 photos/ --out fixed
    """

    mads: float = 6.0
    """A row stands out where its norm, and its distance from its neighbours, lie this many deviations (1.4826 times the
    median absolute deviation) above the median."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(0, mads=self.mads)


@dataclass(frozen=True, kw_only=True)
class DenoiseSettings(MethodSettings):
    """Average the output over shifted views of the image, or subtract the part of it that depends on the place alone.

    For outliers that sit at the same places in every image. Shifted views cost a forward each and need no fitting; the
    position part needs 100 images and costs nothing.

    Example: vitreg fix denoise timm:vit_base_patch16_224 photos/ --out fixed
    """

    shifts: int = 10
    """How many views are averaged, the image itself among them; shifts are whole patches, at most 15 % of the grid."""
    center: Literal["mean", "median"] = "median"
    """What is taken of the views that show a patch, channel by channel: their median, or, as published, their mean."""
    position_part: bool = False
    """Average no views; subtract the mean map over images, minus its median over the grid, after the last block."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(2, shifts=self.shifts)


@dataclass(frozen=True, kw_only=True)
class SingularSettings(MethodSettings):
    """Train the singular values of the weights that write the outliers; the rest of the model stays as it is.

    Example: vitreg fix singular timm:vit_small_patch14_dinov2.lvd142m photos/ --out fixed
    """

    steps: int = 200
    """Most training steps; training ends earlier once the outliers of three quarters of the images are ordinary."""
    rate: float = 0.005
    """Learning rate (SGD with momentum 0.9)."""
    images_at_once: int = 4
    """Images in a step."""
    blocks: int = 10
    """How many blocks are trained, up to the one where outliers appear."""
    direction: Literal["predicted", "measured"] = "predicted"
    """Where outliers point: predicted from the weights, or measured on the images."""
    deviation: Literal["measured", "weights"] = "measured"
    """For the prediction, the deviation of tokens: measured on the images, or 1, from weights alone."""
    max_damage: float = 0.01
    """Stop once the class token has changed by this much (1 - cosine, mean over images)."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(1, steps=self.steps, images_at_once=self.images_at_once, blocks=self.blocks)
        _at_least(0, max_damage=self.max_damage)
        if not self.rate > 0:
            raise UserError(f"--rate must be above 0, not {self.rate:g}.")


@dataclass(frozen=True, kw_only=True)
class AutoSettings(MethodSettings):
    """Try the repairs that the outliers make plausible, and keep the one that leaves the fewest within a limit of damage.

    Position-locked outliers: position-rows, substitute. Others: test-time, attention-bias, substitute, on the low side also by
    the local outlier factor. It says what it did not try, and why. If none helps within the limit, it says why
    of each and writes nothing; the exit code is 3.

    Example: vitreg fix auto timm:vit_small_patch14_dinov2.lvd142m photos/ --max-damage 0.5
    """

    max_damage: float = 0.5
    """Percent of the images whose class may change; without a classifier, 100 (1 - cosine) of the class token."""
    train: bool = False
    """Also try repairs that train, which takes far longer: singular, and border where outliers follow the image."""

    def check(self) -> None:
        """Raise UserError for settings out of range."""
        _at_least(0, max_damage=self.max_damage)


def names() -> list[str]:
    """Return the names of all repairs, ours first."""
    plugins.refuse_taken("repair", (*METHODS, *CHOOSES))
    return plugins.names("repair", METHODS)


def settings_of(name: str) -> type[MethodSettings]:
    """Return the settings of a repair. Raises UserError for one that does not exist."""
    if name in (*METHODS, *CHOOSES):
        return globals()[f"{name.title().replace('-', '')}Settings"]
    return plugins.find("repair", name, METHODS).settings
