"""Segment CT scans or pictures: `ssa-jax predict --workdir W --out DIR INPUT...`.

Scans are NIfTI files (state --intensity, as the format does not say what its values are), DICOM
files or folders of slices, a DICOMDIR, folders of all these at any depth, or zip archives; pictures
beside them are left out. For each scan, DIR gets NAME.nii.gz (the class of each voxel on the scan's
own grid: 0 background, 1 and 2 lesion classes), NAME.png to look at and a row of volumes.csv (mL).
Slices below and above the lungs are not looked at. What the network calls lesion and touches no
lung (gas in the stomach, say) is set to background, and its volume reported.

Pictures are 8-bit grey PNG or JPEG files, or folders of them (not their subfolders). For each input
DIR gets NAME.png, the class of each pixel on the input's own grid (nearly black to the eye:
multiply by 100 to see it, or load it with numpy.asarray(PIL.Image.open(file))), and
NAME_overlay.png, to look at. areas.csv sums them up. Every picture is read before the first is
predicted.

Of several workdirs, or of one of cross_validate with its folds, the mean of the networks'
probabilities counts. Slices are prepared as the workdir's own configuration says, with the lungs
that --lungs names. Each result is written when it is done. An input that cannot be used is left
out, errors.csv says why, and the exit status is 3. The same command goes on with what is missing.
"""

import argparse
import sys
from functools import partial

from input_pipeline.io.find import find_pictures, find_scans, holds_pictures
from launch import cli
from ssa_jax.experiment.batch import RunOptions
from ssa_jax.experiment.prediction import (
    PICTURES_TABLE,
    SCANS_TABLE,
    Wanted,
    predict_pictures,
    predict_scans,
)
from ssa_jax.experiment.segmentation import Reading
from ssa_jax.training.checkpoint import WHICH


def main(arguments: list[str]) -> None:
    """Read the flags and predict."""
    parser = cli.make_parser("predict", __doc__)
    parser.add_argument(
        "inputs", nargs="+", type=cli.local_path, help="scans or pictures, or folders of them"
    )
    cli.add_workdirs_flag(parser)
    parser.add_argument("--out", type=cli.local_path, required=True, help="folder to write")
    parser.add_argument(
        "--lungs",
        metavar="threshold|unet:WEIGHTS|DIR",
        help="how to find the lungs [threshold]: by intensity and shape, by the U-Net R231, or a "
        "folder with a lung mask per input: NAME.nii.gz (1 right, 2 left, or 1 for both) of a "
        "scan, NAME.png (0 and 1, or 255) of a picture",
    )
    parser.add_argument("--lung-dir", dest="lungs", help=argparse.SUPPRESS)  # its name before
    cli.add_reading_flags(parser)
    parser.add_argument("--which", choices=WHICH, default="best", help="which checkpoint [best]")
    cli.add_dtype_flag(parser)
    parser.add_argument("--no-pictures", action="store_true", help="write no overlays")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    cli.add_run_flags(parser)
    options = parser.parse_args(arguments)
    run = RunOptions(options.overwrite, options.shard)
    wanted = Wanted(
        options.which, options.lungs, not options.no_pictures, options.quiet, run, options.dtype
    )
    echo = partial(print, flush=True)
    kinds = {holds_pictures(path) for path in options.inputs}
    if len(kinds) > 1:
        raise ValueError("some inputs are pictures and some are scans; predict each kind alone")
    if kinds == {True}:
        paths = find_pictures(options.inputs)
        predict_pictures(options.workdirs, paths, options.out, wanted, echo=echo)
        table = PICTURES_TABLE
    else:
        reading = Reading(options.intensity, options.series, options.axes)
        scans = find_scans(options.inputs, series=options.series)
        predict_scans(options.workdirs, scans, options.out, reading, wanted, echo=echo)
        table = SCANS_TABLE
    print(f"{options.out}: the results are summed up in {options.out / f'{table}.csv'}")


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
