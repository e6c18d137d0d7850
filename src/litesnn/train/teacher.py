"""Teachers: networks whose logits a spiking network learns besides the labels; and the stage that trains one of ours.

The stage, which is there where ``train.teacher`` is "auto". In: the training split, augmented as the spiking network's.
Out: ``teacher.safetensors``, a :class:`~litesnn.train.residual.ResidualNetwork`, and ``teacher.jsonl`` (one row per
epoch). SGD with Nesterov's momentum on the cross entropy; after a warm-up the learning rate is half a cosine to 0, and
the last network is kept. Batches depend on seed and epoch alone, as those of ``train``. Of several processes the first
does this by itself.

A teacher reads the very batch that the spiking network reads, in every step: no logits can be kept, since each epoch
augments images anew. It computes without gradients and in evaluation mode.

Shapes: B batch, T timesteps or frames, C channels, H × W pixels, K classes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from litesnn.config import AUTO, Recipe
from litesnn.data.batches import Samples, generator_for, mirrored_rows, shuffled_batches, steps_per_epoch
from litesnn.data.bounds import require_file
from litesnn.errors import InputError
from litesnn.files import JsonLog, validated
from litesnn.network_file import input_fields, input_from, load_network
from litesnn.runs import RunFolder
from litesnn.snn.network import InputInfo, Network
from litesnn.stages import STAGES
from litesnn.text import shape_text
from litesnn.train.residual import ResidualNetwork, time_bins
from litesnn.training_loop.checkpoint import (
    kind_of,
    load_into,
    load_state,
    load_tensors,
    require_numbers,
    save_state,
    save_tensors,
)
from litesnn.training_loop.context import StageContext
from litesnn.training_loop.divergence import require_converging
from litesnn.training_loop.memory import reuse_buffers
from litesnn.training_loop.progress import Epoch, EpochLog, RunningMeans, progress_bar
from litesnn.training_loop.session import cosine_lr

__all__ = [
    "Teacher",
    "TeacherLoop",
    "build_residual",
    "digest_of",
    "load_residual",
    "network_file_of",
    "network_teacher",
    "require_fit",
    "teacher_record",
    "train_teacher",
    "validate_plainly",
]

_KIND = "teacher"
_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Teacher:
    """A network that teaches.

    Attributes:
        logits: of a batch as a training step has it, floats [B, C, H, W] or frames [B, T, C, H, W], the logits [B, K].
        sha256: of the file that its weights are from.
    """

    logits: _Logits
    sha256: str | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor, parts: int = 1) -> Tensor:
        """Logits [B, K] of a batch, computed in so many parts one after the other."""
        if parts == 1:
            return self.logits(x)
        return torch.cat([self.logits(part) for part in x.tensor_split(min(parts, len(x)))])


class _Logits(Protocol):
    def __call__(self, x: Tensor, /) -> Tensor: ...


# --- the network of ours ---


def build_residual(recipe: Recipe, info: InputInfo) -> ResidualNetwork:
    """The network that ``[teacher]`` describes, with weights drawn from the seed."""
    settings = recipe.teacher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(recipe.seed, _KIND).initial_seed())
        bins = time_bins(info, recipe.timesteps)
        return ResidualNetwork(info, bins=bins, width=settings.width, blocks=settings.blocks)


class TeacherLoop:
    """A training of the network between two steps, and the step."""

    def __init__(self, network: ResidualNetwork, recipe: Recipe) -> None:
        self.network, self.settings = network, recipe.teacher
        settings = self.settings
        groups: list[dict[str, Any]] = [
            {"params": [each for each in network.parameters() if each.dim() > 1]},
            {"params": [each for each in network.parameters() if each.dim() <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=True,
            fused=True,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, x: Tensor, y: Tensor, progress: float) -> Mapping[str, Tensor]:
        """One step on x [B, C, H, W] or [B, T, C, H, W] and y [B], after the fraction ``progress`` of all steps."""
        settings = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_lr(settings.lr, 0.0, progress, warmup=settings.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.network(x)
        loss = F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return {"train_loss": loss, "train_accuracy": (logits.argmax(1) == y).float().mean()}


def train_teacher(context: StageContext) -> Path:
    """Train the teacher, from the last checkpoint if there is one. Returns the path of ``teacher.safetensors``.

    Raises:
        InputError: the recipe asks for none, a checkpoint is damaged, a file cannot be written, or training diverges.
    """
    run, recipe, data, session, info = context.run, context.recipe, context.data, context.session, context.info
    settings = recipe.teacher
    if recipe.train.teacher != AUTO:
        found = "no teacher" if recipe.train.teacher is None else f"the teacher {recipe.train.teacher}"
        raise InputError(f"{run.path}: its training has {found}; one is trained where train.teacher is {AUTO!r}")
    train = session.samples(data.train, info, recipe.augment)
    validation = session.samples(data.validation, info)
    network = build_residual(recipe, info).to(session.device)
    loop = TeacherLoop(network, recipe)
    optimizers = {"weights": loop.optimizer}
    checkpoint, done = run.checkpoint("teacher"), 0
    if checkpoint.exists():
        done = validated(_SavedState, load_state(checkpoint, "teacher state", network, optimizers), checkpoint).epoch
    if session.device.type == "cpu":
        reuse_buffers()
    run.start("teacher")  # nothing is refused any more
    if done:
        session.show(f"[dim]teacher: goes on with epoch {done + 1} of {settings.epochs}[/]")
    log = EpochLog(run, "teacher", done_epochs=done, tensorboard=session.tensorboard)
    steps = steps_per_epoch(train, settings.batch_size, settings.epoch_steps)
    with progress_bar(session.console) as bar:
        task = bar.add_task("teacher", total=settings.epochs * steps, completed=done * steps, status="")
        for epoch in range(done, settings.epochs):
            started, means = time.perf_counter(), RunningMeans()
            network.train()
            order = generator_for(recipe.seed, "teacher", epoch)
            mirrored = mirrored_rows(recipe.augment, train, recipe.seed, epoch)
            batches = shuffled_batches(train, settings.batch_size, order, recipe.augment, most=steps, mirrored=mirrored)
            for step, (x, y) in enumerate(batches):
                means.add(loop.step(x, y, (epoch + step / steps) / settings.epochs))
                bar.advance(task)
            row: dict[str, Any] = {"epoch": epoch + 1} | means.means() | validate_plainly(network, validation)
            require_converging(run, recipe, "teacher", row, network.parameters())
            row |= {"seconds": round(time.perf_counter() - started, 3), "learning_rate": loop.lr}
            row["options"] = session.options()
            log.write(row)
            accuracy = f"validation accuracy {row['validation_accuracy']:.1%}"
            bar.update(task, status=f"epoch {epoch + 1} of {settings.epochs}, {accuracy}")
            save_state(checkpoint, "teacher state", network, optimizers, {"epoch": epoch + 1})
            session.tell(Epoch("teacher", epoch + 1, settings.epochs, row))
    log.close()
    said = {"bins": network.bins, "width": settings.width, "blocks": settings.blocks} | input_fields(info)
    save_tensors(run.output("teacher"), _KIND, network.state_dict(), said)
    checkpoint.unlink(missing_ok=True)
    run.diverged("teacher").unlink(missing_ok=True)
    return run.output("teacher")


class _SavedState(BaseModel):
    """The metadata of a checkpoint."""

    epoch: int = Field(ge=1, le=2**31)


class _Saved(BaseModel):
    """The metadata of ``teacher.safetensors``, but for its input."""

    model_config = ConfigDict(extra="ignore")

    bins: int = Field(ge=1, le=64)
    width: int = Field(ge=1, le=1024)
    blocks: int = Field(ge=1, le=32)


@torch.no_grad()
def validate_plainly(network: torch.nn.Module, rows: Samples) -> dict[str, float]:
    """Loss and accuracy on a split of a network that gives one set of logits [B, K]."""
    network.eval()
    loss, correct = 0.0, 0
    for x, y in rows.batches(_EVALUATION_BATCH):
        logits = network(x)
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
        correct += int((logits.argmax(1) == y).sum())
    return {"validation_loss": loss / len(rows), "validation_accuracy": correct / len(rows)}


def load_residual(path: Path, info: InputInfo, device: torch.device) -> Teacher:
    """The teacher of a ``teacher.safetensors``.

    Raises:
        InputError: the file is missing or damaged, or its network was trained on other inputs or classes.
    """
    digest = digest_of(path)
    tensors, saved = load_tensors(path, _KIND)
    require_numbers(tensors, path)
    require_fit(input_from(saved, path), info, str(path))
    fields = validated(_Saved, saved, path)
    least = 9 * fields.width**2 * 16 * (2 * fields.blocks - 1)  # a few bytes must not ask for gigabytes
    if least > sum(tensor.numel() for tensor in tensors.values()):
        raise InputError(f"{path} does not fit the network: it holds less than {least:,} weights")
    network = ResidualNetwork(info, bins=fields.bins, width=fields.width, blocks=fields.blocks)
    load_into(network, tensors, path)
    return Teacher(network.to(device).eval().requires_grad_(requires_grad=False), digest)


# --- spiking networks of other runs ---


def digest_of(path: Path) -> str:
    """The SHA-256 of a file. Raises ``InputError`` if it is missing or cannot be read."""
    require_file(path)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def network_file_of(path: Path) -> Path:
    """The file of weights that a teacher's path means: of a run folder, the ``network.safetensors`` in it.

    Raises:
        InputError: there is none, or the run is one of a user's module, or the file holds something else.
    """
    output = STAGES["train"].output
    if path.is_dir():
        module = RunFolder(path).recipe().module
        if module is not None:
            raise InputError(
                f"teacher {path} is a run of a user's module; expected that module itself, as in --teacher "
                f"{module.file}:{module.name} with --teacher-weights"
            )
        path = RunFolder(path).need("train")
    require_file(path, f"teacher {path}")
    if kind_of(path) not in ("network", _KIND):
        raise InputError(
            f"teacher {path} is no trained network of ours (a packed model does not run in torch); expected a run "
            f"folder, a {output}, a {STAGES[_KIND].output} or FILE.py:Class"
        )
    return path


def network_teacher(path: Path, info: InputInfo, timesteps: int, device: torch.device) -> Teacher:
    """The teacher of a ``network.safetensors``, which computes as it is deployed, or of a ``teacher.safetensors``.

    Args:
        path: of the file.
        info: the input and the classes of what learns.
        timesteps: frames that a batch of events has.
        device: where to compute.

    Raises:
        InputError: the file is missing or damaged, or its network has other inputs or classes, or sees more frames.
    """
    if kind_of(path) == _KIND:
        return load_residual(path, info, device)
    digest = digest_of(path)
    network = load_network(path)
    require_fit(network.info, info, str(path))
    if info.frames and network.timesteps > timesteps:
        raise InputError(
            f"teacher {path} sees {network.timesteps} frames, and search.timesteps and the budget let {timesteps} be "
            "read; expected at least as many"
        )
    network.to(device).requires_grad_(requires_grad=False)
    return Teacher(_Deployed(network, info), digest)


class _Deployed:
    """A spiking network of ours, on inputs that may have been encoded with another mean and deviation."""

    def __init__(self, network: Network, info: InputInfo) -> None:
        self._network = network
        own, given = network.info.input, info.input
        self._affine: tuple[Tensor, Tensor] | None = None
        if (own.mean, own.std) != (given.mean, given.std):
            means, stds = (
                torch.tensor(values, dtype=torch.float64)[:, :, None, None]
                for values in ((given.mean, own.mean), (given.std, own.std))
            )
            factor, shift = stds[0] / stds[1], 32 * (means[0] - means[1]) / stds[1]
            self._affine = factor.float().to(network.device), shift.float().to(network.device)

    def __call__(self, x: Tensor, /) -> Tensor:
        if self._affine is not None:
            factor, shift = self._affine
            x = (x * factor + shift).round_().clamp_(-127, 127)
        logits: Tensor = self._network(x).logits[-1]
        return logits


def require_fit(teacher: InputInfo, info: InputInfo, origin: str) -> None:
    """Refuse a teacher of other inputs or classes.

    Raises:
        InputError: names the teacher, by its ``origin``, and what differs.
    """
    for what, own, given in (
        ("classes", teacher.classes, info.classes),
        ("inputs of the shape", shape_text(teacher.shape), shape_text(info.shape)),
        ("inputs of the kind", teacher.kind, info.kind),
        ("front end", teacher.input.front_end, info.input.front_end),
    ):
        if own != given:
            raise InputError(f"teacher {origin} has the {what} {_told(own)}, and the data have {_told(given)}")


def _told(value: object) -> str:
    if isinstance(value, tuple):  # names of classes
        return ", ".join(value[:6]) + (f" and {len(value) - 6} more" if len(value) > 6 else "")
    return "none" if value is None else str(value)


# --- what is told of it ---


def teacher_record(run: RunFolder, recipe: Recipe) -> dict[str, Any]:
    """The part of ``metrics.json`` about the teacher; nothing of a training without one.

    Its time is in its log alone, since a run that is made again has the same metrics.

    Raises:
        InputError: the log of the teacher's training is damaged.
    """
    settings, log = recipe.teacher, run / "teacher.jsonl"
    if recipe.train.teacher is None:
        return {}
    if recipe.train.teacher != AUTO:
        digest = settings.sha256 if settings.module is None else settings.module.weights_sha256
        return {"teacher": {"name": recipe.train.teacher, "sha256": digest}}
    found: dict[str, Any] = {"name": AUTO, "width": settings.width, "blocks": settings.blocks}
    if log.exists():
        accuracies = JsonLog.numbers(log, "validation_accuracy")
        found |= {"epochs": len(accuracies)}
        found |= {"validation_accuracy": accuracies[-1]} if accuracies else {}
    return {"teacher": found}
