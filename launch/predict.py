"""Segment CT scans or pictures: `python -m launch.predict --workdir W --out DIR INPUT...`.

Scans are NIfTI files (state --intensity, as the format does not say what its values are), DICOM
files or folders of slices, or folders of NIfTI files; for each, DIR gets NAME.nii.gz on the scan's
own grid, NAME.png to look at and a row of volumes.csv (mL). See launch/predict_scans.py.

Pictures are 8-bit grey PNG or JPEG files, or folders of them (not their subfolders). For each input
DIR gets NAME.png, the class of each pixel on the input's own grid (0 background, 1 and 2 lesion
classes: nearly black to the eye, so multiply by 100 to see them or load it with
numpy.asarray(PIL.Image.open(file))), and NAME_overlay.png, to look at. areas.csv sums them up.
Every picture is read before the first is predicted.

Slices are prepared as the workdir's own configuration says. DIR, which must be new or empty, is
filled at the end: all or nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from input_pipeline.lazy import LazySequence
from input_pipeline.loader import eval_batches
from input_pipeline.preprocess import Preprocessing, Slice, from_grid, lung_of, normalize
from input_pipeline.readers import SUFFIXES, read_image, read_mask
from input_pipeline.scan_slices import WINDOWED
from launch import command, setup
from launch.evaluate import picture
from launch.lung_masks import find_scans
from launch.pictures import contact_sheet
from launch.predict_scans import TABLE as SCAN_TABLE
from launch.predict_scans import Reading, predict_scans
from launch.writer import filling, is_filled, progress, replacing, write_table
from ssa_jax.checkpoint import WHICH
from ssa_jax.evaluate import SlicePrediction, predict_slices
from ssa_jax.inference import make_predict

TABLE = "areas.csv"


class Pictures(LazySequence[Slice]):
    """Pictures as slices, read at each access and given the lung mask that the network sees."""

    def __init__(
        self, paths: Sequence[Path], preprocessing: Preprocessing, lung_dir: Path | None
    ) -> None:
        self._paths = paths
        self._preprocessing = preprocessing
        self._lung_dir = lung_dir

    def __len__(self) -> int:
        return len(self._paths)

    def _item(self, index: int) -> Slice:
        item = self._read(self._paths[index])
        return replace(item, lung=lung_of(item, self._preprocessing))

    @property
    def prepared_by(self) -> Preprocessing:
        """How these slices become network input, their lung mask being computed already."""
        if self._preprocessing.lung_mask == "none":
            return self._preprocessing
        return replace(self._preprocessing, lung_mask="file", lung_dilation=0)

    def check(self) -> None:
        """Read every file once.

        Raises:
          ValueError: one cannot be used; the message names it.
          OSError: one cannot be opened.
        """
        for path in self._paths:
            item = self._read(path)
            try:
                normalize(item.image, self._preprocessing.intensity)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error

    def _read(self, path: Path) -> Slice:
        image = read_image(path)
        lung = None
        if self._lung_dir is not None:
            mask_path = self._lung_dir / f"{path.stem}.png"
            if not mask_path.exists():
                raise FileNotFoundError(
                    f"{mask_path}: not found; --lung-dir must hold a lung mask of that name for "
                    f"{path}"
                )
            lung = read_mask(mask_path, labels=(0, 1))
            if lung.shape != image.shape:
                raise ValueError(
                    f"{mask_path}: has {_size(lung)} pixels and {path} {_size(image)}; both must "
                    "have the same size"
                )
        return Slice(image, None, lung, id=str(path), patient=str(path), spacing=None)


def main(arguments: list[str]) -> None:
    """Read the options and predict."""
    parser = argparse.ArgumentParser(prog="launch.predict", description=__doc__)
    parser.add_argument(
        "inputs", nargs="+", type=Path, help="scans or pictures, or folders of them"
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a trained network")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, new or empty")
    parser.add_argument(
        "--lung-dir",
        type=Path,
        help="folder with a lung mask per input: NAME.nii.gz (1 right, 2 left, or 1 for both) of a "
        "scan, NAME.png (0 and 1, or 255) of a picture",
    )
    parser.add_argument(
        "--intensity",
        choices=("hu", WINDOWED),
        help="what NIfTI files hold: Hounsfield units, or 0..255 of the window -1250..250 HU",
    )
    parser.add_argument("--series", help="which series of a DICOM folder that holds several")
    parser.add_argument("--axes", help="of NIfTI files without orientation, for instance LPS")
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint [best]")
    parser.add_argument("--no-pictures", action="store_true", help="write no overlays")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    shared = {
        "which": options.which,
        "pictures": not options.no_pictures,
        "quiet": options.quiet,
    }
    if all(_holds_pictures(path) for path in options.inputs):
        paths = find_inputs(options.inputs)
        predict(options.workdir, paths, options.out, lung_dir=options.lung_dir, **shared)
        table = TABLE
    elif any(_holds_pictures(path) for path in options.inputs):
        raise ValueError("some inputs are pictures and some are scans; predict each kind alone")
    else:
        reading = Reading(options.intensity, options.series, options.axes, options.lung_dir)
        scans = find_scans(options.inputs)
        predict_scans(options.workdir, scans, options.out, reading, **shared)
        table = SCAN_TABLE
    print(f"{options.out}: the results are summed up in {options.out / table}")


def find_inputs(inputs: Sequence[Path]) -> list[Path]:
    """The pictures that files and folders name, sorted within a folder.

    Raises:
      FileNotFoundError: an input does not exist.
      ValueError: a folder without pictures, or two inputs whose results would have one name.
    """
    paths: list[Path] = []
    for entry in inputs:
        if entry.is_dir():
            found = sorted(p for p in entry.iterdir() if _is_picture(p))
            if not found:
                raise ValueError(f"{entry}: no picture in this folder; expected {SUFFIXES}")
            paths += found
        elif entry.exists():
            paths.append(entry)
        else:
            raise FileNotFoundError(f"{entry}: no such file or folder")
    first: dict[str, Path] = {}
    for path in paths:
        for name in _output_names(path):
            if name in first:
                raise ValueError(
                    f"{first[name]} and {path} would both become {name}; rename one, or predict "
                    "them into different --out folders"
                )
            first[name] = path
    return paths


def predict(
    workdir: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    lung_dir: Path | None,
    which: str,
    pictures: bool,
    quiet: bool,
) -> None:
    """Predict pictures with the network of a workdir; fill `out`, all or nothing.

    Raises:
      ValueError: an input that cannot be used, or a network that does not read such inputs.
      FileExistsError: `out` holds something.
      OSError: a file cannot be read, or the disk refuses.
    """
    config = setup.load_config(workdir)
    preprocessing = setup.preprocessing(config)
    _check_network(workdir, preprocessing, lung_dir)
    if is_filled(out):
        raise FileExistsError(f"{out}: is not empty; name a new folder as --out or clear it")
    slices = Pictures(paths, preprocessing, lung_dir)
    slices.check()
    variables, _ = setup.trained_variables(config, workdir, which)
    network = make_predict(setup.build_model(config), flip=config.eval.flip)(variables)
    size = min(config.eval.batch_size, len(slices))
    batches = eval_batches(slices, slices.prepared_by, batch_size=size)
    rows = []
    with filling(out) as folder, progress(len(slices), quiet=quiet) as bar:
        for prediction in predict_slices(network, batches, from_grid):
            rows.append(areas(prediction, setup.class_names(config)))
            _write(prediction, config, folder, pictures=pictures)
            bar.update()
        write_table(folder / TABLE, rows)


def areas(prediction: SlicePrediction, names: Sequence[str]) -> dict[str, Any]:
    """How much of a slice, and of its lung mask, each class covers, and how probable it is there.

    A class's share of the lung counts its pixels inside the lung mask alone; it is None where
    there is no lung. Its mean probability is None where it has no pixel.
    """
    item = prediction.slice
    inside = None if item.lung is None else item.lung > 0
    row: dict[str, Any] = {
        "file": item.id,
        "height": item.image.shape[0],
        "width": item.image.shape[1],
        "lung_pixels": None if inside is None else int(inside.sum()),
    }
    for index, name in enumerate(names, start=1):
        chosen = prediction.labels == index
        row[f"{name}_pixels"] = int(chosen.sum())
        row[f"{name}_share_of_slice"] = float(chosen.mean())
        row[f"{name}_share_of_lung"] = _mean(chosen, inside)
        row[f"{name}_mean_probability"] = _mean(prediction.prob[..., index], chosen)
    return row


def _check_network(workdir: Path, preprocessing: Preprocessing, lung_dir: Path | None) -> None:
    """Stop where the network was not trained on slices like the inputs."""
    if preprocessing.intensity == "hu":
        raise ValueError(
            f"{workdir}: this network reads Hounsfield units, which 8-bit pictures do not have. "
            "Use a network that was trained on 8-bit slices, or predict the scan itself."
        )
    if preprocessing.lung_mask == "file" and lung_dir is None:
        raise ValueError(
            f"{workdir}: this network needs a lung mask for each slice (data.lung_mask='file'); "
            "name the folder that holds them as --lung-dir."
        )
    if preprocessing.lung_mask != "file" and lung_dir is not None:
        raise ValueError(
            f"{workdir}: this network takes no lung masks from files (data.lung_mask="
            f"{preprocessing.lung_mask!r}); leave --lung-dir out."
        )


def _holds_pictures(path: Path) -> bool:
    """Whether an input is a picture or a folder of pictures; anything else counts as a scan."""
    if path.is_dir():
        names = [entry.name.lower() for entry in path.iterdir() if entry.is_file()]
        return any(name.endswith(SUFFIXES) for name in names) or not names
    return path.suffix.lower() in SUFFIXES


def _is_picture(path: Path) -> bool:
    """Whether a folder's entry is an input; hidden files are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _output_names(path: Path) -> tuple[str, str]:
    """Names of an input's label mask and overlay."""
    return f"{path.stem}.png", f"{path.stem}_overlay.png"


def _write(prediction: SlicePrediction, config: ConfigDict, out: Path, *, pictures: bool) -> None:
    """The label mask and, where wanted, the overlay."""
    source = Path(prediction.slice.id)
    mask, overlay = (out / name for name in _output_names(source))
    with replacing(mask) as temporary:
        Image.fromarray(np.ascontiguousarray(prediction.labels)).save(temporary)
    if pictures:
        row = picture(prediction, source.name, setup.intensity(config))
        contact_sheet(overlay, [row], class_names=setup.class_names(config))


def _mean(values: np.ndarray, where: np.ndarray | None) -> float | None:
    """Mean of `values` over the pixels of a mask, None where there are none."""
    return float(values[where].mean()) if where is not None and where.any() else None


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
