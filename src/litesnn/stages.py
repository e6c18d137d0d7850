"""The stages of a design and of a compression, a row each: what a stage writes, what it needs, and what runs it.

A stage is done when its output is in the run folder. Stages run in the order of the table; one whose output is missing
runs, and what later stages made of its old result goes (:mod:`litesnn.runs`). The functions are in higher floors: a
row names them, and they are imported when the stage runs (:mod:`litesnn.design`).
"""

from __future__ import annotations

from dataclasses import dataclass

from litesnn.references import Reference

__all__ = ["STAGES", "Stage", "first_reader", "stages_without"]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: of the stage, and of its command.
        output: the file in the run folder that shows that it is done.
        meaning: a line of help for its command.
        design: the function that does it for a network of ours. It takes a
            :class:`~litesnn.training_loop.context.StageContext` and returns the path of the output, which is
            written whole.
        compress: as ``design``, for a module that somebody else wrote (``litesnn compress``).
        needs: the stages whose results it cannot do without. A stage that needs one which is left out is left out too.
        log: the file with a row for each of its epochs, if it has epochs: as many as the recipe's section of its name
            says. Its result can be gone on from, and another run can take it over.
        shared: the files that each of several processes reads before they do the stage together; ``None``: the first
            one does it alone.
        taken_over: whether another run can take its result over, if their recipes do not differ in what it depends on.
        settings: keys or sections of the recipe that matter to this stage, and to none before it. What no row names
            matters to the first stage already.
        packs: whether it is left out where a user's module cannot be packed.
        runs_module: whether ``compress`` runs the code of the user's module.
        only_with: a key of a section of the recipe and the value with which the stage is there; ``None``: always.
    """

    name: str
    output: str
    meaning: str
    design: Reference
    compress: Reference
    needs: tuple[str, ...] = ()
    log: str | None = None
    shared: tuple[str, ...] | None = None
    taken_over: bool = False
    settings: tuple[str, ...] = ()
    packs: bool = False
    runs_module: bool = True
    only_with: tuple[str, str] | None = None

    @property
    def checkpoint(self) -> str:
        """The file that keeps its state while it runs, if it has epochs."""
        return f"{self.name}.checkpoint.safetensors"


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="search",
            output="search.safetensors",
            meaning="Begin a run and search: weights, operations, bits, keep ratios, widths and timesteps together.",
            design="litesnn.design:possible_search",
            compress="litesnn.compression.stages:compress_search",
            log="search.jsonl",
            shared=("search.checkpoint.safetensors",),
            taken_over=True,
        ),
        Stage(
            name="derive",
            output="genotype.json",
            meaning="Choose the genotype that the search prefers within the packed-size budget.",
            design="litesnn.search.derive:derive",
            compress="litesnn.compression.stages:derive",
            needs=("search",),
            taken_over=True,
            settings=("model.spatial_edges", "search.fill"),
        ),
        Stage(
            name="teacher",
            output="teacher.safetensors",
            meaning="Train a small conventional network that teaches, where train.teacher is 'auto'.",
            design="litesnn.train.teacher:train_teacher",
            compress="litesnn.train.teacher:train_teacher",
            log="teacher.jsonl",
            taken_over=True,
            settings=("teacher", "train.teacher"),
            runs_module=False,
            only_with=("train.teacher", "auto"),
        ),
        Stage(
            name="train",
            output="network.safetensors",
            meaning="Train the derived network from scratch.",
            design="litesnn.design:planned_fit",
            compress="litesnn.compression.stages:fit",
            needs=("derive",),
            log="train.jsonl",
            shared=("genotype.json", "teacher.safetensors", "train.checkpoint.safetensors", "train.best.safetensors"),
            taken_over=True,
            settings=("train", "made"),
        ),
        Stage(
            name="evaluate",
            output="metrics.json",
            meaning="Measure a run's trained network on its test split, with exit code 3 if it breaks its budget.",
            design="litesnn.train.evaluate:evaluate",
            compress="litesnn.compression.stages:evaluate",
            needs=("train",),
            shared=("network.safetensors",),
            settings=("name", "description", "data.test_limit"),
        ),
        Stage(
            name="pack",
            output="model.safetensors",
            meaning="Pack the trained network into low-bit bytes, and prove that the file computes the same.",
            design="litesnn.deploy.pack:pack",
            compress="litesnn.compression.stages:pack",
            needs=("train", "evaluate"),
            packs=True,
        ),
        Stage(
            name="report",
            output="report.html",
            meaning="Write the report, one self-contained HTML page.",
            design="litesnn.design:report",
            compress="litesnn.design:report",
            needs=("evaluate",),
            settings=("version",),
            runs_module=False,
        ),
    )
}
"""Every stage by its name, in the order in which they run. A new one is one more row, where it has to run."""


def first_reader(key: str) -> str:
    """The first stage that a dotted key of the recipe matters to."""
    for stage in STAGES.values():
        if key in stage.settings:
            return stage.name
    section = key.partition(".")[0]
    return next((stage.name for stage in STAGES.values() if section in stage.settings), next(iter(STAGES)))


def stages_without(packing: bool) -> tuple[str, ...]:
    """The stages in their order; those that pack, and what needs them, only with ``packing``."""
    left_out: set[str] = set()
    for stage in STAGES.values():
        if (stage.packs and not packing) or left_out & set(stage.needs):
            left_out.add(stage.name)
    return tuple(name for name in STAGES if name not in left_out)
