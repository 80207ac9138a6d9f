"""Find the lungs in CT scans: `ssa-jax lung_masks --out DIR INPUT...`.

Inputs are NIfTI files (state --intensity, as the format does not say what its values are), DICOM
files or folders of slices, a DICOMDIR, folders of all these at any depth, or zip archives. For
each, DIR gets NAME.nii.gz on the scan's own grid: 0 outside, 1 the patient's right lung, 2 the
left; lungs.csv has their volumes, and notes. A scan that cannot be used is left out, errors.csv
says why, and the exit status is 3. The same command goes on with the scans that have no mask yet;
a mask that was made by hand is kept. Methods:

threshold  by intensity and shape; needs nothing else. Lobes without any air are lost.
unet       the U-Net R231 of the package lungmask, run by JAX; needs its published weights.
lungmask   that package itself (pip install lungmask); needs the same weights as .pth.
"""

import sys
from functools import partial

from input_pipeline.io.find import find_scans
from launch import cli
from ssa_jax.experiment.batch import RunOptions
from ssa_jax.experiment.lung_masks import METHODS, by_method, find_lungs
from ssa_jax.experiment.segmentation import Reading
from ssa_jax.experiment.weights import SUFFIXES


def main(arguments: list[str]) -> None:
    """Read the flags and find the lungs."""
    parser = cli.make_parser("lung_masks", __doc__)
    parser.add_argument(
        "inputs", nargs="+", type=cli.local_path, help="scans, or folders of NIfTI files"
    )
    parser.add_argument("--out", type=cli.local_path, required=True, help="folder to write to")
    parser.add_argument(
        "--method", choices=METHODS, help="how [unet where --weights is given, else threshold]"
    )
    parser.add_argument(
        "--weights", type=cli.local_path, help=f"R231 weights: {', '.join(SUFFIXES)}"
    )
    cli.add_reading_flags(parser)
    cli.add_run_flags(parser)
    options = parser.parse_args(arguments)
    method = options.method or ("unet" if options.weights else "threshold")
    find_lungs(
        find_scans(options.inputs, series=options.series),
        options.out,
        by_method(method, options.weights),
        reading=Reading(options.intensity, options.series, options.axes),
        options=RunOptions(options.overwrite, options.shard),
        echo=partial(print, flush=True),
    )


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
