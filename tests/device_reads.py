"""Refuses to read values from tensors: on a GPU, each read makes the program wait until the device has caught up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class _Refuse(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            pytest.fail(f"values were read: {func}")
        return func(*args, **(kwargs or {}))


def _refused(self: Tensor) -> None:
    pytest.fail("a list of values was read")


@contextmanager
def no_reads() -> Iterator[None]:
    """Reading values fails the test."""
    with mock.patch.object(Tensor, "tolist", _refused, create=True), _Refuse():  # type: ignore[no-untyped-call]
        yield
