"""Print how well lungs are found that disease fills more and more: DSC and error of the volume.

    python -m tests.lung_curve

A phantom chest with ribs, spine, heart and liver; the hindmost share of one lung or of both, by
volume, gets a density from faint ground-glass (-700 HU) to solid (40 HU).
"""

import argparse

import numpy as np
from scipy import ndimage

from input_pipeline.datasets.ct_phantom.body import body_hu, draw_anatomy, lungs
from input_pipeline.datasets.ct_phantom.lung import LUNG_LENGTH
from input_pipeline.lungs.threshold import volume_lung_mask

PIXELS, MILLIMETRES, SLICE = 128, 2.8, 6.0
SPACING = (SLICE, MILLIMETRES, MILLIMETRES)
DENSITIES = (-700, -350, 40)
SHARES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def chest(seed):
    """HU and lung labels (1 right, 2 left), both [slices, rows, columns], feet to head."""
    rng = np.random.default_rng(seed)
    body = draw_anatomy(rng)
    axis = ((np.arange(PIXELS) - (PIXELS - 1) / 2) * MILLIMETRES).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    hu, sides = [], []
    for level in np.arange(1.15, -0.05, -SLICE / LUNG_LENGTH):
        inside = (lungs(body, x, y, level) < 0) & (level > 0.02)
        plane = body_hu(body, x, y, level, MILLIMETRES)
        plane[inside] = body.lung_front + 100
        hu.append(ndimage.gaussian_filter(plane, 0.4))
        sides.append(np.where(x < 0, 1, 2) * inside)
    voxels = np.stack(hu) + rng.normal(0, 20, (len(hu), PIXELS, PIXELS))
    return np.rint(np.clip(voxels, -1024, 3071)).astype(np.int16), np.stack(sides).astype(np.uint8)


def diseased(voxels, sides, labels, share, density):
    """The chest with the hindmost share (0 to 100) of the lungs with these labels at a density."""
    changed = voxels.copy()
    noise = np.random.default_rng(1).normal(0, 20, voxels.shape)
    row = np.broadcast_to(np.arange(PIXELS)[None, :, None], voxels.shape)
    for label in labels:
        lung = sides == label
        back = lung & (row > np.percentile(row[lung], 100 - share)) if share < 100 else lung
        back &= share > 0
        changed[back] = (density + noise[back]).astype(np.int16)
    return changed


def scores(found, lung):
    """DSC, and error of the volume as a share of the true one."""
    overlap = np.count_nonzero(found & lung)
    total = np.count_nonzero(found) + np.count_nonzero(lung)
    return 2 * overlap / total, np.count_nonzero(found) / np.count_nonzero(lung) - 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=2, help="phantoms to average over")
    patients = [chest(seed) for seed in range(parser.parse_args().patients)]
    print("mean DSC and volume error; right lung alone | both lungs")
    print("share   " + "".join(f"{density:>6} HU      " for density in DENSITIES * 2))
    for share in SHARES:
        line = f"{share:3d} %   "
        for labels in ((1,), (1, 2)):
            for density in DENSITIES:
                found = [
                    scores(volume_lung_mask(
                        diseased(voxels, sides, labels, share, density),
                        spacing=SPACING, dilation=0) > 0, sides > 0)
                    for voxels, sides in patients
                ]  # fmt: skip
                dsc, error = np.mean(found, axis=0)
                line += f"{dsc:.3f} {error:+5.0%}   "
        print(line, flush=True)


if __name__ == "__main__":
    main()
