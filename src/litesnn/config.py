"""Recipes: every setting of a design, typed, validated and frozen.

A recipe is a TOML file. What it leaves out takes the default given here, unknown keys are errors, and the descriptions
below are what ``litesnn recipes NAME`` prints. The run folder keeps the whole recipe as ``recipe.toml``.
"""

from __future__ import annotations

import shlex
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from litesnn.budget import Budget
from litesnn.data.augment import AugmentSettings
from litesnn.data.sources import DataSettings, FrontEnds
from litesnn.errors import InputError
from litesnn.front_end import EventFrames, LogMel
from litesnn.genotype import BIT_WIDTHS, MOST_CELLS, MOST_CHANNELS, ArithmeticName, check_op
from litesnn.neurons import DEFAULT, MOST_LEVELS, check_neuron, check_spike_levels, described_neurons
from litesnn.quantizers import MIDRISE, QUANTIZERS, quantizer_named
from litesnn.quantizers.quantizer import straight_through
from litesnn.strategies import STRATEGIES, strategy_named
from litesnn.text import first_complaint, short

__all__ = [
    "AUTO",
    "ORIGINAL",
    "MadeFor",
    "ModelSettings",
    "ModuleSettings",
    "Recipe",
    "SearchSettings",
    "TeacherSettings",
    "TrainSettings",
    "describe_settings",
    "load_recipe",
    "reasons_in",
    "shipped_recipes",
    "with_numbers",
]

RECIPE_VERSION: Literal[1] = 1

AUTO, ORIGINAL = "auto", "original"
"""What ``train.teacher`` may name besides files: a network that is trained first, and the module that is compressed."""

_T = TypeVar("_T")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(_Settings):
    """The macro path and the candidate operations."""

    width: int = Field(16, ge=1, le=MOST_CHANNELS, description="channels per node at level 0; each level doubles them")
    nodes: int = Field(2, ge=1, le=8, description="nodes of a cell")
    levels: tuple[int, ...] = Field(
        (0, 0, 1, 1, 1, 2, 2, 2),
        min_length=1,
        max_length=MOST_CELLS,
        description="level of each cell; each level halves height and width",
    )
    stem_channels: int = Field(32, ge=1, le=MOST_CHANNELS, description="output channels of the stem")
    stem_stride: Literal[1, 2, 4] = Field(1, description="stride of the stem")
    ops: tuple[str, ...] = Field(("skip", "conv3x3"), min_length=1, description="candidate operations of an edge")
    edges_per_node: int = Field(2, ge=1, description="incoming edges that each node of the derived cell keeps")
    spatial_edges: int = Field(
        1, ge=0, description="least edges of a derived cell with a filter larger than 1x1, if the candidates have one"
    )
    io_bits: int = Field(4, ge=1, le=4, description="weight bits of stem and classifier, which are not pruned")
    arithmetic: ArithmeticName = Field(
        "float", description="deployed arithmetic. float: float32, leak 0.2; fixed: integers alone, leak 0.25"
    )
    quantizer: str = Field(
        MIDRISE.name,
        description="how weights become codes. "
        + "; ".join(f"{row.name}: {row.description}" for row in QUANTIZERS.values()),
    )
    neuron: str = Field(DEFAULT, description=f"neuron. {described_neurons()}")
    spike_levels: int = Field(
        1,
        ge=1,
        le=MOST_LEVELS,
        description=(
            "largest spike D: with 1 neurons emit 0 or 1, with more an integer 0…D (graded spikes), the number of "
            "thresholds 0.5, 1.5, … that the membrane is above; SynOps count a spike for each of its bits that is set"
        ),
    )

    @property
    def kinds(self) -> dict[str, Any]:
        """The fields of a genotype that say how all of its layers and neurons compute."""
        return self.model_dump(include={"arithmetic", "quantizer", "neuron", "spike_levels"})

    @field_validator("ops")
    @classmethod
    def _known_ops(cls, ops: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct(tuple(check_op(op) for op in ops))

    @field_validator("quantizer")
    @classmethod
    def _known_quantizer(cls, name: str) -> str:
        return quantizer_named(name).name

    @field_validator("levels")
    @classmethod
    def _rising_levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(level < 0 or level > 6 for level in levels) or list(levels) != sorted(levels):
            raise ValueError("levels must lie in 0…6 and not decrease")
        return levels

    @field_validator("neuron")
    @classmethod
    def _known_neuron(cls, neuron: str, known: ValidationInfo) -> str:
        return check_neuron(neuron, known.data.get("arithmetic", "float"))

    @field_validator("spike_levels")
    @classmethod
    def _possible_levels(cls, levels: int, known: ValidationInfo) -> int:
        return check_spike_levels(levels, known.data.get("neuron", DEFAULT))


class SearchSettings(_Settings):
    """The joint search over weights, operations, bit-widths, keep ratios, widths and timesteps."""

    mode: Literal["budget", "paper"] = Field(
        "budget", description="budget: limits as constraints; paper: fixed cost weights, keep ratio given"
    )
    update: str = Field(
        "alternating",
        description="; ".join(f"{strategy.name}: {strategy.meaning}" for strategy in STRATEGIES.values()),
    )
    epochs: int = Field(50, ge=1, description="epochs of the search")
    epoch_steps: int | None = Field(
        None, ge=1, description="steps after which an epoch ends early, for large data; left out: at the last batch"
    )
    warmup_epochs: int = Field(5, ge=0, description="epochs in which the timestep weights stay uniform")
    architecture_warmup_epochs: int = Field(
        0, ge=0, description="epochs in which α, β and widths stay as they are while weights and scores learn"
    )
    batch_size: int = Field(120, ge=2, description="images per step")
    timesteps: int = Field(6, ge=1, le=64, description="most timesteps considered; a budget may lower it")
    fixed_timesteps: bool = Field(False, description="do not search T: always the most timesteps considered")
    bits: tuple[int, ...] = Field((1, 2, 4), min_length=1, description="candidate weight bits of a cell")
    keeps: tuple[float, ...] = Field((0.2,), min_length=1, max_length=16, description="candidate keep ratios of a cell")
    widths: tuple[float, ...] = Field(
        (1.0,), min_length=1, max_length=16, description="candidate widths of a cell, as fractions"
    )
    sampling: bool = Field(
        False, description="draw one bit-width, keep ratio and width per cell and step instead of mixing them"
    )
    lr: float = Field(0.025, gt=0, description="first learning rate of the weights (SGD, cosine)")
    lr_min: float = Field(0.001, ge=0, description="last learning rate of the weights")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the weights")
    weight_decay: float = Field(3e-4, ge=0, description="weight decay of the weights")
    grad_clip: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    alpha_lr: float = Field(1e-3, gt=0, description="learning rate of α (Adam)")
    beta_lr: float = Field(1e-2, gt=0, description="learning rate of β and widths (Adam)")
    score_lr: float = Field(1e-2, gt=0, description="learning rate of the pruning scores (Adam)")
    psi_lr: float = Field(0.025, gt=0, description="learning rate of ψ (SGD)")
    architecture_weight_decay: float = Field(1e-3, ge=0, description="weight decay of all of these but ψ")
    size_weight: float = Field(5e-10, ge=0, description="paper mode: cost weight per bit of model size")
    synops_weight: float = Field(5e-14, ge=0, description="paper mode: cost weight per Bit-SynOp")
    penalty: float = Field(1.0, gt=0, description="budget mode: weight of the squared violation (log-ratio)")
    dual_lr: float = Field(0.05, gt=0, description="budget mode: step of the multipliers")
    fill: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="budget mode: least share of the packed-size limit that the derived network may need, if the "
        "candidates and the limit on Bit-SynOps allow; 0: as small as the search likes it",
    )

    @field_validator("update")
    @classmethod
    def _known_strategy(cls, update: str) -> str:
        return strategy_named(update).name

    @field_validator("bits")
    @classmethod
    def _known_bits(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        if set(bits) - set(BIT_WIDTHS):
            raise ValueError(f"bits must be among {BIT_WIDTHS}")
        return _distinct(bits)

    @field_validator("keeps", "widths")
    @classmethod
    def _fractions(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < value <= 1 for value in values):
            raise ValueError("every value must lie in (0, 1]")
        return _distinct(values)

    @model_validator(mode="after")
    def _paper_mode(self) -> Self:
        if self.mode == "paper" and (len(self.keeps) > 1 or len(self.widths) > 1 or self.sampling):
            raise ValueError("mode 'paper' takes one keep ratio and one width, and mixes bit-widths")
        return self


class TrainSettings(_Settings):
    """Training of the derived network from scratch."""

    epochs: int = Field(200, ge=1, description="epochs of training")
    epoch_steps: int | None = Field(
        None, ge=1, description="steps after which an epoch ends early, for large data; left out: at the last batch"
    )
    batch_size: int = Field(50, ge=2, description="images per step")
    lr: float = Field(0.025, gt=0, description="first learning rate of the weights (SGD, cosine)")
    lr_min: float = Field(0.001, ge=0, description="last learning rate of the weights")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the weights")
    weight_decay: float = Field(3e-4, ge=0, description="weight decay of the weights")
    nesterov: bool = Field(False, description="Nesterov's momentum instead of the plain one")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which the learning rate rises from 0")
    schedule: Literal["cosine", "one-cycle"] = Field(
        "cosine", description="how the learning rate falls after the warm-up. cosine: half a cosine; one-cycle: a line"
    )
    bias_lr: float = Field(
        1.0,
        gt=0,
        description="learning rate of biases and of the offsets of norms, in multiples of that of the weights; decay "
        "takes as much of them in a step as at 1",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="how far an average of the weights reaches back, which is then validated, kept and deployed: the "
        "share of the training after which a step counts 1/e of the last one; 0: no average",
    )
    statistics_batches: int = Field(
        16,
        ge=1,
        description="training batches from which batch statistics are made anew before a validation, of averaged "
        "weights (ema) and after epochs of fewer timesteps or small images",
    )
    short_epochs: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the epochs, the first ones, that train with short_timesteps; validation has all",
    )
    short_timesteps: int = Field(1, ge=1, le=63, description="timesteps of those epochs, if the network has more")
    small_images: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the epochs, the first ones, that train with images of half the height and width",
    )
    init: Literal["normal", "identity"] = Field(
        "normal",
        description="first weights of the cells' convolutions. normal: drawn (Kaiming); identity: where the filter is "
        "larger than 1x1, output channels hand on the input channel of their number, with small noise",
    )
    init_stem: Literal["normal", "whitening"] = Field(
        "normal",
        description="first weights of the stem. normal: drawn (Kaiming); whitening: the principal components of the "
        "training images' patches, each and its negative, the largest first",
    )
    freeze_stem: float = Field(
        0.0, ge=0, lt=1, description="share of the epochs, the first ones, in which a whitening stem keeps its filters"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each target that is spread evenly over all classes"
    )
    grad_clip: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    score_lr: float = Field(1e-2, gt=0, description="first learning rate of the pruning scores (Adam, cosine)")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the auxiliary head; it needs at least 3 cells")
    penalty: float = Field(
        1.0, gt=0, description="weight of the squared violation of a limit on work or of firing_rate (log-ratio)"
    )
    dual_lr: float = Field(0.05, gt=0, description="step of its multiplier")
    loss: Literal["last", "tet"] = Field(
        "last",
        description="loss over time. last: cross entropy of the mean logits of all timesteps; tet: mean of the cross "
        "entropies of each timestep's own logits (TET, ICLR 2022)",
    )
    self_distillation: float = Field(
        0.0,
        ge=0,
        description="weight of the divergence of each timestep's logits from the mean of all, 0: none; "
        "0.5 in arXiv 2501.15925",
    )
    teacher: str | None = Field(
        None,
        min_length=1,
        description="another network whose logits are learned too. auto: a small one with ReLU, trained first as "
        "[teacher] says; original: the module that litesnn compress was given; or a run folder, a network.safetensors, "
        "or FILE.py:Class",
    )
    teacher_weight: float = Field(
        0.2, gt=0, description="weight of the divergence of each timestep's logits from the teacher's"
    )
    temperature: float = Field(3.0, gt=0, description="temperature of both divergences")
    firing_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="target for the share of all neurons that fire in a timestep of the deployed network, 0.1 for "
        "example; networks beyond it come after those within; left out: as often as it likes",
    )
    surrogate_sharpness: float = Field(
        3.0,
        gt=0,
        le=10,
        description="b of the surrogate slope b / (2·tanh(b/2)) · (1 - tanh²(b·(u - 1/2))) for membranes 0 < u < 1: "
        "the larger, the more of the gradient gets to neurons near their threshold; near 0 all get as much",
    )
    binary_optimizer: Literal["sgd", "bso", "t-bso"] = Field(
        "sgd",
        description="of layers with 1-bit weights. sgd: as of all others; bso: the sign of a weight flips where the "
        "running mean of its gradients asks for it by more than binary_threshold; t-bso: by more than that times the "
        "root mean square of its layer's gradients",
    )
    binary_threshold: float = Field(5e-7, ge=0, description="bso, t-bso: γ, the threshold of a flip")
    binary_momentum: float = Field(0.999, ge=0, lt=1, description="bso, t-bso: β₁, of the running mean of gradients")
    binary_scale_momentum: float = Field(
        0.99999, ge=0, lt=1, description="t-bso: β₂, of the running mean of their squares"
    )

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    @model_validator(mode="after")
    def _shares_have_a_meaning(self) -> Self:
        if self.short_timesteps != 1 and self.short_epochs == 0:
            raise ValueError("short_timesteps needs short_epochs above 0")
        if self.freeze_stem > 0 and self.init_stem == "normal":
            raise ValueError("freeze_stem needs init_stem 'whitening'")
        return self


class ModuleSettings(_Settings):
    """A module that was given, to ``litesnn compress`` or as a teacher."""

    file: str = Field(description="the Python file, which is run")
    name: str = Field(description="the class in it, which is made without arguments")
    sha256: str = Field(description="of the file when the run began")
    helpers: dict[str, str] = Field(
        {}, description="SHA-256, when the run began, of each file beside it that it imports, by its name from there on"
    )
    weights: str | None = Field(None, description="safetensors file of the weights to start from")
    weights_sha256: str | None = Field(None, description="of that file when the run began")

    def words(self, role: Literal["", "teacher"]) -> list[str]:
        """The options of the command line that name this module, as what is compressed or as a teacher."""
        words = [f"--{role or 'model'}", f"{self.file}:{self.name}"]
        return words if self.weights is None else [*words, f"--{f'{role}-' if role else ''}weights", self.weights]


class TeacherSettings(_Settings):
    """The network that ``train.teacher = "auto"`` trains first, and what pins any other teacher."""

    width: int = Field(32, ge=1, le=1024, description="auto: channels of the first level; the next have 2 and 4 times")
    blocks: int = Field(1, ge=1, le=32, description="auto: residual blocks of each level, of two convolutions each")
    epochs: int = Field(20, ge=1, description="auto: epochs of its training")
    epoch_steps: int | None = Field(
        None, ge=1, description="auto: steps after which an epoch ends early; left out: at the last batch"
    )
    batch_size: int = Field(128, ge=2, description="auto: images per step")
    lr: float = Field(0.1, gt=0, description="auto: largest learning rate (SGD, Nesterov, cosine to 0)")
    momentum: float = Field(0.9, gt=0, lt=1, description="auto: momentum")
    weight_decay: float = Field(5e-4, ge=0, description="auto: weight decay of convolutions and classifier")
    warmup: float = Field(0.1, ge=0, lt=1, description="auto: share of the steps in which the rate rises from 0")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="auto: share of each target that is spread evenly over all classes"
    )
    sha256: str | None = Field(None, description="of the network.safetensors of train.teacher when the run began")
    module: ModuleSettings | None = Field(None, description="the class that train.teacher names, and its weights")


class MadeFor(_Settings):
    """The request behind a recipe that was made from the data, the budget and the time (:mod:`litesnn.planning`)."""

    seconds: float = Field(gt=0, description="time that the whole design is to take; training gets what is left of it")
    spent: float = Field(0.0, ge=0, description="seconds that it took to read the data and to make the recipe")
    search: float = Field(0.0, ge=0, description="seconds that the search may take before it leaves out epochs; 0: any")
    training: float = Field(0.0, ge=0, description="seconds that were left for training; 0: no bound, or not known yet")
    epochs_follow: bool = Field(True, description="whether train.epochs are set anew when the network is known")
    most_epochs: int = Field(
        0,
        ge=0,
        description="epochs of training that are of use, if steps are faster than planned; 0: train.epochs",
    )


class Recipe(_Settings):
    """Everything that a design depends on, but for the data itself."""

    version: Literal[1] = Field(RECIPE_VERSION, description="version of the recipe's format")
    name: str = Field("custom", description="name of the recipe")
    description: str = Field("", description="what it is for, the published setting it follows, and where it differs")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of weights, batches and augmentation")
    budget: Budget = Field(Budget(), description="limits on the finished network")
    data: DataSettings = DataSettings()
    audio: LogMel = LogMel()
    events: EventFrames = EventFrames()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    module: ModuleSettings | None = Field(None, description="a user's module to compress, in place of [model]")
    search: SearchSettings = SearchSettings()
    train: TrainSettings = TrainSettings()
    teacher: TeacherSettings = TeacherSettings()
    made: MadeFor | None = Field(None, description="what the recipe was made for, if nobody wrote it")

    def __repr__(self) -> str:
        made = "" if self.made is None else ", made"
        return f"Recipe({self.name!r}, {self.data.source!r}, {self.budget.describe()}, seed {self.seed}{made})"

    __str__ = __repr__

    def command(self) -> str:
        """``litesnn design`` or ``litesnn compress``, with the options that let the recipe's files be run."""
        words = ["litesnn", "design"] if self.module is None else ["litesnn", "compress", *self.module.words("")]
        return shlex.join(words if self.teacher.module is None else [*words, *self.teacher.module.words("teacher")])

    @property
    def timesteps(self) -> int:
        """Most timesteps that the search considers within the budget: so many frames of events are read."""
        return min(self.search.timesteps, self.budget.timesteps or self.search.timesteps)

    @property
    def front_ends(self) -> FrontEnds:
        """The front ends that recordings go through."""
        return FrontEnds(self.audio, self.events, self.timesteps)

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values at dotted keys. Epochs that a person says are not set anew by a made recipe.

        Raises:
            InputError: as :meth:`from_toml`.
        """
        values = tomllib.loads(self.to_toml())
        wished = Recipe._from_values(values, "settings", changes)
        if wished.made is not None and any(
            getattr(wished.train, key) != getattr(self.train, key) for key in ("epochs", "epoch_steps")
        ):
            made = wished.made.model_copy(update={"epochs_follow": False, "training": 0.0})
            wished = wished.model_copy(update={"made": made})
        return wished

    def to_toml(self, reasons: Mapping[str, str] | None = None) -> str:
        """The whole recipe as TOML text, defaults included; ``None`` is an absent key.

        ``reasons`` become comments, each above its dotted key.
        """
        lines, section = [], ""
        for line in tomli_w.dumps(self.model_dump(exclude_none=True)).splitlines():
            if line.startswith("["):
                section = line.strip("[]") + "."
            key = section + line.partition(" = ")[0]
            if reasons and key in reasons:
                lines += _comment(reasons[key])
            lines.append(line)
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, *, origin: str = "recipe", changes: Mapping[str, Any] | None = None) -> Recipe:
        """Read a recipe; ``changes`` maps dotted keys such as ``search.epochs`` to other values.

        Raises:
            InputError: not TOML, an unknown key, or a value out of its range; the message names the key.
        """
        try:
            values = tomllib.loads(text)
        except RecursionError:
            raise InputError(f"{origin}: not valid TOML: nested too deep") from None
        except ValueError as error:  # TOMLDecodeError, and what Python says of integers of thousands of digits
            raise InputError(f"{origin}: not valid TOML: {error}") from None
        return cls._from_values(values, origin, changes or {})

    @classmethod
    def _from_values(cls, values: dict[str, Any], origin: str, changes: Mapping[str, Any]) -> Recipe:
        for key, value in changes.items():
            try:
                _set(values, key, value)
            except KeyError:
                raise InputError(f"{origin}: unknown key {key!r}{_did_you_mean(key)}") from None
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            key, first = first_complaint(error, "recipe")
            if first["type"] == "extra_forbidden":
                raise InputError(f"{origin}: unknown key {short(key)}{_did_you_mean(key)}") from None
            raise InputError(f"{origin}: {key}: {first['msg']}, not {short(first['input'])}") from None
        if recipe.train.teacher == ORIGINAL and (recipe.module is None or recipe.module.weights is None):
            raise InputError(
                f"{origin}: train.teacher is {ORIGINAL!r}, the module of litesnn compress with its weights; expected "
                "--model and --weights too, or another teacher"
            )
        quantizer, io_bits = QUANTIZERS[recipe.model.quantizer], recipe.model.io_bits
        wanted = [("search.bits", bits) for bits in recipe.search.bits]
        wanted += [("model.io_bits", io_bits)] if quantizer.at_both_ends else []
        for key, bits in wanted:
            try:
                quantizer.require(bits)
            except ValueError as error:
                raise InputError(f"{origin}: {key}: {error}") from None
        if recipe.train.binary_optimizer != "sgd" and quantizer.rule is not straight_through:
            raise InputError(
                f"{origin}: train.binary_optimizer: {recipe.train.binary_optimizer!r} needs a quantizer whose gradient "
                f"goes straight through, and that of {quantizer.name!r} does not"
            )
        return recipe


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("litesnn") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A shipped recipe by name, or a TOML file by path, with dotted keys changed.

    Raises:
        InputError: no such recipe, or it is not valid.
    """
    if str(name) in shipped_recipes():
        text = (resources.files("litesnn") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"no recipe {str(name)!r}: expected a TOML file or one of {', '.join(shipped_recipes())}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
    return Recipe.from_toml(text, origin=f"recipe {name}", changes=changes)


def parse_change(text: str) -> tuple[str, Any]:
    """``"search.epochs=3"`` as a key and a TOML value; what is no TOML value is taken as a string.

    Raises:
        InputError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"setting {text!r} is not understood; expected key=value, for example search.epochs=3")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def describe_settings(recipe: Recipe) -> Iterable[tuple[str, Any, str]]:
    """Every setting of a recipe as (dotted key, value, description)."""
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        if isinstance(value, BaseModel):
            for inner, inner_field in type(value).model_fields.items():
                yield f"{name}.{inner}", getattr(value, inner), inner_field.description or ""
        else:
            yield name, value, field.description or ""


def reasons_in(text: str) -> dict[str, str]:
    """The reasons that the TOML text of a recipe gives for values, by dotted key: :meth:`Recipe.to_toml` takes them."""
    reasons: dict[str, str] = {}
    section, said = "", list[str]()
    for line in text.splitlines():
        if line.startswith("#"):
            said.append(line.removeprefix("#").strip())
            continue
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif said and " = " in line:
            reasons[section + line.partition(" = ")[0]] = " ".join(said)
        said = []
    return reasons


def with_numbers(text: str, values: Mapping[str, float], reasons: Mapping[str, str]) -> str:
    """A recipe's TOML text with other numbers at dotted keys that it has, and other reasons above them."""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        key = section + line.partition(" = ")[0]
        if key in values:
            if key in reasons:
                while lines and lines[-1].startswith("#"):
                    lines.pop()
                lines += _comment(reasons[key])
            line = f"{line.partition(' = ')[0]} = {values[key]}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _comment(reason: str) -> list[str]:
    return [f"# {part}" for part in textwrap.wrap(reason, 116)]


def _did_you_mean(key: str) -> str:
    """A question that names the known keys like a mistyped one, or nothing if there are none.

    A key without its section is like those of every section: ``epochs`` is both ``search.epochs`` and ``train.epochs``.
    """
    known = list(_keys(Recipe))
    found = [name for name in known if name.endswith(f".{key}")] or get_close_matches(key, known, n=2, cutoff=0.75)
    if not found:
        section, _, last = key.rpartition(".")
        inside = [name for name in known if not section or name.startswith(f"{section}.")]
        near = get_close_matches(last, {name.rpartition(".")[2] for name in inside}, n=1, cutoff=0.7)
        found = [name for name in inside if name.rpartition(".")[2] in near]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a model's settings and sections."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _keys(inner, f"{prefix}{name}.")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value at a dotted key. Raises ``KeyError`` if it goes through a value that is no section."""
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise KeyError(key)
    if value is None:
        values.pop(last, None)
    else:
        values[last] = value


def _distinct(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("values must not repeat")
    return values
