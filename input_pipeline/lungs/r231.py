"""Compute lung labels with the U-Net R231, with the pre- and postprocessing of `lungmask`.

The published weights were trained on slices prepared by that package, so each step gives the same
bits as lungmask 0.2.22 and uses the same interpolation of SciPy. The one exception: a hole that is
open only at an edge of the volume is not filled here (`fill_voids`, which the package uses, fills
it).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import label as components

SIDE = 256  # pixels; side of the network grid
LOWEST, HIGHEST = -1024, 600  # HU; they become 0 and 1
BODY_HU = -500  # brighter pixels belong to the body
BODY_SIDE = 128  # pixels; side of the grid on which the body is found
SPECK = 3  # voxels; smaller components are removed instead of merged with a neighbour
HOLE = 64  # pixels; in a single slice only smaller holes are filled
BATCH = 4  # slices in each call of the network


class Box(NamedTuple):
    """Bounding box of the body in a slice; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


def r231_lung_labels(
    voxels: np.ndarray, labels_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Compute the lung labels of a whole scan with the U-Net.

    In addition to the input, this needs one byte per voxel, a few bytes per voxel of the network
    grid, and the memory of the network for one batch.

    Args:
        voxels: `[slices, rows, columns]` HU, int16 or float32; slices inferior to superior, columns
            from the patient's right to the left.
        labels_of: the network: from `[4, 256, 256]` float32 in [0, 1] to labels of that shape.

    Returns:
        `[slices, rows, columns]` uint8 lung labels: 0 none, 1 the patient's right lung, 2 the left
        one.
    """
    boxes = []
    labels = np.zeros((len(voxels), SIDE, SIDE), np.uint8)
    for start in range(0, len(voxels), BATCH):
        batch = np.zeros((BATCH, SIDE, SIDE), np.float32)
        images = voxels[start : start + BATCH]
        for index, image in enumerate(images):
            batch[index], box = to_network_grid(image)
            boxes.append(box)
        labels[start : start + BATCH] = labels_of(batch)[: len(images)]
    labels = clean(labels)
    lung_labels = np.zeros(voxels.shape, np.uint8)
    for index, box in enumerate(boxes):
        lung_labels[index] = to_own_grid(labels[index], box, voxels.shape[1:])
    return lung_labels


def to_network_grid(image: np.ndarray) -> tuple[np.ndarray, Box]:
    """Turn one slice into input of the network.

    Args:
        image: `[rows, columns]` HU, int16 or float32.

    Returns:
        `[256, 256]` float32, the bounding box of the body with -1024 to 600 HU mapped to [0, 1];
        and that box.
    """
    clipped = np.clip(image, LOWEST, HIGHEST)
    box = _body(clipped)
    part = clipped[box.top : box.bottom, box.left : box.right]
    resized = ndimage.zoom(part, (SIDE / part.shape[0], SIDE / part.shape[1]), order=1)
    scaled = (resized - LOWEST) / (HIGHEST - LOWEST)  # float32 for a float32 slice, as in lungmask
    return scaled.astype(np.float32), box


def to_own_grid(labels: np.ndarray, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Map the labels of the network back to the slice, by nearest neighbour.

    Args:
        labels: `[256, 256]` labels on the network grid.
        box: bounding box of the body, from `to_network_grid`.
        shape: (rows, columns) of the slice.

    Returns:
        `[rows, columns]` uint8, 0 outside the box.
    """
    height, width = box.bottom - box.top, box.right - box.left
    slice_labels = np.zeros(shape, np.uint8)
    slice_labels[box.top : box.bottom, box.left : box.right] = ndimage.zoom(
        labels, (height / labels.shape[0], width / labels.shape[1]), order=0
    )
    return slice_labels


def clean(labels: np.ndarray) -> np.ndarray:
    """Reduce each label to one connected component without holes.

    First, from the smallest to the largest, each component takes the label of the neighbour with
    which it shares most border, unless it is the largest of its label or smaller than `SPECK`.
    Then each label keeps only its largest component, with its holes filled.

    Args:
        labels: `[slices, rows, columns]` uint8, 0 for the background.

    Returns:
        `[slices, rows, columns]` uint8.
    """
    parts = components(labels)
    merged = _merge(parts, labels)
    cleaned = np.zeros(labels.shape, np.uint8)
    for value in np.unique(merged[merged > 0]):
        of_value = components(merged == value)
        largest = np.argsort(np.bincount(of_value.ravel())[1:])[-1] + 1
        cleaned[_filled(of_value == largest)] = value
    return cleaned


def _body(clipped: np.ndarray) -> Box:
    """Return the bounding box of the body: the largest component brighter than air, filled.

    Args:
        clipped: `[rows, columns]` HU between `LOWEST` and `HIGHEST`.
    """
    small = ndimage.zoom(clipped, BODY_SIDE / np.asarray(clipped.shape), order=0) > BODY_HU
    small = ndimage.binary_closing(small)
    small = ndimage.binary_fill_holes(small, structure=np.ones((3, 3)))
    labels, count = ndimage.label(ndimage.binary_erosion(small, iterations=2))
    if not count:
        return Box(0, 0, *clipped.shape)
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    body = ndimage.binary_dilation(labels == largest, iterations=2)
    full = ndimage.zoom(body, np.asarray(clipped.shape) / BODY_SIDE, order=0)
    rows, columns = ndimage.find_objects(ndimage.label(full, np.ones((3, 3)))[0])[0]
    return Box(rows.start, columns.start, rows.stop, columns.stop)


def _merge(parts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels in which the small components have the label of a neighbour.

    Args:
        parts: `[slices, rows, columns]` number of the component of each voxel; changed in place.
        labels: `[slices, rows, columns]` uint8 label of each voxel.
    """
    sizes = np.bincount(parts.ravel())
    value_of = np.zeros(sizes.size, np.uint8)
    value_of[parts] = labels
    order = 1 + np.argsort(sizes[1:], kind="stable")
    # Of several components of one size only the first can be the largest; the others are removed.
    largest = np.zeros(256, np.int64)
    shown = np.zeros(sizes.size, np.uint8)
    for part in order:
        value = value_of[part]
        if sizes[part] > largest[value]:
            largest[value], shown[part] = sizes[part], value
    boxes = ndimage.find_objects(parts)
    for part in order:
        if not SPECK <= sizes[part] < largest[value_of[part]]:
            continue
        target = _closest(parts, part, boxes[part - 1])
        if target == part:
            continue
        grows = sizes[target] == largest[value_of[target]]
        largest[value_of[target]] += sizes[part] if grows else 0
        sizes[target] += sizes[part]
        here = parts[boxes[part - 1]]
        here[here == part] = target
        boxes[target - 1] = _union(boxes[part - 1], boxes[target - 1])
    return shown[parts]


def _closest(parts: np.ndarray, part: int, box: tuple[slice, ...]) -> int:
    """Return the component that shares most border with `part`; `part` itself if none does.

    Args:
        parts: `[slices, rows, columns]` number of the component of each voxel.
        part: number of a component.
        box: its bounding box.
    """
    wide = tuple(slice(max(edge.start - 1, 0), edge.stop + 1) for edge in box)
    around = parts[wide]
    near, counts = np.unique(around[ndimage.binary_dilation(around == part)], return_counts=True)
    other = (near > 0) & (near != part)
    return int(near[other][counts[other].argmax()]) if other.any() else part


def _union(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    """Return the bounding box of two boxes."""
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )


def _filled(mask: np.ndarray) -> np.ndarray:
    """Return a mask with its holes filled; in a single slice, only the small ones.

    Args:
        mask: `[slices, rows, columns]` bool.
    """
    if len(mask) > 1:
        return ndimage.binary_fill_holes(mask)
    holes, _ = ndimage.label(ndimage.binary_fill_holes(mask[0]) & ~mask[0])
    small = np.bincount(holes.ravel()) < HOLE
    small[0] = False
    return mask | small[holes][None]
