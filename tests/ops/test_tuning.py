"""The table of choices by backend: every entry is one that the functions know, with its reason."""

import ast
from dataclasses import replace

import jax
import numpy as np
import pytest

from ssa_jax.ops import conv, spatial_conv, tuning
from tests.support import ROOT


@pytest.mark.parametrize("name", [*tuning.BY_BACKEND, "rocm"])
def test_every_choice_is_one_that_the_functions_know(name):
    choice = tuning.for_backend(name)
    assert choice.convolution in conv.IMPLEMENTATIONS
    assert choice.spatial_conv in spatial_conv.IMPLEMENTATIONS
    assert choice.unroll >= 1 and choice.matmul_side >= 1
    assert len(choice.measured) > 40


def test_a_backend_without_an_entry_gets_plain_jax():
    assert tuning.for_backend("rocm") is tuning.OTHERWISE
    assert tuning.OTHERWISE.spatial_conv == "scan" and tuning.OTHERWISE.convolution == "xla"


def test_none_means_the_table_for_the_backend_at_hand(monkeypatch):
    """What the table says is traced, for convolutions and for the spatial convolution."""
    x, kernel = np.ones((1, 8, 8, 32), np.float32), np.ones((3, 3, 32, 32), np.float32)
    kernels = {name: np.ones((3, 32, 32), np.float32) for name, _, _ in spatial_conv.PASSES}

    def programs(implementation=None, spatial=None):
        one = jax.make_jaxpr(lambda x: conv.convolution(x, kernel, implementation=implementation))
        two = jax.make_jaxpr(lambda x: spatial_conv.spatial_convolution(x, kernels, spatial))
        return str(one(x)), str(two(x))

    for implementation, spatial in (("xla", "unrolled"), ("matmul", "scan")):
        entry = replace(tuning.OTHERWISE, convolution=implementation, spatial_conv=spatial)
        monkeypatch.setitem(tuning.BY_BACKEND, jax.default_backend(), entry)
        assert programs() == programs(implementation, spatial)


def test_only_the_table_asks_for_the_backend():
    """No other file of the project calls `jax.default_backend`."""
    asking = []
    for folder in ("ssa_jax", "input_pipeline", "launch", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            if names & {"default_backend", "get_backend"}:
                asking.append(str(path.relative_to(ROOT)))
    assert asking == ["ssa_jax/ops/tuning.py"]
