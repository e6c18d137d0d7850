from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from litesnn.errors import InputError
from litesnn.genotype import OPS, Genotype, all_edges
from tiny import genotype, genotypes


@given(genotypes())
def test_a_genotype_survives_a_round_trip(gene: Genotype) -> None:
    assert Genotype.from_json(gene.to_json()) == gene


def edge(node: int, source: int, op: str = "skip") -> dict[str, Any]:
    return {"node": node, "source": source, "op": op}


def cell(**values: Any) -> dict[str, Any]:
    return {"level": 0, "width": 2, "bits": 2, "keep": 0.5} | values


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": 2}, "version"),
        ({"version": None}, "version"),
        ({"timesteps": 0}, "timesteps"),
        ({"timesteps": 65}, "timesteps"),
        ({"edges": []}, "edges"),
        ({"edges": [edge(0, 0, "conv7x7")]}, "unknown op 'conv7x7'; expected one of skip"),
        ({"edges": [edge(0, 2)]}, "node 0 cannot read source 2"),
        ({"edges": [edge(0, 0), edge(1, 3)]}, "node 1 cannot read source 3"),
        ({"edges": [edge(0, -1)]}, "source"),
        ({"edges": [edge(1, 0)]}, "without a gap"),
        ({"edges": [edge(0, 0), edge(2, 0)]}, "without a gap"),
        ({"edges": [edge(0, 0), edge(0, 1), edge(0, 0)]}, "repeat"),
        ({"cells": []}, "cells"),
        ({"cells": [cell(level=1), cell(level=0)]}, "levels must not decrease"),
        ({"cells": [cell(level=7)]}, "cells.0.level"),
        ({"cells": [cell(), cell(bits=5)]}, "cells.1.bits"),
        ({"cells": [cell(bits=0)]}, "cells.0.bits"),
        ({"cells": [cell(keep=0)]}, "cells.0.keep"),
        ({"cells": [cell(keep=1.5)]}, "cells.0.keep"),
        ({"cells": [cell(width=0)]}, "cells.0.width"),
        ({"cells": [cell(color="red")]}, "cells.0.color"),
        ({"stem": {"channels": 4, "stride": 3, "bits": 4}}, "stem.stride"),
        ({"classifier_bits": 8}, "classifier_bits"),
        ({"author": "me"}, "author"),
    ],
)
def test_what_is_no_genotype_is_refused_by_name(change: dict[str, Any], complaint: str) -> None:
    text = json.dumps(json.loads(genotype().to_json()) | change)
    with pytest.raises(InputError) as caught:
        Genotype.from_json(text, origin="the file")
    assert str(caught.value).startswith("the file: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"version": 1}'])
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^g\.json: "):
        Genotype.from_json(text, origin="g.json")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    with pytest.raises(InputError, match=r"genotype\.json: cannot be read"):
        Genotype.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"genotype\.json: cannot be read"):
        Genotype.read(path)
    path.write_text(genotype().to_json()[:-20])
    with pytest.raises(InputError, match=r"genotype\.json: "):
        Genotype.read(path)
    path.write_text(genotype().to_json())
    assert Genotype.read(path) == genotype()
    with pytest.raises(InputError, match="cannot be read"):
        Genotype.read(tmp_path)


def test_edges_of_a_full_cell_by_hand() -> None:
    assert all_edges(1) == [(0, 0), (0, 1)]
    assert all_edges(3) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]


def test_operations() -> None:
    assert {"skip", "conv3x3"} <= set(OPS)
    assert all(op.kernel % 2 == 1 for op in OPS.values())
    assert [name for name, op in OPS.items() if op.identity] == ["skip"]
