"""A made-up run folder with plausible numbers, for tests of the report and for looking at its pages."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from litesnn.genotype import OPS, CellGene, Edge, Genotype, StemGene, all_edges
from litesnn.report.page import Examples

BITS, KEEP, WIDTH = (1, 2, 4), (0.2, 0.5, 1.0), (8, 12, 16)


def fake_genotype(*, nodes: int = 3, cells: int = 3, timesteps: int = 3) -> Genotype:
    """Two inputs per node, ops in turn."""
    ops, edges = list(OPS), []
    for node in range(nodes):
        for nth, source in enumerate(sorted({max(0, node - 1), node + 1} if node % 2 else {0, node + 1})):
            edges.append(Edge(node=node, source=source, op=ops[(2 + node + 3 * nth) % len(ops)]))
    genes = [
        CellGene(level=cell * 3 // cells, width=WIDTH[cell % 3], bits=BITS[cell % 3], keep=KEEP[(cell + 1) % 3])
        for cell in range(cells)
    ]
    stem = StemGene(channels=16, bits=4)
    return Genotype(timesteps=timesteps, stem=stem, edges=tuple(edges), cells=tuple(genes), classifier_bits=4)


def fake_search(genotype: Genotype, rng: np.random.Generator, *, epochs: int, t_max: int, paper: bool) -> list[Any]:
    """Distributions that sharpen from uniform towards the genotype."""
    lines = []
    pairs, ops = all_edges(genotype.nodes), list(OPS)
    noise = rng.normal(0, 0.4, (len(pairs), len(ops)))
    for edge in genotype.edges:
        noise[pairs.index((edge.node, edge.source)), ops.index(edge.op)] += 2.0
    for epoch in range(1, epochs + 1):
        done = epoch / epochs

        def one_hot(choices: tuple[Any, ...], chosen: float, sharp: float) -> list[float]:
            return list(_softmax(np.array([sharp if choice == chosen else 0.0 for choice in choices])))

        psi_sharp = 0.0 if epoch <= epochs // 10 else 3.4 * (done - 0.1)
        distance = -np.abs(np.arange(1, t_max + 1) - genotype.timesteps)
        line: dict[str, Any] = {
            "epoch": epoch,
            "seconds": 12.0 + rng.normal(0, 0.3),
            "train_loss": 2.2 * np.exp(-3 * done) + 0.12 + rng.normal(0, 0.02),
            "train_accuracy": 0.97 - 0.8 * np.exp(-4 * done) + rng.normal(0, 0.005),
            "validation_loss": 2.1 * np.exp(-2.7 * done) + 0.2 + rng.normal(0, 0.03),
            "validation_accuracy": 0.95 - 0.8 * np.exp(-3.7 * done) + rng.normal(0, 0.01),
            "psi": _softmax(psi_sharp * distance).tolist(),
            "alpha": [_softmax(row * 1.6 * done).tolist() for row in noise],
            "ops": ops,
            "bits": [one_hot(BITS, cell.bits, 4 * done) for cell in genotype.cells],
            "bit_choices": BITS,
            "packed_bytes": 7600 + 9000 * np.exp(-4 * done),
            "bit_synops": 9.1e5 + 4.2e6 * np.exp(-3.5 * done),
            "learning_rate": 0.025 * (1 - done) + 0.001,
        }
        if not paper:
            line["keep"] = [one_hot(KEEP, cell.keep, 3 * done) for cell in genotype.cells]
            line["keep_choices"] = KEEP
            line["width"] = [one_hot(WIDTH, cell.width, 2 * done) for cell in genotype.cells]
            line["width_choices"] = [width / WIDTH[-1] for width in WIDTH]
            line["multipliers"] = {"packed_bytes": 0.4 * done * (1.4 - done), "bit_synops": 0.8 * done * (1.2 - done)}
        lines.append(line)
    return lines


def fake_train(rng: np.random.Generator, *, epochs: int) -> list[Any]:
    """Curves that rise, and one best epoch."""
    accuracy = 0.985 - 0.5 * np.exp(-6 * np.linspace(0, 1, epochs)) + rng.normal(0, 0.004, epochs)
    return [
        {
            "epoch": epoch + 1,
            "seconds": 3.0,
            "train_loss": 1.5 * np.exp(-5 * epoch / epochs) + 0.03,
            "train_accuracy": min(1.0, float(accuracy[epoch]) + 0.01),
            "validation_loss": 1.5 * np.exp(-4.4 * epoch / epochs) + 0.08,
            "validation_accuracy": float(accuracy[epoch]),
            "bit_synops": 8.2e5 + 6e5 * np.exp(-5 * epoch / epochs),
            "multipliers": {"bit_synops": 0.1},
            "learning_rate": 0.02,
            "best": bool(epoch == int(accuracy.argmax())),
        }
        for epoch in range(epochs)
    ]


def fake_metrics(genotype: Genotype, rng: np.random.Generator, *, classes: list[str], paper: bool) -> dict[str, Any]:
    """``metrics.json`` for the genotype."""
    count, test = len(classes), 360
    confusion = np.diag(rng.multinomial(test, [1 / count] * count))
    for _ in range(10):
        row, column = rng.integers(0, count, 2)
        if confusion[row, row] > 1:
            confusion[row, row] -= 1
            confusion[row, column] += 1
    accuracy = float(np.trace(confusion)) / test
    layers: list[dict[str, Any]] = []
    neurons = [{"name": "stem", "channels": 16, "height": 8, "width": 8, "firing_rate": 0.21}]

    def layer(name: str, kind: str, cell: int | None, bits: int, keep: float, weights: int) -> None:
        synops = None if kind == "stem" else float(weights * keep * rng.uniform(5, 30))
        layers.append(
            {
                "name": name,
                "kind": kind,
                "cell": cell,
                "bits": bits,
                "keep": keep,
                "weights": weights,
                "kept": round(weights * keep),
                "synops": synops,
                "bit_synops": None if synops is None else synops * bits,
            }
        )

    layer("stem", "stem", None, 4, 1.0, 144)
    previous = 16
    for index, gene in enumerate(genotype.cells):
        for edge in genotype.edges:
            inputs = previous if edge.source < 2 else gene.width
            if edge.op == "skip" and edge.source >= 2:
                continue
            name = f"cell {index + 1} {edge.node}_{edge.source}_{edge.op}"
            layer(name, "edge", index, gene.bits, gene.keep, inputs * gene.width * OPS[edge.op].kernel ** 2)
        side = max(1, 8 >> gene.level)
        for node in range(genotype.nodes):
            rate = float(rng.uniform(0.03, 0.25))
            neurons.append(
                {
                    "name": f"cell {index + 1} node {node}",
                    "channels": gene.width,
                    "height": side,
                    "width": side,
                    "firing_rate": rate,
                }
            )
        previous = genotype.nodes * gene.width
    layer("classifier", "classifier", None, 4, 1.0, previous * count)
    table = [
        {
            "name": entry["name"],
            "positions": 0 if entry["keep"] == 1.0 else entry["weights"] // 8,
            "codes": entry["kept"] * entry["bits"] // 8,
            "affine": 128,
            "coding": "all" if entry["keep"] == 1.0 else "map",
        }
        for entry in layers
    ]
    packed = sum(row["positions"] + row["codes"] + row["affine"] for row in table) + 412
    bit_synops = sum(entry["bit_synops"] or 0 for entry in layers)
    limits = [None, None, None] if paper else [packed * 1.08, bit_synops * 1.3, 4]
    values = [packed, bit_synops, genotype.timesteps]
    return {
        "version": 1,
        "litesnn": "0.1.0",
        "versions": {"python": "3.12.3", "torch": "2.13.0", "numpy": "2.3.1"},
        "command": "litesnn design digits --budget '8 kB, 1 M Bit-SynOps, T <= 4' --seed 0",
        "data": {"name": "digits", "train": 1149, "validation": 288, "test": test, "shape": [1, 8, 8]},
        "seed": 0,
        "mode": "paper" if paper else "budget",
        "test_accuracy": accuracy,
        "test_loss": 0.081,
        "test_standard_error": 0.0099,
        "balanced_accuracy": accuracy,
        "per_class": [
            {
                "class": name,
                "recall": float(row[k] / max(1, row.sum())),
                "precision": float(row[k] / max(1, confusion[:, k].sum())),
                "test_rows": int(row.sum()),
                "train_rows": 1149 // count,
            }
            for k, (name, row) in enumerate(zip(classes, confusion, strict=True))
        ],
        "baselines": {
            "chance": 1 / count,
            "majority": 1.05 / count,
            "linear": {"accuracy": 0.91, "balanced_accuracy": 0.91, "rows": 1149, "features": 64, "note": None},
        },
        "warnings": [],
        "validation_accuracy": 0.986,
        "classes": classes,
        "confusion": confusion.tolist(),
        "accuracy_at": [accuracy - 0.08 * 0.4**t for t in range(genotype.timesteps - 1)] + [accuracy],
        "timesteps": genotype.timesteps,
        "packed_bytes": packed,
        "model_size_bytes": sum(entry["kept"] * entry["bits"] for entry in layers) / 8,
        "weights": sum(entry["weights"] for entry in layers),
        "kept_weights": sum(entry["kept"] for entry in layers),
        "synops": sum(entry["synops"] or 0 for entry in layers),
        "bit_synops": bit_synops,
        "stem_macs": 9216.0,
        "energy": {
            "total_nj": 41.7,
            "table_pj": {"stem_mac_4bit": 0.13, "synop_1bit": 0.02, "synop_2bit": 0.024, "synop_4bit": 0.03},
            "note": "45 nm figures (Horowitz 2014); arithmetic only, memory traffic and leakage are left out.",
        },
        "layers": layers,
        "neurons": neurons,
        "size_table": table,
        "header_bytes": 412,
        "budgets": [
            {"name": name, "value": value, "limit": limit, "kept": True}
            for name, value, limit in zip(("packed_bytes", "bit_synops", "timesteps"), values, limits, strict=True)
        ],
        "budgets_kept": True,
    }


def fake_examples(rng: np.random.Generator, *, timesteps: int, classes: int, count: int = 6) -> Examples:
    """Blobs with scores that settle and spikes that follow the blob; the last one is wrong."""
    y, x = np.mgrid[0:8, 0:8]
    blobs = [np.exp(-((y - rng.uniform(2, 5)) ** 2 + (x - rng.uniform(2, 5)) ** 2) / 5) for _ in range(count)]
    images = np.stack([(255 * blob).astype(np.uint8)[None] for blob in blobs])
    labels = rng.integers(0, classes, count)
    scores = rng.normal(0, 0.5, (count, timesteps, classes))
    for n in range(count):
        target = labels[n] if n < count - 1 else (labels[n] + 1) % classes
        scores[n, :, target] += np.linspace(1.0, 4.0, timesteps)
    drive = images[None] / 255.0  # [1, N, 1, H, W]
    stem = rng.random((timesteps, count, 16, 8, 8)) < 0.6 * drive
    last = rng.random((timesteps, count, 24, 2, 2)) < rng.uniform(0, 0.5, (1, count, 24, 1, 1))
    spikes = {"stem": stem.astype(np.uint8), "last cell": last.astype(np.uint8)}
    return Examples(images=images, labels=labels, scores=scores, spikes=spikes)


def write_fake_run(
    folder: Path,
    *,
    nodes: int = 3,
    cells: int = 3,
    timesteps: int = 3,
    paper: bool = False,
    search: bool = True,
    classes: list[str] | None = None,
) -> Examples:
    """Fill ``folder`` with a run's files and return examples that fit it."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    names = classes or [str(digit) for digit in range(10)]
    genotype = fake_genotype(nodes=nodes, cells=cells, timesteps=timesteps)
    (folder / "genotype.json").write_text(genotype.to_json())
    (folder / "recipe.toml").write_text('version = 1\n\n[data]\nname = "digits"\n\n[search]\nepochs = 40\n')
    if search:
        lines = fake_search(genotype, rng, epochs=40, t_max=timesteps + 2, paper=paper)
        (folder / "search.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in fake_train(rng, epochs=60)))
    metrics = fake_metrics(genotype, rng, classes=names, paper=paper)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return fake_examples(rng, timesteps=timesteps, classes=len(names))


def _softmax(values: Any) -> Any:
    exponents = np.exp(values - values.max())
    return exponents / exponents.sum()


if __name__ == "__main__":
    from litesnn.report.page import write_report

    target = Path(sys.argv[1])
    print(write_report(target, write_fake_run(target, nodes=int(sys.argv[2]) if len(sys.argv) > 2 else 3)))
