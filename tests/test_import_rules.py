"""Imports go one way, wing by wing, and every wing is named here (docs/design.md)."""

import ast

import pytest

from tests.support import ROOT

PACKAGES = ("configs", "input_pipeline", "launch", "ssa_jax", "tests")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
S = "ssa_jax"
SHARED = ("launch.cli", "launch.configuration")  # by all commands

# What a wing may import of the project. The longest name that a module begins with counts.
ALLOWED = {
    "configs": {"configs"},
    "input_pipeline": {"input_pipeline"},
    "ssa_jax": {"ssa_jax"},  # the front door alone: ssa_jax/__init__.py
    "ssa_jax.ops": {f"{S}.ops"},
    "ssa_jax.models": {f"{S}.models", f"{S}.ops"},
    "ssa_jax.training": {f"{S}.training", f"{S}.models", f"{S}.ops"},
    "ssa_jax.evaluation": {f"{S}.evaluation", f"{S}.training", f"{S}.models", f"{S}.ops"},
    "ssa_jax.semi_supervised": {f"{S}.semi_supervised", f"{S}.evaluation"},
    "ssa_jax.figures": {f"{S}.figures", f"{S}.evaluation"},
    "ssa_jax.experiment": {"ssa_jax", "input_pipeline", "configs"},
    "launch": {*SHARED, "ssa_jax", "input_pipeline", "configs"},
    "launch.benchmark": {"launch.benchmark", *SHARED, "ssa_jax", "input_pipeline", "configs"},
    "tests": set(PACKAGES),
}
# What it must not import from elsewhere.
OUTSIDE = {"tensorflow_datasets", "grain", "absl", "argparse", "ml_collections"}
FORBIDDEN = {
    "configs": {"jax", "flax", "optax", "numpy", "absl", "tensorflow_datasets", "grain"},
    "input_pipeline": {"jax", "jaxlib", "flax", "optax", "orbax", "clu", "absl", "ml_collections"}
    | {"argparse", "matplotlib"},
    "ssa_jax": OUTSIDE | {"jax", "numpy", "flax", "matplotlib"},  # so that its import is quick
    **{
        f"{S}.{wing}": OUTSIDE | {"matplotlib", "tqdm"}
        for wing in ("ops", "models", "training", "evaluation", "semi_supervised")
    },
    "ssa_jax.figures": OUTSIDE | {"jax", "flax", "optax", "orbax"},
    "ssa_jax.experiment": {"absl", "argparse", "grain", "tensorflow_datasets", "matplotlib"},
    "launch": {"tensorflow_datasets", "grain", "flax", "optax", "orbax", "matplotlib"},
    "launch.benchmark": {"tensorflow_datasets", "grain"},
    "tests": set[str](),
}
NOWHERE = {"tensorflow", "tf_keras", "keras"}


def module_of(path):
    """Dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wing_of(module):
    """The wing that a module belongs to."""
    return max((wing for wing in ALLOWED if within(module, {wing})), key=len)


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


def violations(source, wing):
    """Imports of a file that its wing must not have."""
    names = imported(source, wing)
    ours = {name for name in names if within(name, PACKAGES)}
    back = {name for name in ours if not within(name, ALLOWED[wing])}
    return sorted(back | {name for name in names if within(name, FORBIDDEN[wing] | NOWHERE)})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    wing = wing_of(module_of(path))
    assert violations(path.read_text(encoding="utf-8"), wing) == []


def test_every_wing_has_a_rule():
    folders = {p.parent for p in FILES if p.relative_to(ROOT).parts[0] in ("ssa_jax", "launch")}
    assert {module_of(folder / "__init__.py") for folder in folders} == {
        wing for wing in ALLOWED if wing.partition(".")[0] in ("ssa_jax", "launch")
    }


PLANTED = {  # a violation in each wing
    "configs": ("from ssa_jax.models import ssa_net", "ssa_jax.models.ssa_net"),
    "input_pipeline": (
        "from ssa_jax.models.ssa_net import SSANet",
        "ssa_jax.models.ssa_net.SSANet",
    ),
    "ssa_jax": ("import numpy as np", "numpy"),
    "ssa_jax.ops": ("from ssa_jax.models import layers", "ssa_jax.models.layers"),
    "ssa_jax.models": ("from ssa_jax.training import losses", "ssa_jax.training.losses"),
    "ssa_jax.training": ("def f():\n    import input_pipeline.files", "input_pipeline.files"),
    "ssa_jax.evaluation": ("from ssa_jax import experiment", "ssa_jax.experiment"),
    "ssa_jax.semi_supervised": ("import grain.python as g", "grain.python"),
    "ssa_jax.figures": (
        "from input_pipeline.files import write_json",
        "input_pipeline.files.write_json",
    ),
    "ssa_jax.experiment": ("from launch import cli", "launch.cli"),
    "launch": ("from launch.train import main", "launch.train.main"),
    "launch.benchmark": ("from launch import train", "launch.train"),
    "tests": ("import tensorflow as tf", "tensorflow"),
}


@pytest.mark.parametrize("wing", ALLOWED)
def test_a_planted_violation_is_seen(wing):
    line, found = PLANTED[wing]
    assert violations(line, wing) == [found]


@pytest.mark.parametrize(
    ("wing", "line"),
    [
        ("launch", "from launch import cli"),
        ("launch.benchmark", "from launch.benchmark import timing"),
        ("ssa_jax.experiment", "from input_pipeline.files import write_json"),
        ("ssa_jax.training", "from ssa_jax.models.ssa_net import SSANet"),
        ("input_pipeline", "import tensorflow_datasets as tfds"),
    ],
)
def test_what_is_allowed_passes(wing, line):
    assert violations(line, wing) == []


def test_no_module_for_everything():
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc")]
