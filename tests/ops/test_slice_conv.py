"""Forms of a message against the sum that defines it, and where each is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssa_jax.ops.slice_conv import (
    Direct,
    Winograd1D,
    Winograd2D,
    convolve_slice,
    fewest_multiplications,
    kernel_gradient,
    slice_gradient,
)
from ssa_jax.ops.spatial_conv import PASSES, spatial_convolution

CHANNELS = 3
FORMS = [
    (Direct(3), 3, 5),
    (Direct(7), 7, 4),
    (Winograd1D(3), 3, 2),
    (Winograd1D(3), 3, 6),
    (Winograd1D(9), 9, 6),
    (Winograd1D(9), 9, 16),
    (Winograd1D(15), 15, 8),
    (Winograd2D(), 7, 4),
]


def by_definition(row, kernel):
    """Position p hears from position q by tap q - p + k // 2."""
    size, positions = len(kernel), row.shape[1]
    made = np.zeros(row.shape)
    for p in range(positions):
        for q in range(positions):
            tap = q - p + size // 2
            if 0 <= tap < size:
                made[:, p] += row[:, q] @ kernel[tap]
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("form", "size", "positions"), FORMS, ids=str)
def test_value_and_gradients_in_float64(form, size, positions):
    rng = np.random.default_rng(size * positions)
    rows, gradients = rng.standard_normal((2, 3, 2, positions, CHANNELS))  # [L, B, P, C] each
    kernel = rng.standard_normal((size, CHANNELS, CHANNELS))
    with jax.enable_x64(True):
        matrices = form.matrices(jnp.asarray(kernel))
        y = convolve_slice(form, jnp.asarray(rows[0]), matrices)
        turned = jnp.asarray(gradients[0].transpose(2, 1, 0))
        dx = slice_gradient(form, turned, matrices).transpose(2, 1, 0)
        dkernel = kernel_gradient(
            form, jnp.asarray(rows), jnp.asarray(gradients.transpose(0, 3, 2, 1))
        )
    np.testing.assert_allclose(y, by_definition(rows[0], kernel), atol=1e-12)
    # A gradient gives <gradient, what a unit of the slice, or of the kernel, makes>.
    units = np.eye(rows[0].size).reshape(-1, *rows[0].shape)
    expected = [np.vdot(gradients[0], by_definition(unit, kernel)) for unit in units]
    np.testing.assert_allclose(dx.ravel(), expected, atol=1e-12)
    units = np.eye(kernel.size).reshape(-1, *kernel.shape)
    expected = [
        sum(np.vdot(g, by_definition(row, unit)) for row, g in zip(rows, gradients, strict=True))
        for unit in units
    ]
    np.testing.assert_allclose(dkernel.ravel(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "positions", "form"),
    [
        (9, 8, Winograd1D(9)),
        (3, 2, Winograd1D(3)),
        (7, 4, Winograd2D()),
        (9, 11, Direct(9)),
        (5, 8, Direct(5)),
    ],
)
def test_the_form_of_fewest_multiplications(size, positions, form):
    assert fewest_multiplications(size, positions) == form


@pytest.mark.parametrize(
    ("batch", "dtype", "points"),
    [(2, "float32", 4), (1, "float32", 1), (2, "bfloat16", 1)],  # of 8 positions each
)
def test_filtered_only_where_it_pays(batch, dtype, points):
    x = jnp.ones((batch, 8, 8, 2), dtype)
    kernels = {name: jnp.ones((9, 2, 2), dtype) for name, _, _ in PASSES}
    program = str(jax.make_jaxpr(lambda x, k: spatial_convolution(x, k, "filtered"))(x, kernels))
    assert program.count("dot_general[") == points * len(PASSES)
