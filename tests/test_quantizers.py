"""Every row of the table of quantizers: levels and codes, its gradient, searched, trained, evaluated and packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import exactness
from given import MODULE
from litesnn.config import Recipe
from litesnn.costs import COSTS
from litesnn.costs.size import kept_count
from litesnn.data.batches import Samples
from litesnn.deploy.engine import Engine
from litesnn.deploy.integerize import integerize
from litesnn.deploy.packed import read, size_table, to_bytes
from litesnn.deploy.reference import Reference
from litesnn.errors import InputError
from litesnn.genotype import BIT_WIDTHS, CellGene, Compressed, Genotype
from litesnn.network_file import build_network, load_network
from litesnn.quantizers import MIDRISE, QUANTIZERS, Quantizer, ends_of
from litesnn.quantizers.quantizer import straight_through
from litesnn.search.derive import largest_file
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.snn.compconv import CompConv, Compression, stack_masks, stack_weights
from litesnn.snn.cost import Meter
from litesnn.snn.undecayed import Undecayed
from litesnn.train.evaluate import measure
from litesnn.training_loop.expectation import Mixed
from tiny import genotype, images, input_info, liven, quantized_images
from whole_job import Problem, litesnn, recipe, rows

ROWS = list(QUANTIZERS.values())
EDGES = ((0, 0, "conv3x3"), (0, 1, "skip"), (1, 1, "conv1x1"), (1, 2, "skip"))
SHAPE = (2, 9, 7)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def settings(row: Quantizer, **more: Any) -> dict[str, Any]:
    return {"model.quantizer": row.name, "search.bits": list(row.bits[:2]), **more}


def random_weights(seed: int, spread: float = 1.0, layers: int = 3) -> Tensor:
    return spread * torch.randn(layers, 5, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def own_of(row: Quantizer, weights: Tensor) -> Tensor | None:
    return None if row.initial is None else torch.stack([row.initial(weight) for weight in weights])


def gene_of(row: Quantizer, **changes: Any) -> Genotype:
    given = genotype(**{"edges": EDGES, "levels": (0, 0, 1), "bits": row.bits[-1], **changes})
    return Genotype.model_validate(given.model_dump() | {"quantizer": row.name})


def test_the_table_has_rows_under_their_own_names() -> None:
    assert ROWS
    assert ROWS[0] is MIDRISE
    assert all(name == row.name for name, row in QUANTIZERS.items())
    assert len({row.description for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.bits
        assert set(row.bits) <= set(BIT_WIDTHS)
        assert set(map(row.code_bits, row.bits)) <= set(BIT_WIDTHS)


@every_row
@pytest.mark.parametrize("spread", [1e-4, 1.0, 50.0])
def test_codes_stand_for_the_quantized_weights_to_the_last_bit(row: Quantizer, spread: float) -> None:
    for seed in range(5):
        weights = random_weights(seed, spread)
        own = own_of(row, weights)
        for bits in row.bits:
            together = row.values(weights, row.prepare(weights, own), bits)
            for index, weight in enumerate(weights):
                codes, unit = row.codes(weight, bits, None if own is None else own[index])
                assert float(unit) > 0
                assert torch.equal(codes * unit, together[index])  # and so stacked equals alone
                top = 2 ** row.code_bits(bits) - 1
                possible = {*range(-top, top + 1, 2), *([0] if row.has_zero else [])}
                assert set(codes.flatten().tolist()) <= possible
                assert len(set(codes.flatten().tolist())) > 1


@every_row
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_equal_weights_have_finite_values(row: Quantizer, value: float) -> None:
    weights = torch.full((1, 2, 3, 1, 1), value)
    for bits in row.bits:
        values = row.values(weights, row.prepare(weights, own_of(row, weights)), bits)
        assert values.isfinite().all()
        assert value == 0 or (values.sign() == weights.sign()).all()


@every_row
def test_the_rule_is_the_gradient_of_the_formula_in_plain_autograd(row: Quantizer) -> None:
    """Of a mixture over all bit-widths and two keep ratios, of two layers at once."""
    weights = random_weights(3, layers=2).double()
    own = own_of(row, weights)
    weights.requires_grad_()
    if own is not None:
        own.requires_grad_()
    convs = [CompConv(4, 5, 3, quantizer=row).double() for _ in weights]
    for index, conv in enumerate(convs):
        conv.weight = torch.nn.Parameter(weights[index].detach().clone())
        if own is not None:
            conv.quantization = Undecayed(own[index].detach().clone())
    shares = torch.rand(len(row.bits), 2, generator=torch.Generator().manual_seed(1)).double()
    mix = Compression(row.bits, (0.4, 1.0), shares)
    masks = stack_masks(convs, mix)
    factors = random_weights(4, layers=2).double()
    (stack_weights(convs, mix, masks) * factors).sum().backward()  # type: ignore[no-untyped-call]

    def quantized(index: int, bits: int) -> Tensor:
        weight, mine = weights[index], None if own is None else own[index]
        if row.formula is not None:
            return row.formula(weight, mine, bits)
        assert row.rule is straight_through
        codes, unit = row.codes(weight, bits, mine)
        return weight + (codes * unit - weight).detach()

    total = torch.zeros((), dtype=torch.float64)
    for index in range(2):
        for i, bits in enumerate(row.bits):
            for j, mask in enumerate(masks):
                total = total + (shares[i, j] * mask[index].detach() * quantized(index, bits) * factors[index]).sum()
    total.backward()  # type: ignore[no-untyped-call]
    for index, conv in enumerate(convs):
        assert weights.grad is not None
        torch.testing.assert_close(conv.weight.grad, weights.grad[index])
        if conv.quantization is not None:
            assert own is not None
            assert own.grad is not None
            assert own.grad[index].abs().min() > 0
            torch.testing.assert_close(conv.quantization.grad, own.grad[index])


@every_row
@pytest.mark.parametrize("keep", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("arithmetic", ["float", "fixed"])
def test_every_engine_computes_what_torch_does(row: Quantizer, keep: float, arithmetic: Any) -> None:
    for bits in row.bits:
        gene = gene_of(row, bits=bits, keep=keep, arithmetic=arithmetic)
        network = build_network(gene, input_info(SHAPE), seed=bits)
        liven(network, bits)
        packed = integerize(network.eval())
        for found in exactness.compare(network, packed, images(SHAPE, 3, bits)):
            assert found.exact, found


@every_row
@pytest.mark.parametrize("keep", [0.05, 0.3, 0.9, 1.0])
def test_the_file_is_as_large_as_layers_say_and_no_larger_than_the_bound(row: Quantizer, keep: float) -> None:
    info = input_info(SHAPE)
    for bits in row.bits:
        gene = gene_of(row, bits=bits, keep=keep)
        bound = largest_file(gene, info)
        for seed in range(3):
            network = build_network(gene, info, seed)
            liven(network, seed)
            packed = integerize(network.eval(), {"stem": 0.98765})
            assert len(to_bytes(packed)) <= bound
            stored = [layer for layer in size_table(packed).layers if not layer.name.endswith("bias")]
            for said, layer in zip(network.layers(), stored, strict=True):
                assert (said.kept, said.bits) == (layer.kept, layer.bits)
                quantizer = row if said.kind == "edge" else ends_of(row.name)
                assert layer.kept <= max(quantizer.most_kept(kept_count(said.weights, said.keep), said.weights), 1)


@every_row
def test_search_and_evaluation_count_the_same(row: Quantizer) -> None:
    """Of a decided supernet and the derived network with its weights: SynOps, Bit-SynOps, and bytes within a bound."""
    changes = {"search.keeps": [0.5], "search.widths": [1.0], "search.bits": [row.bits[-1]], "model.ops": ["conv3x3"]}
    made = Recipe.model_validate({}).changed(
        {"model.quantizer": row.name, "model.width": 3, "model.nodes": 1, "model.levels": [0, 1], **changes}
    )
    info = input_info(SHAPE)
    supernet = build_supernet(made, info.shape, len(info.classes))
    full = supernet.backbone.genotype
    cells = tuple(CellGene(level=g.level, width=g.width, bits=row.bits[-1], keep=0.5) for g in full.cells)
    gene = full.model_copy(update={"cells": cells})
    network = build_network(gene, info, 0)
    network.load_state_dict(supernet.backbone.state_dict(prefix="backbone."))
    x = quantized_images(SHAPE, 8)
    meters = Meter(), Meter()
    supernet(x, meter=meters[0])
    network.train()(x, meter=meters[1])
    for name, layer in meters[1].layers.items():
        assert float(layer.synops.detach().sum()) > 0
        torch.testing.assert_close(meters[0].layers[name].synops, layer.synops)
        torch.testing.assert_close(meters[0].layers[name].bit_synops, layer.bit_synops)
        if name != "classifier" or row.at_both_ends:
            torch.testing.assert_close(
                layer.bit_synops, row.code_bits(row.bits[-1] if "cell" in name else 4) * layer.synops
            )
    deployed = measure(network, Samples(x.to(torch.int8), torch.zeros(len(x), dtype=torch.int64)))
    bits = {layer.name: layer.bits for layer in network.layers()}
    for name, synops in deployed.synops.items():
        assert deployed.bit_synops[name] == pytest.approx(bits[name] * synops)
    expected = COSTS["packed_bytes"].expected
    assert expected is not None
    size = float(expected(Mixed(supernet, supernet.mixes(), meters[0], supernet.psi.softmax(0), frames=False)).detach())
    payload = size_table(integerize(network)).bytes - size_table(integerize(network)).header_bytes
    assert payload <= size - supernet.header_bytes + 2 * len(bits)


@every_row
def test_the_search_learns_with_it(row: Quantizer) -> None:
    made = Recipe.model_validate({}).changed(
        settings(row, **{"model.width": 3, "model.nodes": 1, "model.levels": [0, 1], "search.keeps": [0.5, 1.0]})
    )
    info = input_info(SHAPE)
    loop = SearchLoop(made, build_supernet(made, info.shape, len(info.classes)))
    x, y = quantized_images(SHAPE, 6), torch.arange(6) % 3
    before = [parameter.detach().clone() for parameter in loop.weights]
    rng = torch.Generator().manual_seed(0)
    for _ in range(3):
        loop.architecture_step(x, y, rng, epoch=0)
        loop.weight_step(x, y, rng, epoch=0)
    moved = [not torch.equal(a, b) for a, b in zip(before, loop.weights, strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    own = [parameter for parameter in loop.weights if isinstance(parameter, Undecayed)]
    assert (len(own) > 0) == (row.initial is not None)
    groups = loop.optimizers["weights"].param_groups
    assert [group["weight_decay"] for group in groups[1:]] == ([0.0] if own else [])


@pytest.mark.job
@every_row
def test_a_whole_job(row: Quantizer, problem: Problem, tmp_path: Path) -> None:
    """Designed under a budget: the packed file keeps it, and computes what torch does."""
    run = tmp_path / "run"
    options = [f"{key}={json.dumps(value)}" for key, value in settings(row).items()]
    options += ["search.epochs=2", "train.epochs=2"]
    outcome = litesnn("design", *problem.options(run), *(word for option in options for word in ("--set", option)))
    assert outcome.code == 0, outcome.err
    gene = Genotype.read(run / "genotype.json")
    assert gene.quantizer == row.name
    assert ("quantizer" in (run / "genotype.json").read_text()) == (row is not MIDRISE)
    metrics = json.loads((run / "metrics.json").read_text())
    network, packed = load_network(run / "network.safetensors"), read(run / "model.safetensors")
    size = (run / "model.safetensors").stat().st_size
    assert size == metrics["packed_bytes"] <= min(2500, largest_file(gene, network.info))
    assert metrics["kept_weights"] == sum(layer.kept for layer in size_table(packed).layers)
    assert metrics["bit_synops"] == pytest.approx(
        sum(layer["synops"] * max(1, layer["bits"]) for layer in metrics["layers"] if layer["synops"])
    )
    assert rows(run / "search.jsonl")[-1]["packed_bytes"] > 0
    x = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for found in exactness.compare(network, packed, x):
        assert found.exact, found


@every_row
def test_a_genotype_remembers_it(row: Quantizer) -> None:
    gene = gene_of(row)
    text = gene.to_json()
    assert Genotype.from_json(text) == gene
    assert ("quantizer" in json.loads(text)) == (row is not MIDRISE)
    for bits in set(BIT_WIDTHS) - set(row.bits):
        cells = [cell | {"bits": bits} for cell in json.loads(text)["cells"]]
        with pytest.raises(InputError, match=f"{row.name!r} has weights of .* bits, not of {bits}"):
            Genotype.from_json(json.dumps(json.loads(text) | {"cells": cells}))


@every_row
def test_bits_that_it_does_not_have_are_refused(row: Quantizer, problem: Problem) -> None:
    for bits in set(BIT_WIDTHS) - set(row.bits):
        with pytest.raises(
            InputError, match=rf"search\.bits: the quantizer {row.name!r} has weights of .* bits, not of {bits}"
        ):
            recipe(problem.data, {"model.quantizer": row.name, "search.bits": [bits]})
    if set(row.bits) < {1, 2, 4}:  # the default candidates
        with pytest.raises(InputError, match=r"search\.bits: the quantizer"):
            Recipe.from_toml(f'[model]\nquantizer = "{row.name}"\n')


def test_an_unknown_one_is_refused_by_name(problem: Problem) -> None:
    with pytest.raises(InputError, match=r"model.quantizer: .*unknown quantizer 'octal'; expected one of midrise"):
        recipe(problem.data, {"model.quantizer": "octal"})
    gene = genotype().model_dump() | {"quantizer": "octal"}
    with pytest.raises(InputError, match="unknown quantizer 'octal'"):
        Genotype.from_json(json.dumps(gene))


@pytest.mark.job
@every_row
def test_a_user_module_is_compressed_with_it_or_refuses_it_by_name(
    row: Quantizer, problem: Problem, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(MODULE)
    run, options = tmp_path / "run", problem.options(tmp_path / "run")
    changes = [f"{key}={json.dumps(value)}" for key, value in settings(row).items()]
    changes += ["search.epochs=2", "search.widths=[1.0]", "train.epochs=2"]
    words = [word for change in changes for word in ("--set", change)]
    outcome = litesnn("compress", "--model", f"{tmp_path / 'net.py'}:Net", *options, *words)
    if row.has_zero or not row.at_both_ends:
        assert outcome.code == 2
        assert outcome.complaints.strip().endswith(f"model.quantizer: {row.name!r} is not there for users' modules")
        assert not (run / "search.jsonl").exists()
        return
    assert outcome.code == 0, outcome.err
    chosen = Compressed.read(run / "genotype.json")
    assert chosen.quantizer == row.name
    assert ("quantizer" in (run / "genotype.json").read_text()) == (row is not MIDRISE)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["packing"]["possible"] is True
    packed = read(run / "model.safetensors")
    assert metrics["packed_bytes"] == len(to_bytes(packed))
    x = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    assert (Engine(packed).run(x).logits == Reference(packed).run(x).logits).all()
