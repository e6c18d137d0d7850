from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from litesnn.snn.arithmetic import ARITHMETICS, Folded, to_float16
from litesnn.snn.compconv import (
    CompConv,
    Compression,
    Connection,
    count_reached,
    fold,
    layer_synops,
    mix_weights,
    stack_masks,
)
from litesnn.snn.cost import synops, tap_spikes
from tiny import liven

CPU = torch.device("cpu")
FLOAT = ARITHMETICS["float"]
BITS, KEEPS = (1, 2, 3, 4), (0.1, 0.5, 1.0)


def seeded_conv(inputs: int = 3, outputs: int = 4, kernel: int = 3, stride: int = 1, seed: int = 0) -> CompConv:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CompConv(inputs, outputs, kernel, stride)


def currents(connection: Connection, spikes: Tensor, folded: Folded) -> Tensor:
    return FLOAT.current(connection.accumulate(spikes, folded), folded)


def one_hot(bits: int, keep: int) -> Tensor:
    logits = torch.full((len(BITS), len(KEEPS)), -1e4)
    logits[bits, keep] = 1e4
    return logits.flatten().softmax(0).view_as(logits)


@pytest.mark.parametrize("keep", range(len(KEEPS)))
@pytest.mark.parametrize("bits", range(len(BITS)))
def test_a_one_hot_mixture_is_the_finished_layer(bits: int, keep: int) -> None:
    conv = seeded_conv()
    mixture = Compression(BITS, KEEPS, one_hot(bits, keep))
    finished = Compression.fixed(BITS[bits], KEEPS[keep], CPU)
    weights = [conv.effective_weight(c, conv.masks(c)) for c in (mixture, finished)]
    assert torch.equal(weights[0], weights[1])
    assert int((weights[0] != 0).sum()) == round(KEEPS[keep] * 108)


def test_a_mixture_is_the_oracles() -> None:
    conv = seeded_conv().double()
    weights = torch.randn(12, generator=torch.Generator().manual_seed(1)).double().softmax(0).view(4, 3)
    mixture = Compression(BITS, KEEPS, weights)
    ours = conv.effective_weight(mixture, conv.masks(mixture))
    theirs = oracle.effective(conv, oracle.Mixture(oracle.pairs(BITS, KEEPS, weights)))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_layers_that_are_mixed_together_are_what_they_are_alone() -> None:
    convs = [seeded_conv(seed=seed) for seed in range(3)]
    with torch.no_grad():
        convs[1].weight.mul_(7)  # another step
    weights = torch.randn(12, generator=torch.Generator().manual_seed(1)).softmax(0).view(4, 3)
    for mixture in (Compression(BITS, KEEPS, weights), Compression.fixed(3, 0.1, CPU)):
        masks = stack_masks(convs, mixture)
        together = mix_weights(torch.stack([conv.weight for conv in convs]), mixture, masks)
        for row, conv in enumerate(convs):
            alone = conv.masks(mixture)
            assert all(torch.equal(mask[row], one) for mask, one in zip(masks, alone, strict=True))
            assert torch.equal(together[row], conv.effective_weight(mixture, alone))


def test_pairs_by_hand() -> None:
    mixture = Compression((1, 4), (0.2, 1.0), torch.tensor([[0.25, 0.5], [0.125, 0.125]]))
    pairs = [(bits, keep, float(p)) for bits, keep, p in mixture.pairs()]
    assert pairs == [(1, 0.2, 0.25), (1, 1.0, 0.5), (4, 0.2, 0.125), (4, 1.0, 0.125)]
    assert Compression.fixed(3, 0.2, CPU).choice() == (3, 0.2)
    with pytest.raises(ValueError, match="mixture"):
        mixture.choice()


def test_the_gradient_reaches_weights_scores_and_mixture() -> None:
    conv = seeded_conv()
    logits = torch.zeros(12, requires_grad=True)
    mixture = Compression(BITS, KEEPS, logits.softmax(0).view(4, 3))
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    out = conv.convolve(x, conv.effective_weight(mixture, conv.masks(mixture)))
    parameters = (conv.weight, conv.scores, logits)
    for gradient in torch.autograd.grad(out.square().sum(), parameters):
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize(("size", "stride", "out"), [(5, 1, 5), (5, 2, 3), (4, 2, 2), (1, 4, 1), (9, 4, 3)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_output_sizes(kernel: int, size: int, stride: int, out: int) -> None:
    conv = seeded_conv(kernel=kernel, stride=stride)
    assert conv.convolve(torch.zeros(2, 3, size, size), conv.weight).shape == (2, 4, out, out)


def set_norm(connection: Connection, weight: float, bias: float, mean: float, variance: float) -> None:
    norm = connection.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.weight.fill_(weight)
        norm.bias.fill_(bias)
        norm.running_mean.fill_(mean)
        norm.running_var.fill_(variance - norm.eps)


def test_fold_by_hand() -> None:
    conv, skip = Connection(1, 1, kernel=1), Connection(1, 1, kernel=1, identity=True)
    assert conv.conv is not None
    conv.conv.weight = torch.nn.Parameter(torch.tensor([[[[3.0]]]]))
    set_norm(conv, weight=2.0, bias=0.5, mean=3.0, variance=16.0)  # gain 2/4 = 0.5
    set_norm(skip, weight=1.5, bias=-0.25, mean=0.5, variance=4.0)  # gain 1.5/2 = 0.75
    # A single weight has no spread: its step is the least there is, and float16 makes zero of it.
    group = fold([conv, skip], Compression.fixed(2, 1.0, CPU), FLOAT, input_scale=0.5)
    assert group.connections[0].codes is not None
    assert group.connections[0].codes.tolist() == [[[[3]]]]
    assert group.connections[1].codes is None
    assert group.connections[1].scale.tolist() == [0.375]
    assert group.bias.tolist() == [(0.5 - 0.5 * 3.0) + (-0.25 - 0.75 * 0.5)]


def test_fold_takes_half_a_step_per_code() -> None:
    connection = Connection(2, 1, kernel=1)
    assert connection.conv is not None
    connection.conv.weight = torch.nn.Parameter(torch.tensor([[[[1.0]], [[-1.0]]]]))  # standard deviation 1
    set_norm(connection, weight=2.0, bias=0.0, mean=0.0, variance=1.0)
    (part,) = fold([connection], Compression.fixed(1, 1.0, CPU), FLOAT).connections
    assert part.codes is not None
    assert part.codes.flatten().tolist() == [1, -1]
    assert part.scale.tolist() == to_float16(torch.tensor([2 * 1.596 / 2])).tolist()
    spikes = torch.tensor([[[[1.0]], [[0.0]]], [[[0.0]], [[1.0]]], [[[1.0]], [[1.0]]]])
    assert currents(connection, spikes, part).flatten().tolist() == [float(part.scale), -float(part.scale), 0]


def test_sums_beyond_what_float32_holds_are_exact() -> None:
    connection = Connection(1000, 1, kernel=3)
    x = torch.full((1, 1000, 3, 3), 127.0)
    x[0, 0, 0, 0] = 126.0
    codes = torch.full((1, 1000, 3, 3), 15.0)
    expected = 15 * (127 * 9000 - 1)
    assert expected > 2**24
    assert int(torch.tensor(float(expected))) != expected
    found = connection.accumulate(x, Folded(codes, torch.ones(1)))
    assert int(found[0, 0, 1, 1]) == expected


@given(
    st.sampled_from([(1, False), (3, False), (5, False), (0, True)]),
    st.integers(1, 4),
    st.sampled_from(KEEPS),
    st.integers(0, 2**31),
)
def test_folding_changes_no_current_but_by_the_rounding_of_its_numbers(
    kind: tuple[int, bool], bits: int, keep: float, seed: int
) -> None:
    kernel, identity = kind
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        connection = Connection(3, 3, kernel=kernel or 1, stride=1 if identity else 2, identity=identity).eval()
    liven(connection, seed)
    compression = Compression.fixed(bits, keep, CPU)
    spikes = (torch.rand(2, 3, 5, 4, generator=rng) < 0.4).float()
    group = fold([connection], compression, FLOAT)
    for values in (group.bias, group.connections[0].scale):
        assert torch.equal(values, to_float16(values))
    with torch.no_grad():
        trained = connection(spikes, compression)
    folded = currents(connection, spikes, group.connections[0]) + group.bias[:, None, None]
    torch.testing.assert_close(folded, trained, rtol=2e-3, atol=1e-2)
    assert (connection.conv is None) == identity
    assert connection.kernel == kernel
    assert connection.weights == 9 * kernel**2


def test_gains_start_at_the_threshold() -> None:
    assert Connection(2, 3, kernel=1).norm.weight.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("width_weights", [None, [1.0, 0.0, 0.5]])
def test_a_mixture_costs_the_mean_of_its_finished_layers(width_weights: list[float] | None) -> None:
    """SynOps and Bit-SynOps of a layer, by probability; half a channel counts half."""
    conv = seeded_conv(2, 3, kernel=3, stride=2)
    spikes = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    taps = tap_spikes(spikes, 3, 2)
    present = None if width_weights is None else torch.tensor(width_weights)
    weights = torch.tensor([[0.1, 0.2, 0.0], [0.05, 0.05, 0.1], [0.0, 0.3, 0.0], [0.1, 0.05, 0.05]])
    mixture, expected = Compression(BITS, KEEPS, weights), torch.zeros(2, 4)
    for bits, keep, p in mixture.pairs():
        finished = Compression.fixed(bits, keep, CPU)
        (mask,) = conv.masks(finished)
        channels = torch.stack([synops(taps, mask[o]) for o in range(3)])  # of each output channel alone
        used = channels.sum(0) if present is None else present @ channels
        torch.testing.assert_close(layer_synops(finished, count_reached([mask[None]], present), taps)[0][0], used)
        expected += p * torch.stack([used, bits * used])
    found = layer_synops(mixture, count_reached(stack_masks([conv, conv], mixture), present), taps)
    for layer in (0, 1):
        torch.testing.assert_close(torch.stack([part[layer] for part in found]), expected)
    assert expected.min() > 0
