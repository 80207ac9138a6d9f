"""Find the outside of a scan, where scanners and programs store a constant, and make it air.

A scanner measures a circle, and a program that turns a volume leaves wedges without data. Both fill
the rest with a value of their own: -3024, -2000, 3071, or 0, which is the value of water. DICOM can
name it (PixelPaddingValue), but often does not, and other formats cannot.
"""

import numpy as np
from scipy import ndimage

AIR_HU = -1024  # what padding becomes
AIR_LIKE_HU = -900  # padding between these two serves as air as it is
DARKER_HU = 300  # a scan with bright padding has voxels of air, or darker than it by this
DARKER_SHARE = 0.01  # and at least this share of them
TISSUE_HU = (-300, 1500)  # padding outside this range needs no noise around it to be known
FEWEST_CORNERS = 0.05  # of all corners of slices; padding is at more of them
SMALLEST = 0.002  # of the voxels; less is no padding but, for instance, metal at the edge
FEWEST = 16  # pixels of a slice, likewise
NOISE_FREE = 0.3  # share of equal neighbours; a scanner's noise makes far fewer
SAMPLES = 9  # slices that are looked at for noise


def clear_padding(voxels: np.ndarray) -> list[str]:
    """Set the outside of a scan to air (-1024 HU), in place.

    Padding is one value that fills connected regions at the corners of slices. Values below -1024
    are never tissue. A brighter value counts as padding if it is at two corners of its slices, if
    the scan holds darker voxels (else it is air, in other units than HU), and if the rest of the
    scan is noisy or no tissue has the value: the body of a noise-free phantom that fills the
    picture is no padding. A value of air (-1024 to -900) stays as it is.

    Args:
        voxels: `[slices, rows, columns]` HU, int16 or float32; changed in place.

    Returns:
        A sentence for the user with value and share for each value found.
    """
    corners = voxels[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    values, counts = np.unique(corners, return_counts=True)
    notes = []
    for value in values[counts > FEWEST_CORNERS * corners.size]:
        at_corners = np.count_nonzero(corners == value, axis=1)
        if AIR_HU <= value <= AIR_LIKE_HU or np.median(at_corners[at_corners > 0]) < 2:
            continue
        if value > AIR_HU and not _is_padding(voxels[_sample(at_corners)], value):
            continue
        cleared = _clear_regions(voxels, value)
        notes.append(padding_note(value, cleared / voxels.size))
    return notes


def padding_note(value: float, share: float) -> str:
    """Return the sentence for the user about padding.

    Args:
        value: the value found.
        share: its share of the voxels, 0 to 1.
    """
    return (
        f"{share:.1%} of the voxels, at the edge of the picture, have the value {value:g}: they "
        f"are outside the scan and count as air"
    )


def constant_corners(plane: np.ndarray) -> float | None:
    """Return the value that fills the corners of one slice; None if they hold several values.

    Args:
        plane: `[rows, columns]`, any real dtype.
    """
    values, counts = np.unique(plane[[0, 0, -1, -1], [0, -1, 0, -1]], return_counts=True)
    value = values[counts.argmax()]
    filled = np.count_nonzero(plane == value) >= SMALLEST * plane.size
    return float(value) if counts.max() >= 2 and filled else None


def _sample(at_corners: np.ndarray) -> np.ndarray:
    """Return the indices of some of the slices that have padding at corners, spread evenly."""
    padded = np.flatnonzero(at_corners)
    places = np.linspace(0, len(padded) - 1, min(SAMPLES, len(padded)))
    return padded[places.round().astype(int)]


def _is_padding(sample: np.ndarray, value: float) -> bool:
    """Return whether a value that is too bright for air is padding.

    Args:
        sample: `[slices, rows, columns]` HU, slices with the value at corners.
        value: the value.
    """
    sample = sample.astype(np.float32)
    inside = sample != value
    padded = np.count_nonzero(~inside)
    if padded < max(SMALLEST * sample.size, FEWEST * len(sample)):
        return False
    darker = np.count_nonzero(sample[inside] < max(value - DARKER_HU, AIR_LIKE_HU))
    if darker < DARKER_SHARE * np.count_nonzero(inside):
        return False
    if not TISSUE_HU[0] <= value <= TISSUE_HU[1]:
        return True
    body = inside & (sample > AIR_LIKE_HU)  # air may be clipped to one value
    pairs = body[..., 1:] & body[..., :-1]
    equal = np.count_nonzero(pairs & (sample[..., 1:] == sample[..., :-1]))
    return bool(equal < NOISE_FREE * np.count_nonzero(pairs))


def _clear_regions(voxels: np.ndarray, value: float) -> int:
    """Set the regions of padding to air; return the number of their voxels.

    A value that may be tissue is padding where its region touches the edge of the slice.

    Where a program has interpolated between bright padding and air, one row of voxels in between
    would close a ring around the patient. It is set to air too.
    """
    cleared = 0
    for plane in voxels:
        padding = plane == value
        if value < AIR_HU:  # nowhere tissue, so neither in a circle within a frame of another value
            cleared += int(padding.sum())
            plane[padding] = AIR_HU
            continue
        labels, count = ndimage.label(padding)
        edge = np.zeros(count + 1, bool)
        for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            edge[side] = True
        edge[0] = False
        padding = edge[labels]
        cleared += int(padding.sum())
        between = ndimage.binary_dilation(padding) & (plane > AIR_LIKE_HU)
        between &= ndimage.binary_dilation((plane <= AIR_LIKE_HU) & ~padding)
        plane[padding | between] = AIR_HU
    return cleared
