"""Imports go one way: launch -> {configs, input_pipeline, ssa_jax}, and never back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("configs", "input_pipeline", "launch", "ssa_jax", "tests")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]

# What a room may import of the project, and what it must not import from elsewhere.
ALLOWED = {
    "configs": {"configs"},
    "input_pipeline": {"input_pipeline", "ssa_jax.batch"},
    "ssa_jax": {"ssa_jax"},
    "launch": {"launch", "configs", "input_pipeline", "ssa_jax"},
    "tests": set(ROOMS),
}
FORBIDDEN = {
    "configs": {"jax", "flax", "optax", "numpy", "absl", "tensorflow_datasets", "grain"},
    "input_pipeline": {"jax", "jaxlib", "flax", "optax", "orbax", "clu", "absl", "ml_collections"},
    "ssa_jax": {"tensorflow_datasets", "grain", "absl", "argparse", "ml_collections"},
    "launch": set[str](),
    "tests": set[str](),
}
NOWHERE = {"tensorflow", "tf_keras", "keras"}


def imported(source, package):
    """Full dotted names that a file imports, also inside functions; `from a import b` is a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def within(name, modules):
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def violations(source, room):
    """Imports of a file that its room must not have."""
    names = imported(source, room)
    ours = {name for name in names if within(name, ROOMS)}
    back = {name for name in ours if not within(name, ALLOWED[room])}
    return sorted(back | {name for name in names if within(name, FORBIDDEN[room] | NOWHERE)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    assert violations(path.read_text(encoding="utf-8"), room) == []


@pytest.mark.parametrize(
    ("room", "line", "found"),
    [
        ("ssa_jax", "from launch import setup", ["launch.setup"]),
        ("ssa_jax", "def f():\n    import input_pipeline.loader", ["input_pipeline.loader"]),
        ("ssa_jax", "import grain.python as g", ["grain.python"]),
        ("input_pipeline", "import jax.numpy as jnp", ["jax.numpy"]),
        ("input_pipeline", "from ssa_jax.model import SSANet", ["ssa_jax.model.SSANet"]),
        ("input_pipeline", "from ssa_jax.batch import check", []),
        ("input_pipeline", "from ssa_jax import batch", []),
        ("configs", "from ssa_jax import model", ["ssa_jax.model"]),
        ("launch", "import tensorflow as tf", ["tensorflow"]),
        ("launch", "import tensorflow_datasets as tfds", []),
        ("launch", "from tests import golden_numbers", ["tests.golden_numbers"]),
    ],
)
def test_the_walk_sees_what_it_should(room, line, found):
    assert violations(line, room) == found


def test_no_drawer_for_everything():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc")]
