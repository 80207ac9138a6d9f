"""Temperature: the most likely one is found, and confidence becomes accuracy."""

import numpy as np
import pytest

from ssa_jax.figures.reliability import reliability_diagram
from ssa_jax.semi_supervised.calibration import fit_temperature, reliability, suspected, tempered


def overconfident(temperature: float, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truths drawn from softmax(z), and probabilities softmax(z * temperature)."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((200, 300, classes))
    true = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mask = (rng.random((200, 300, 1)) > np.cumsum(true, -1)).sum(-1)
    sharp = np.exp(logits * temperature)
    return (sharp / sharp.sum(-1, keepdims=True)).astype(np.float32), mask.astype(np.uint8)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_of_made_probabilities_is_found(classes, temperature):
    made = overconfident(temperature, classes)
    assert fit_temperature([made]) == pytest.approx(temperature, rel=0.03)


def test_reliability_before_and_after():
    made = overconfident(2.5, 3)
    before, after = reliability([made]), reliability([made], 2.5)
    assert before.error > 0.1 and after.error < 0.01
    assert before.pixels.sum() == after.pixels.sum() == suspected(made[0]).sum()
    filled = after.pixels > 500
    np.testing.assert_allclose(after.confidence[filled], after.accuracy[filled], atol=0.05)


def test_the_diagram_shows_what_was_measured():
    found = reliability([overconfident(2.5, 3)])
    accuracy, share = reliability_diagram({"before": found}).axes
    drawn = accuracy.lines[1]
    np.testing.assert_array_equal(drawn.get_xdata(), found.confidence)
    np.testing.assert_array_equal(drawn.get_ydata(), found.accuracy)
    assert drawn.get_label() == f"before, error {found.error:.3f}"
    assert share.lines[0].get_ydata().sum() == pytest.approx(1)


def test_tempering_divides_the_log_odds_and_keeps_the_order():
    prob = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    made = tempered(prob, 2.0)
    odds = np.log(made[:, 1] / made[:, 0])
    np.testing.assert_allclose(odds, np.log([0.1 / 0.9, 0.8 / 0.2]) / 2, rtol=1e-5)
    np.testing.assert_allclose(made.sum(-1), 1, atol=1e-6)
    assert tempered(prob, 1.0) is prob


def test_certain_probabilities_stay_finite():
    made = tempered(np.array([[1.0, 0.0]], np.float32), 4.0)
    assert np.isfinite(made).all() and made[0, 0] > 0.98


def test_sure_background_tells_nothing():
    prob = np.zeros((4, 4, 2), np.float32)
    prob[..., 0] = 1
    assert fit_temperature([(prob, np.zeros((4, 4), np.uint8))]) == 1.0
    assert reliability([(prob, np.zeros((4, 4), np.uint8))]).error == 0
