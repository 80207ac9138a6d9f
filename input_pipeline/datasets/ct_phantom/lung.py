"""The lungs of a chest CT phantom: vessels, airways, fissures and lesions.

Coordinates are as in `body`, with the height z in mm (0 at the apex); values are in Hounsfield
units (HU).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from input_pipeline.datasets.ct_phantom.body import Anatomy, Array, cavity, lungs, step, turned

SIZE = 192  # pixels, height and width of every slice
LUNG_LENGTH = 240.0  # mm from level 0 to level 1
VISIBLE_HU = 110.0  # a lesion is labelled where it adds at least this much to the healthy lung
SMALLEST = 16  # pixels; smaller lesions are not labelled


@dataclass(frozen=True)
class Vessels:
    """Branching tubes as line segments, in mm."""

    start: Array  # [N, 3] (x, y, z)
    end: Array  # [N, 3]
    radius: Array  # [N]


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid with a blurred border, in mm and HU."""

    centre: tuple[float, float, float]  # (x, y, z)
    radii: tuple[float, float, float]
    angle: float  # radians, in the slice
    softness: float  # width of the border as a share of the radius
    opacity: float  # HU that the ground-glass opacity adds to the lung
    core: float  # radius of the consolidation as a share of the lesion's radius; 0 for none
    core_hu: float  # HU of the consolidation
    paving: float  # HU that the thickened septa (crazy paving) add
    roll: tuple[int, int]  # shift of the noise fields in pixels, so that lesions differ


@dataclass(frozen=True)
class Scanner:
    """Position of the patient in the scanner, and the scanner's effect on the values."""

    spacing: float  # mm per pixel
    turn: float  # radians, rotation of the patient
    move: tuple[float, float]  # mm (x, y), position of the patient's centre
    shift: float  # HU
    gain: float  # factor
    blur: float  # pixels, standard deviation
    noise: float  # HU, standard deviation
    grain: float  # pixels, correlation length of the noise
    thickness: float  # mm, of a slice


def _noise(rng: np.random.Generator, scale: float) -> Array:
    """Draw a field `[SIZE, SIZE]` of mean 0 and variance 1, smooth over `scale` pixels."""
    white = rng.standard_normal((SIZE, SIZE), np.float32)
    field = ndimage.gaussian_filter(white, scale, mode="wrap")
    return (field - field.mean()) / field.std()


def _inside_points(
    body: Anatomy, rng: np.random.Generator, count: int, side: float, margin: float
) -> Array:
    """Draw up to `count` points (x, y, z) in one lung, at least `margin` mm from its border."""
    draws = count * 8
    x = side * rng.uniform(0, body.cavity_width, draws)
    y = rng.uniform(-body.cavity_height, body.cavity_height, draws)
    level = rng.uniform(0.05, 0.98, draws)
    inside = np.flatnonzero(lungs(body, x, y, level) < -margin)[:count]
    return np.stack([x, y, level * LUNG_LENGTH], axis=1)[inside]


def _grow_tree(rng: np.random.Generator, root: Array, targets: Array) -> Vessels:
    """Grow a tree by connecting each target to its nearest part; radii follow Murray's law."""
    order = np.argsort(np.linalg.norm(targets - root, axis=1))
    room = 64 * (len(targets) + 1)
    nodes, parents, path = np.zeros((room, 3)), np.full(room, -1), np.zeros(room)
    nodes[0], used = root, 1
    for target in targets[order]:
        gap = np.linalg.norm(nodes[:used] - target, axis=1)
        parent = int(np.argmin(gap + 0.25 * path[:used]))
        steps = min(60, max(1, int(gap[parent] // 7.0)))
        bend = rng.normal(0.0, 0.09 * gap[parent], 3)
        share = np.arange(1, steps + 1)[:, None] / steps
        new = slice(used, used + steps)
        nodes[new] = nodes[parent] + share * (target - nodes[parent])
        nodes[new] += bend * np.sin(np.pi * share)
        parents[new] = [parent, *range(used, used + steps - 1)]
        path[new] = path[parent] + share[:, 0] * gap[parent]
        used += steps
    nodes, parents = nodes[:used], parents[:used]
    flow = np.zeros(used)
    for node in range(used - 1, 0, -1):
        flow[node] = max(flow[node], 1.0)
        flow[parents[node]] += flow[node]
    radius = 0.75 * flow[1:] ** (1.0 / 2.7)
    return Vessels(nodes[parents[1:]], nodes[1:], np.minimum(radius, 6.0))


def draw_vessels(body: Anatomy, rng: np.random.Generator) -> list[Vessels]:
    """Draw one arterial and one venous tree in each lung, from the hilum outwards.

    Args:
        body: the patient's body.
        rng: the source of randomness.
    """
    trees = []
    for side in (-1.0, 1.0):
        for offset, depth in ((-10.0, 0.43), (12.0, 0.52)):
            x = side * (26.0 if side < 0 else 32.0)
            root = np.array([x, offset, depth * LUNG_LENGTH])
            trees.append(_grow_tree(rng, root, _inside_points(body, rng, 300, side, 2.0)))
    return trees


def _stamp(
    cover: Array, x: Array, y: Array, radius: Array, strength: Array, spacing: float
) -> None:
    """Draw discs (mm) with soft borders into `cover` `[SIZE, SIZE]` in place, as a maximum."""
    reach = int(np.ceil(radius.max() / spacing)) + 1
    offset = np.arange(-reach, reach + 1)
    column = np.rint(x / spacing + (SIZE - 1) / 2).astype(int)[:, None, None] + offset[None, None]
    row = np.rint(y / spacing + (SIZE - 1) / 2).astype(int)[:, None, None] + offset[None, :, None]
    dx = (column - (SIZE - 1) / 2) * spacing - x[:, None, None]
    dy = (row - (SIZE - 1) / 2) * spacing - y[:, None, None]
    disc = np.clip((radius[:, None, None] - np.hypot(dx, dy)) / spacing + 0.5, 0.0, 1.0)
    disc *= strength[:, None, None]
    row, column = np.broadcast_arrays(row, column)
    seen = (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE) & (disc > 0)
    np.maximum.at(cover, (row[seen], column[seen]), disc[seen])


def _vessel_cover(tree: Vessels, z: float, scanner: Scanner, narrow: float = 1.0) -> Array:
    """Return the share of every pixel that vessels fill within the slice's thickness."""
    cover = np.zeros((SIZE, SIZE), np.float32)
    steps = np.linspace(0.0, 1.0, 9)[None, :, None]
    points = tree.start[:, None] + steps * (tree.end - tree.start)[:, None]
    radius = np.broadcast_to(narrow * tree.radius[:, None], points.shape[:2])
    depth = np.abs(points[..., 2] - z)
    height = np.sqrt(
        np.clip(radius**2 - np.clip(depth - scanner.thickness / 2, 0, None) ** 2, 0, 1e9)
    )
    near = (depth < scanner.thickness / 2 + radius) & (height > 0)
    strength = np.clip(2.0 * radius / scanner.thickness, 0.0, 1.0)
    strength = strength * np.clip(radius / (0.5 * scanner.spacing), 0.0, 1.0)
    for low, high in ((0.0, 2.0), (2.0, 20.0)):
        chosen = near & (radius >= low) & (radius < high)
        if chosen.any():
            size = np.maximum(height, 0.35 * scanner.spacing)[chosen]
            x, y = turned(points[..., 0][chosen], points[..., 1][chosen], scanner.turn)
            x, y = x + scanner.move[0], y + scanner.move[1]
            _stamp(cover, x, y, size, strength[chosen], scanner.spacing)
    return cover


def draw_lesions(body: Anatomy, rng: np.random.Generator, heights: Array) -> list[Lesion]:
    """Draw the lesions of one patient, near the slices; one patient in eight has none.

    Args:
        body: the patient's body.
        rng: the source of randomness.
        heights: `[slices]` heights z of the slices in mm.
    """
    if rng.random() < 0.12:
        return []
    count = 3 + rng.poisson(rng.choice([2.0, 6.0, 11.0], p=[0.3, 0.4, 0.3]))
    lesions = []
    for _ in range(count):
        z = float(rng.choice(heights) + rng.normal(0, 9.0))
        lesions.append(_draw_lesion(body, rng, z))
    return lesions


def _lesion_place(body: Anatomy, rng: np.random.Generator, z: float) -> tuple[float, float, float]:
    """Draw a point (x, y, z) in the lungs, most often near the pleura and towards the back."""
    x = rng.uniform(-body.cavity_width, body.cavity_width, 400)
    y = rng.uniform(-body.cavity_height, body.cavity_height, 400)
    level = np.clip(z / LUNG_LENGTH, 0.1, 0.95)
    depth = np.clip(-cavity(body, x, y, level), 0.0, None)
    chance = (np.exp(-depth / 9.0) + 0.10) * np.exp(y / 70.0)
    chance *= lungs(body, x, y, level) < -2.0
    chosen = rng.choice(400, p=chance / chance.sum())
    return float(x[chosen]), float(y[chosen]), z


def _draw_lesion(body: Anatomy, rng: np.random.Generator, z: float) -> Lesion:
    """Draw one lesion; three of five contain a consolidation."""
    centre = _lesion_place(body, rng, z)
    radius = float(np.clip(rng.lognormal(np.log(20.0), 0.4), 10.0, 44.0))
    tangent = math.atan2(centre[1], centre[0]) + math.pi / 2
    aspect = rng.uniform(1.0, 1.7)
    solid = rng.random() < 0.62
    return Lesion(
        centre=centre,
        radii=(radius * aspect, radius / aspect**0.5, rng.uniform(10, 26)),
        angle=tangent + rng.normal(0, 0.35),
        softness=rng.uniform(0.09, 0.2),
        opacity=rng.uniform(180, 380),
        core=rng.uniform(0.6, 0.95) if solid else 0.0,
        core_hu=rng.uniform(-90, 45),
        paving=rng.uniform(60, 160) if rng.random() < 0.35 else 0.0,
        roll=(int(rng.integers(SIZE)), int(rng.integers(SIZE))),
    )


@dataclass(frozen=True)
class Textures:
    """Noise fields of one patient, each `[2, SIZE, SIZE]`; mixed by height, so slices differ."""

    coarse: Array
    middle: Array
    fine: Array


def draw_textures(rng: np.random.Generator) -> Textures:
    """Draw the noise fields of one patient, of three scales in pixels.

    Args:
        rng: the source of randomness.
    """
    fields = [np.stack([_noise(rng, scale) for _ in range(2)]) for scale in (5.0, 2.2, 1.0)]
    return Textures(*fields)


def mix(fields: Array, z: float) -> Array:
    """Return the noise at a height; it is similar in neighbouring slices only.

    Args:
        fields: `[2, SIZE, SIZE]`, of `Textures`.
        z: the height in mm.
    """
    return fields[0] * math.cos(z / 12.0) + fields[1] * math.sin(z / 12.0)


def _lesion_fields(
    lesion: Lesion, x: Array, y: Array, z: float, coarse: Array, middle: Array
) -> tuple[Array, Array]:
    """Return the densities of ground-glass and consolidation, `[SIZE, SIZE]` from 0 to 1."""
    c, s = math.cos(lesion.angle), math.sin(lesion.angle)
    dx, dy = x - lesion.centre[0], y - lesion.centre[1]
    u = (c * dx + s * dy) / lesion.radii[0]
    v = (c * dy - s * dx) / lesion.radii[1]
    rho = np.sqrt(u * u + v * v + ((z - lesion.centre[2]) / lesion.radii[2]) ** 2)
    coarse = np.roll(coarse, lesion.roll, (0, 1))
    middle = np.roll(middle, lesion.roll, (1, 0))
    rough = rho + 0.20 * coarse + 0.13 * middle
    glass = 1.0 / (1.0 + np.exp(np.clip((rough - 1.0) / lesion.softness, -30, 30)))
    if lesion.core == 0.0:
        return glass, np.zeros_like(glass)
    rough = rho - 0.16 * coarse[::-1] + 0.12 * middle[:, ::-1]
    solid = 1.0 / (1.0 + np.exp(np.clip((rough - lesion.core) / 0.06, -30, 30)))
    return glass, solid * glass


def lung_hu(
    body: Anatomy, x: Array, y: Array, level: float, depth: Array, textures: Textures
) -> Array:
    """Return the HU of healthy lung without vessels: denser towards the back, with fissures.

    Args:
        body: the patient's body.
        x: coordinates to the patient's left in mm, `[SIZE, SIZE]`.
        y: coordinates to the back in mm, `[SIZE, SIZE]`.
        level: from 0 (apex) to 1 (base).
        depth: distance to the pleura in mm, `[SIZE, SIZE]`, 0 outside the lungs.
        textures: noise fields of the patient.

    Returns:
        `[SIZE, SIZE]` HU.
    """
    z = level * LUNG_LENGTH
    back = np.clip((y + body.cavity_height) / (2 * body.cavity_height), 0.0, 1.0)
    hu = body.lung_front + body.lung_back * back**1.5
    middle = mix(textures.middle, z)
    hu += 16.0 * mix(textures.coarse, z) + 12.0 * middle
    reach = body.atelectasis_depth * (1.0 + 0.35 * mix(textures.coarse, z))
    wall = np.clip(-cavity(body, x, y, level), 0.0, None)
    dependent = np.exp(-np.minimum(wall, depth + 4.0) / np.maximum(reach, 2.0))
    hu += body.atelectasis * dependent * step(0.05, 0.7, y / body.cavity_height)
    for side, start in zip((-1.0, 1.0), body.fissure, strict=True):
        bend = 0.0035 * (np.abs(x) - 60.0) ** 2
        line = y - (start - 120.0 * (level - 0.5) - bend + 2.0 * middle)
        hu += 130.0 * np.exp(-((line / 1.5) ** 2)) * (side * x > 0)
    return hu


def add_vessels(
    hu: Array, trees: Sequence[Vessels], z: float, scanner: Scanner, blood: float
) -> None:
    """Draw vessels into `hu` in place, with an airway and its wall beside each larger artery.

    Args:
        hu: `[SIZE, SIZE]` HU of the lung.
        trees: vessels of the patient; arteries at even indices, veins at odd ones.
        z: height of the slice in mm.
        scanner: the scanner.
        blood: HU of the blood.
    """
    for index, tree in enumerate(trees):
        hu += np.clip(blood - 15.0 - hu, 0.0, None) * _vessel_cover(tree, z, scanner)
        if index % 2 == 0:
            wide = (tree.radius > 1.7) & (tree.radius < 5.0)
            side = np.sign(tree.start[:1, 0])
            move = np.array([[1.0, 1.0, 0.0]]) * (1.75 * tree.radius[wide, None])
            move[:, 0] *= side
            airway = Vessels(tree.start[wide] + move, tree.end[wide] + move, tree.radius[wide])
            hu += np.clip(-380.0 - hu, 0.0, None) * _vessel_cover(airway, z, scanner, 1.1)
            hu += (-975.0 - hu) * _vessel_cover(airway, z, scanner, 0.72)


def add_lesions(
    healthy: Array, lesions: Sequence[Lesion], x: Array, y: Array, z: float, textures: Textures
) -> tuple[Array, Array]:
    """Return the lung with its lesions.

    Args:
        healthy: `[SIZE, SIZE]` HU of the healthy lung.
        lesions: lesions of the patient.
        x: coordinates to the patient's left in mm, `[SIZE, SIZE]`.
        y: coordinates to the back in mm, `[SIZE, SIZE]`.
        z: height of the slice in mm.
        textures: noise fields of the patient.

    Returns:
        `[SIZE, SIZE]` HU, and `[SIZE, SIZE]` density of the consolidation from 0 to 1.
    """
    coarse, middle, fine = (mix(f, z) for f in (textures.coarse, textures.middle, textures.fine))
    hu, solid_left = healthy.copy(), np.ones_like(healthy)
    for lesion in lesions:
        if abs(z - lesion.centre[2]) > 1.6 * lesion.radii[2]:
            continue
        glass, solid = _lesion_fields(lesion, x, y, z, coarse, middle)
        target = healthy + lesion.opacity + 45.0 * middle + 35.0 * fine
        target += lesion.paving * np.exp(-((middle / 0.22) ** 2))
        hu += np.clip(np.clip(target, -720.0, -270.0) - hu, 0.0, None) * glass
        hu += np.clip(lesion.core_hu + 20.0 * fine - hu, 0.0, None) * solid
        solid_left *= 1.0 - solid
    return hu, 1.0 - solid_left


def label(added: Array, solid: Array, inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the mask that a radiologist would draw: where lesions differ visibly from the lung.

    Args:
        added: `[SIZE, SIZE]` HU that the lesions add.
        solid: `[SIZE, SIZE]` density of consolidation from 0 to 1.
        inside: `[SIZE, SIZE]` true inside the lungs.

    Returns:
        `[SIZE, SIZE]` class index: 0 none, 1 ground-glass, 2 consolidation.
    """
    visible = ndimage.gaussian_filter(added, 1.2) > VISIBLE_HU
    visible &= inside
    parts, count = ndimage.label(visible)
    visible &= np.bincount(parts.ravel(), minlength=count + 1)[parts] >= SMALLEST
    dense = ndimage.gaussian_filter(solid, 0.6) > 0.5
    return np.where(visible, np.where(dense, 2, 1), 0).astype(np.uint8)
