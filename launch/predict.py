"""Segment pictures of CT slices: `python -m launch.predict --workdir W --out DIR INPUT...`.

Inputs are 8-bit PNG or JPEG files, or folders of them (not their subfolders). For each input
DIR gets NAME.png, the label of each pixel on the input's own grid (0 background, 1 and 2 the
classes; nearly black to the eye), and NAME_overlay.png, to look at; areas.csv sums them up.
Slices are prepared as the workdir's own configuration says.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import Preprocessing, Slice, from_grid, lung_of, prepare
from input_pipeline.readers import SUFFIXES, read_image, read_mask
from launch import command, setup
from launch.evaluate import picture
from launch.pictures import contact_sheet
from launch.writer import progress, replacing, write_table
from ssa_jax.checkpoint import WHICH
from ssa_jax.evaluate import SlicePrediction, predict_slices
from ssa_jax.inference import make_predict


def main(arguments: list[str]) -> None:
    """Read the options and predict."""
    parser = argparse.ArgumentParser(prog="launch.predict", description=__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, help="pictures, or folders of them")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained network")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--lung-dir", type=Path, help="folder with a lung mask NAME.png per input")
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint")
    parser.add_argument("--no-pictures", action="store_true", help="write no overlays")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    config = setup.load_config(options.workdir)
    preprocessing = setup.preprocessing(config)
    if preprocessing.intensity == "hu":
        raise ValueError(
            f"{options.workdir}: this network reads Hounsfield units, which 8-bit pictures do not "
            "have. Use a network trained on 8-bit slices."
        )
    if (preprocessing.lung_mask == "file") != (options.lung_dir is not None):
        raise ValueError(
            f"{options.workdir}: this network was trained with data.lung_mask="
            f"{preprocessing.lung_mask!r}; --lung-dir goes with 'file', and only with it."
        )
    paths = find_inputs(options.inputs)
    for path in paths:  # every input is read before anything is written
        prepare(read_slice(path, options.lung_dir), preprocessing)
    rows = []
    with progress(len(paths), quiet=options.quiet) as bar:
        for prediction in predictions(config, options, paths):
            rows.append(areas(prediction, preprocessing, setup.class_names(config)))
            write(prediction, config, options.out, pictures=not options.no_pictures)
            bar.update()
    write_table(options.out / "areas.csv", rows)
    print(f"{len(paths)} slices: {options.out}, summed up in {options.out / 'areas.csv'}")


def find_inputs(inputs: Sequence[Path]) -> list[Path]:
    """The pictures that files and folders name, sorted within a folder.

    Raises:
      FileNotFoundError: an input does not exist.
      ValueError: a folder without pictures, or two pictures of one name.
    """
    paths: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            found = sorted(p for p in entry.iterdir() if p.suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"{entry}: no picture in this folder; expected {SUFFIXES}")
            paths += found
        elif entry.exists():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry}: no such file or folder")
    first: dict[str, Path] = {}
    for path in paths:
        if path.stem in first:
            raise ValueError(
                f"{first[path.stem]} and {path} would both become {path.stem}.png; "
                "predict them into different --out folders"
            )
        first[path.stem] = path
    return paths


def read_slice(path: Path, lung_dir: Path | None) -> Slice:
    """A picture, and its lung mask where there is a folder of them, as a slice."""
    lung = None if lung_dir is None else read_mask(lung_dir / f"{path.stem}.png", labels=(0, 1))
    return Slice(read_image(path), None, lung, id=path.stem, patient=path.stem, spacing=None)


def predictions(
    config: ConfigDict, options: argparse.Namespace, paths: Sequence[Path]
) -> Iterator[SlicePrediction]:
    """Predict the pictures in order, a batch in memory at a time."""
    variables, _ = setup.trained_variables(config, options.workdir, options.which)
    predict = make_predict(setup.build_model(config), flip=config.eval.flip)
    size = config.eval.batch_size
    for start in range(0, len(paths), size):
        slices = [read_slice(path, options.lung_dir) for path in paths[start : start + size]]
        batches = eval_batches(slices, setup.preprocessing(config), batch_size=size)
        yield from predict_slices(predict, variables, batches, from_grid)


def areas(
    prediction: SlicePrediction, preprocessing: Preprocessing, names: Sequence[str]
) -> dict[str, Any]:
    """How much of a slice, and of the lung mask's pixels, each class covers."""
    item = prediction.slice
    lung = lung_of(item, preprocessing)
    row: dict[str, Any] = {
        "slice": item.id,
        "height": item.image.shape[0],
        "width": item.image.shape[1],
        "lung_pixels": None if lung is None else int(lung.sum()),
    }
    for index, name in enumerate(names, start=1):
        chosen = prediction.labels == index
        row[f"{name}_pixels"] = int(chosen.sum())
        row[f"{name}_share_of_slice"] = float(chosen.mean())
        if lung is not None:
            inside = int((chosen & (lung > 0)).sum())
            row[f"{name}_share_of_lung"] = inside / int(lung.sum()) if lung.any() else None
    return row


def write(prediction: SlicePrediction, config: ConfigDict, out: Path, *, pictures: bool) -> None:
    """The label mask and, where wanted, the overlay."""
    name = prediction.slice.id
    with replacing(out / f"{name}.png") as path:
        Image.fromarray(np.ascontiguousarray(prediction.labels)).save(path)
    if pictures:
        row = picture(prediction, name, setup.intensity(config))
        contact_sheet(out / f"{name}_overlay.png", [row], class_names=setup.class_names(config))


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
