"""What goes into the U-Net R231 and what comes out: the package `lungmask`'s own processing.

The steps are those of lungmask 0.2.22 to the bit, with SciPy's interpolation as it uses it, because
the published weights were trained on slices prepared so. One exception: a hole that is open only at
an edge of the volume stays a hole here (`fill_voids`, which the package uses, fills it).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.measure import label as components

SIDE = 256  # of the network's grid
LOWEST, HIGHEST = -1024, 600  # HU
BODY_HU = -500
BODY_SIDE = 128  # the body is searched on a grid of this side
SPECK = 3  # smaller components, in voxels, are not worth a neighbour
HOLE = 64  # in a single slice only smaller holes are filled, in pixels
BATCH = 4  # slices per call of the network


class Box(NamedTuple):
    """Where the body lies in a slice: first row and column, and those behind the last."""

    top: int
    left: int
    bottom: int
    right: int


def unet_lung_sides(
    voxels: np.ndarray, labels_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Find the lungs of a whole scan with the U-Net.

    Beyond the input it takes a byte per voxel, some bytes per voxel of the small grid, and what
    the network takes for a batch.

    Args:
        voxels: [slices, rows, columns] HU, int16 or float32; slices inferior to superior, columns
            from the patient's right to the left.
        labels_of: the network, from [4, 256, 256] float32 to labels of that shape.

    Returns:
        [slices, rows, columns] uint8: 0 outside, 1 the patient's right lung, 2 the left.
    """
    boxes = []
    labels = np.zeros((len(voxels), SIDE, SIDE), np.uint8)
    for start in range(0, len(voxels), BATCH):
        batch = np.zeros((BATCH, SIDE, SIDE), np.float32)
        images = voxels[start : start + BATCH]
        for index, image in enumerate(images):
            batch[index], box = prepare(image)
            boxes.append(box)
        labels[start : start + BATCH] = labels_of(batch)[: len(images)]
    labels = clean(labels)
    sides = np.zeros(voxels.shape, np.uint8)
    for index, box in enumerate(boxes):
        sides[index] = restore(labels[index], box, voxels.shape[1:])
    return sides


def prepare(image: np.ndarray) -> tuple[np.ndarray, Box]:
    """One slice as the network wants it.

    Args:
        image: [rows, columns] HU, int16 or float32.

    Returns:
        [256, 256] float32 in [0, 1], -1024 to 600 HU of the part that holds the body, and where
        that part lies.
    """
    clipped = np.clip(image, LOWEST, HIGHEST)
    box = _body(clipped)
    part = clipped[box.top : box.bottom, box.left : box.right]
    resized = ndimage.zoom(part, (SIDE / part.shape[0], SIDE / part.shape[1]), order=1)
    scaled = (resized - LOWEST) / (HIGHEST - LOWEST)  # in float32 where the slice is, as there
    return scaled.astype(np.float32), box


def restore(labels: np.ndarray, box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """Labels [256, 256] back on the slice they come from: uint8 of `shape`, nearest neighbour."""
    height, width = box.bottom - box.top, box.right - box.left
    slice_labels = np.zeros(shape, np.uint8)
    slice_labels[box.top : box.bottom, box.left : box.right] = ndimage.zoom(
        labels, (height / labels.shape[0], width / labels.shape[1]), order=0
    )
    return slice_labels


def clean(labels: np.ndarray) -> np.ndarray:
    """One part per lung, without holes.

    From the smallest on, each component of a label takes the label of the component with which it
    shares most border, unless it is the largest of its label or a speck. Then each label keeps its
    largest component, with its holes filled.

    Args:
        labels: [slices, rows, columns] uint8, 0 background.

    Returns:
        uint8 of that shape.
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
    """The bounding box of the largest thing that is no air, its hollows filled."""
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
    """Labels with the small components given to their neighbours; `parts` changes."""
    sizes = np.bincount(parts.ravel())
    value_of = np.zeros(sizes.size, np.uint8)
    value_of[parts] = labels
    order = 1 + np.argsort(sizes[1:], kind="stable")
    # Among components of one size the first is the one that can be the largest; the others go.
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
    """The component with which one shares most border; itself where it touches none."""
    wide = tuple(slice(max(edge.start - 1, 0), edge.stop + 1) for edge in box)
    around = parts[wide]
    near, counts = np.unique(around[ndimage.binary_dilation(around == part)], return_counts=True)
    other = (near > 0) & (near != part)
    return int(near[other][counts[other].argmax()]) if other.any() else part


def _union(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )


def _filled(mask: np.ndarray) -> np.ndarray:
    """A mask with its holes filled; in a single slice the small ones alone."""
    if len(mask) > 1:
        return ndimage.binary_fill_holes(mask)
    holes, _ = ndimage.label(ndimage.binary_fill_holes(mask[0]) & ~mask[0])
    small = np.bincount(holes.ravel()) < HOLE
    small[0] = False
    return mask | small[holes][None]
