"""Pictures, read back as pixels: the right colour in the right panel at the right place."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ssa_jax.figures.curves import training_curves
from ssa_jax.figures.drawing import png_bytes
from ssa_jax.figures.overlays import SlicePicture, contact_sheet
from ssa_jax.training.metric_log import MetricWriter, read_metrics
from tests.support import ROOT

SIDE = 64
VERMILION, GREEN, BLUE = ("#f04e23", "#00c08b", "#3fa7f0")


def labels(row: int, column: int, value: int = 1) -> np.ndarray:
    """A quadrant of a square slice carries the label."""
    mask = np.zeros((2, SIDE // 2, 2, SIDE // 2), np.int32)
    mask[row, :, column] = value
    return mask.reshape(SIDE, SIDE)


def picture(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "image": np.zeros((SIDE, SIDE), np.uint8),
        "truth": labels(0, 0),
        "prediction": labels(0, 1),
        "attention": [np.eye(4)[:1].T @ np.eye(4)[3:]] * 4,  # all weight at the upper right
        "title": "slice 7",
    }
    return fields | changes


def sheet(path: Path, rows: list[SlicePicture], class_names: list[str]) -> None:
    path.write_bytes(png_bytes(contact_sheet(rows, class_names=class_names)))


def overlay(path: Path, *, class_names: list[str], **fields: Any) -> None:
    sheet(path, [SlicePicture(**fields)], class_names)


def curves(path: Path, log: Path) -> None:
    path.write_bytes(png_bytes(training_curves(read_metrics(log))))


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")) / 255


def quadrants(path: Path, panels: int, column: int) -> np.ndarray:
    """Mean colour `[2, 2, 3]` in the middle of the quadrants of a panel of a one-row figure."""
    pixels = read(path)
    width = pixels.shape[1] / panels
    dark = (
        pixels[:, int(0.75 * width)].mean(-1) < 0.2
    )  # the first panel's slice, black on the right
    rows = np.flatnonzero(dark)[-1] - width, np.flatnonzero(dark)[-1]
    found = np.zeros((2, 2, 3))
    for i, j in np.ndindex(2, 2):
        y = int(rows[0] + (0.25 + 0.5 * i) * (rows[1] - rows[0]))
        x = int((column + 0.25 + 0.5 * j) * width)
        found[i, j] = pixels[y - 5 : y + 6, x - 5 : x + 6].mean((0, 1))
    return found


def blend(color: str) -> np.ndarray:
    return 0.35 * np.array(to_rgb(color))


def test_truth_and_prediction_in_their_panels_and_places(tmp_path: Path) -> None:
    image = labels(1, 0, 204).astype(np.uint8)
    overlay(tmp_path / "a.png", **picture(image=image), class_names=["lesion"])
    slice_, truth, prediction = (quadrants(tmp_path / "a.png", 7, column) for column in (0, 1, 2))
    expected = np.zeros((2, 2, 3))
    expected[1, 0] = 0.8
    np.testing.assert_allclose(slice_, expected, atol=0.02)
    expected[0, 0] = blend(BLUE)
    np.testing.assert_allclose(truth, expected, atol=0.02)
    expected[0, 0], expected[0, 1] = 0, blend(VERMILION)
    np.testing.assert_allclose(prediction, expected, atol=0.02)


def test_two_classes_have_one_colour_each_in_both_panels(tmp_path: Path) -> None:
    both = labels(0, 0, 1) + labels(1, 1, 2)
    fields = picture(truth=both, prediction=both)
    overlay(tmp_path / "a.png", **fields, class_names=["GGO", "consolidation"])
    for column in (1, 2):
        found = quadrants(tmp_path / "a.png", 7, column)
        np.testing.assert_allclose(found[0, 0], blend(VERMILION), atol=0.02)
        np.testing.assert_allclose(found[1, 1], blend(GREEN), atol=0.02)
        np.testing.assert_allclose(found[0, 1], 0, atol=0.02)


def test_attention_is_placed_and_scaled_to_its_own_range(tmp_path: Path) -> None:
    weak = [
        scale * weights
        for scale, weights in zip((1, 1e-6, 1, 1), picture()["attention"], strict=True)
    ]
    overlay(tmp_path / "a.png", **picture(attention=weak), class_names=["lesion"])
    strong, faint = (quadrants(tmp_path / "a.png", 7, column).mean(-1) for column in (3, 4))
    assert strong.argmax() == 1
    assert strong[0, 1] > 0.1 > strong[1, 0]
    np.testing.assert_allclose(faint, strong, atol=0.02)


def test_attention_fills_the_panel_of_a_slice_that_is_not_square(tmp_path: Path) -> None:
    empty = np.zeros((96, SIDE), np.int32)
    fields = picture(image=empty.astype(np.uint8), truth=empty, prediction=empty)
    overlay(tmp_path / "a.png", **fields, class_names=["lesion"])
    pixels = read(tmp_path / "a.png")
    width = pixels.shape[1] / 7
    heights = [(pixels[:, int((column + 0.4) * width)].mean(-1) < 0.9).sum() for column in (0, 3)]
    assert heights[1] == pytest.approx(1.5 * width, rel=0.1)
    assert heights[1] == pytest.approx(heights[0], rel=0.02)


def test_without_truth_its_panel_is_left_out(tmp_path: Path) -> None:
    overlay(tmp_path / "with.png", **picture(), class_names=["lesion"])
    overlay(tmp_path / "without.png", **picture(truth=None), class_names=["lesion"])
    assert read(tmp_path / "without.png").shape[1] < 0.9 * read(tmp_path / "with.png").shape[1]
    found = quadrants(tmp_path / "without.png", 6, 1)
    np.testing.assert_allclose(found[0, 1], blend(VERMILION), atol=0.02)


def test_float_and_uint8_images_look_alike(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, SIDE)).astype(np.uint8)
    empty = np.zeros(image.shape, np.int32)
    fields = picture(truth=empty, prediction=empty)
    overlay(tmp_path / "a.png", **(fields | {"image": image}), class_names=["lesion"])
    overlay(tmp_path / "b.png", **(fields | {"image": image / 255}), class_names=["lesion"])
    np.testing.assert_array_equal(read(tmp_path / "a.png"), read(tmp_path / "b.png"))


def test_contact_sheet_stacks_rows_of_unequal_slices(tmp_path: Path) -> None:
    one = SlicePicture(**picture())
    tall = np.zeros((96, SIDE), np.int32)
    two = SlicePicture(**picture(image=tall.astype(np.uint8), truth=None, prediction=tall))
    sheet(tmp_path / "one.png", [one], ["lesion"])
    sheet(tmp_path / "two.png", [one, two], ["lesion"])
    first, second = read(tmp_path / "one.png"), read(tmp_path / "two.png")
    assert first.shape[1] == second.shape[1]
    panel = first.shape[1] / 7
    assert second.shape[0] - first.shape[0] == pytest.approx(1.5 * panel, rel=0.1)
    middle = int(second.shape[0] - panel)
    assert second[middle, int(panel / 2)].mean() < 0.1  # the second slice
    assert second[middle, int(1.5 * panel)].mean() > 0.9  # the place of its missing truth


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": np.zeros((SIDE, 9), int)}, r"slice 7: truth has shape \[64, 9\]"),
        ({"prediction": labels(0, 0, 2)}, "slice 7: prediction has labels 0 to 2, expected 0 to 1"),
        ({"image": np.full((SIDE, SIDE), 2.0)}, "slice 7: image spans 2 to 2"),
        ({"image": np.full((SIDE, SIDE), math.nan)}, "slice 7: image spans nan"),
        ({"image": np.zeros((SIDE, SIDE), np.int16)}, "slice 7: image is int16"),
        ({"image": np.zeros((SIDE, SIDE, 3))}, r"slice 7: image has shape \[64, 64, 3\]"),
        ({"attention": [np.full((2, 2), math.inf)]}, "slice 7: attention 1"),
    ],
)
def test_bad_input_is_named_and_leaves_no_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(tmp_path / "a.png", **picture(**changes), class_names=["lesion"])
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet_refuses_no_rows_and_unequal_maps(tmp_path: Path) -> None:
    rows = [SlicePicture(**picture()), SlicePicture(**picture(attention=[]))]
    for bad in ([], rows):
        with pytest.raises(ValueError, match="rows have"):
            sheet(tmp_path / "a.png", bad, ["lesion"])


@pytest.mark.parametrize("title", ["x$\\foo$", "M\udcfcller", "患者"])
def test_any_name_of_a_file_can_be_a_title(tmp_path: Path, title: str) -> None:
    """Formulas, bytes that are no characters, and characters that the font lacks."""
    sheet(tmp_path / "a.png", [SlicePicture(**picture(title=title))], ["lesion"])
    sheet(tmp_path / "b.png", [SlicePicture(**picture(title=""))], ["lesion"])
    titled, plain = (read(tmp_path / name) for name in ("a.png", "b.png"))
    assert titled.shape == plain.shape and (titled != plain).any()


def has(pixels: np.ndarray, color: str) -> np.ndarray:
    """Where a panel shows this colour, about."""
    return np.abs(pixels - to_rgb(color)).max(-1) < 0.05


def test_curves_go_to_their_panels_and_heights(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        for step in range(1, 300):
            writer.write(step, {"train/loss": 1 / step, "learning_rate": 1e-3, "speed": 5.0})
            if step % 100 == 0:
                writer.write(step, {"train/dsc": 0.75, "validation/dsc": 0.25})
        writer.write(300, {"validation/dsc": math.nan})
    curves(tmp_path / "curves.png", tmp_path / "metrics.csv")
    panels = np.array_split(read(tmp_path / "curves.png"), 3, axis=1)
    first, second = "#0072b2", "#d55e00"
    assert [bool(has(panel, first).any()) for panel in panels] == [True, True, True]
    assert [bool(has(panel, second).any()) for panel in panels] == [False, True, False]
    dsc = panels[1]
    heights = [np.bincount(np.nonzero(has(dsc, color))[0]).argmax() for color in (first, second)]
    gray = (np.ptp(dsc, axis=-1) < 0.03) & (dsc.max(-1) < 0.8)
    axis = np.nonzero(gray.mean(1) > 0.5)[0].max()  # DSC 0
    assert (axis - heights[0]) / (axis - heights[1]) == pytest.approx(3, rel=0.05)


def test_curves_of_one_step_alone(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"train/loss": 0.5})
    curves(tmp_path / "curves.png", tmp_path / "metrics.csv")
    assert has(read(tmp_path / "curves.png"), "#0072b2").sum() > 20


def test_curves_without_anything_to_draw(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"speed": 0.5})
    with pytest.raises(
        ValueError, match=r"metrics are \['speed'\], expected a loss, dsc or learning_rate"
    ):
        curves(tmp_path / "curves.png", tmp_path / "metrics.csv")
    with pytest.raises(FileNotFoundError, match="absent"):
        curves(tmp_path / "curves.png", tmp_path / "absent.csv")
    assert not (tmp_path / "curves.png").exists()


def test_pyplot_stays_out() -> None:
    program = (
        "import sys; from ssa_jax.figures import curves, differences, overlays, rounds_report; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
