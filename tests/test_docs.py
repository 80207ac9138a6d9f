"""The documentation's examples run and give what their comments say; the README stays short."""

import ast
import doctest
import importlib
import pkgutil
import re

import nibabel as nib
import numpy as np
import pytest

import ssa_jax
from tests.support import ROOT
from tests.support.phantom_chest import SPACING, chest

AFFINE = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
MODULES = [
    info.name for info in pkgutil.walk_packages(ssa_jax.__path__, "ssa_jax.") if not info.ispkg
]


def blocks(path):
    """Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def expectations(block):
    """(expression, value) of the lines `expression  # value` whose comment is a Python value."""
    for line in block.splitlines():
        expression, mark, comment = line.partition("  # ")
        if mark:
            try:
                yield ast.unparse(ast.parse(expression, mode="eval")), ast.literal_eval(comment)
            except (SyntaxError, ValueError):
                continue


@pytest.fixture
def folder(tmp_path, monkeypatch, small_workdir):
    """What the page says is there: a network, a scan and its truth."""
    phantom = chest()
    for name, voxels in (("scan", phantom.voxels), ("truth", phantom.dense.astype(np.uint8))):
        nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), AFFINE), tmp_path / f"{name}.nii.gz")
    (tmp_path / "W").symlink_to(small_workdir)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page):
    """Run the blocks of a page, and compare; returns how many values were compared."""
    namespace, checked = {}, 0
    for block in blocks(page):
        exec(block, namespace)
        for expression, expected in expectations(block):
            assert eval(expression, namespace) == expected, expression
            checked += 1
    return checked


def test_the_examples_of_the_page_on_the_spatial_convolution_run():
    assert run(ROOT / "docs/spatial_convolution.md") == 1


@pytest.mark.slow
def test_the_examples_of_the_python_page_run(folder):
    assert run(ROOT / "docs/python_api.md") >= 8
    assert (folder / "mask.nii.gz").exists()


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_some_docstrings_have_examples():
    finder = doctest.DocTestFinder()
    with_examples = [
        name
        for name in MODULES
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]
    assert {"ssa_jax.ops.spatial_conv", "ssa_jax.models.ssa_net"} <= set(with_examples)


def test_the_readme_is_a_front_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_file_that_the_documentation_names_is_there():
    """Paths of the project in back quotes, in README and docs."""
    folders = "ssa_jax|input_pipeline|configs|launch|tests|docs"
    missing = []
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(rf"`((?:{folders})/[\w/.]*\w)(?:[:`])", text):
            if "NAME" not in path and not (ROOT / path).exists():
                missing.append(f"{page.name}: {path}")
    assert missing == []
