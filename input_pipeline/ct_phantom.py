"""Chest CT phantoms in Hounsfield units (HU), made from a seed: data that need no download.

Every patient is a small solid model in millimetres: `x` grows to the right of the picture (the
patient's LEFT: the usual radiological display, the heart lies to the right of the picture's
middle), `y` grows towards the back, and `level` runs from 0 (apex of the lungs) to 1 (base). A
slice is a cut through the model at one level, so the slices of one patient belong together.

Written so that brightness alone does not give the lesions away: vessels, fissures, partial volume
at the pleura, a denser back of the lung (dependent atelectasis), a breathing diaphragm, and a HU
shift, gain, blur and noise of its own for every patient. `fit_threshold` and `apply_threshold` are
the baseline which shows that: the best lower HU bound inside the true lung mask.

Labels: 0 background, 1 ground-glass opacity (GGO), 2 consolidation. The lung mask holds the
lesions. Shares of the picture follow table 1 of the paper (lung 20 to 27 %, GGO 2 to 5 %,
consolidation 0.5 to 2.3 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray
from scipy import ndimage

from input_pipeline.preprocess import Slice

Array = NDArray[np.floating]

SEED = 2022
SIZE = 192  # pixels, height and width of every slice
SLICES_PER_PATIENT = 4
SPLITS = {"train": 24, "validation": 6, "test": 10, "unlabelled": 60}  # patients
HU_RANGE = (-1024, 3071)
VISIBLE_HU = 95.0  # a lesion is labelled where it adds at least this much to the healthy lung
LUNG_LENGTH = 240.0  # mm from level 0 to level 1

_AIR, _FAT, _MUSCLE, _BLOOD, _LIVER = -1000.0, -100.0, 50.0, 42.0, 60.0
_MARROW, _CORTEX = 170.0, 620.0


@dataclass(frozen=True)
class _Anatomy:
    """One patient's body, without lesions; lengths in mm, levels in 0..1."""

    width: float  # half width of the body
    height: float  # half height (front to back) of the body
    fat: float  # thickness of the fat under the skin
    cavity_width: float  # half width of the rib cage's inside
    cavity_height: float
    heart: float  # scale of the heart
    heart_left: float  # how far the heart's middle lies to the patient's left
    aorta: float  # radius of the descending aorta
    dome_right: float  # level where the right half of the diaphragm appears
    dome_left: float
    breathing: float  # width of the diaphragm's smeared border
    rib_phase: float
    rib_slope: float
    blood: float  # HU of the blood, higher with contrast agent
    lung_front: float  # HU of the lung in front
    lung_back: float  # HU added towards the back
    atelectasis: float  # HU added right at the back
    atelectasis_depth: float
    fissure: tuple[float, float]  # y of the oblique fissure at mid level, right and left
    waves: Array  # [6, 4]: wave vector (x, y, level) and phase of the outlines' wobble


@dataclass(frozen=True)
class _Vessels:
    """Branching tubes as line segments; mm."""

    start: Array  # [N, 3] (x, y, z)
    end: Array  # [N, 3]
    radius: Array  # [N]


@dataclass(frozen=True)
class _Lesion:
    """A fuzzy ellipsoid; mm and HU."""

    centre: Array  # [3] (x, y, z)
    radii: Array  # [3]
    angle: float
    softness: float  # width of the border as a share of the radius
    opacity: float  # HU that the ground glass adds to the lung
    core: float  # relative radius of the consolidation, 0 for none
    core_hu: float
    paving: float  # HU of the net of thickened septa
    roll: tuple[int, int]  # which part of the noise fields it sees


@dataclass(frozen=True)
class _Scanner:
    """What the scanner does to the numbers."""

    spacing: float  # mm per pixel
    turn: float  # radians, how the patient lies
    move: tuple[float, float]  # mm (x, y) of the patient's middle
    shift: float  # HU
    gain: float
    blur: float  # pixels
    noise: float  # HU
    grain: float  # pixels, correlation of the noise
    thickness: float  # mm


# --------------------------------------------------------------------------- small shapes


def _step(low: float, high: float, value: Array | float) -> Array:
    """A smooth ramp from 0 at `low` to 1 at `high`."""
    u = np.clip((np.asarray(value, np.float64) - low) / (high - low), 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def _ellipse(
    x: Array, y: Array, centre: tuple, radii: tuple, angle: float = 0.0, power: float = 2.0
) -> Array:
    """About the distance in mm to the rim of a (super)ellipse, negative inside."""
    c, s = np.cos(angle), np.sin(angle)
    dx, dy = x - centre[0], y - centre[1]
    u = np.abs(c * dx + s * dy) / radii[0]
    v = np.abs(c * dy - s * dx) / radii[1]
    rho = np.sqrt(u * u + v * v) if power == 2.0 else (u**power + v**power) ** (1.0 / power)
    return (rho - 1.0) * np.sqrt(radii[0] * radii[1])


def _join(first: Array, second: Array, width: float) -> Array:
    """Union of two shapes whose meeting is rounded over `width` mm."""
    h = np.clip(width - np.abs(first - second), 0.0, None) / width
    return np.minimum(first, second) - h * h * width * 0.25


def _cover(field: Array, edge: float) -> Array:
    """Share of a pixel inside a shape: 1 inside, 0 outside, a ramp `edge` mm wide between."""
    return np.clip(0.5 - field / edge, 0.0, 1.0)


def _paint(hu: Array, field: Array, value: float | Array, edge: float) -> None:
    """Lays a shape of HU `value` over the picture `hu`, in place."""
    hu += (value - hu) * _cover(field, edge)


def _turned(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """The points turned by `angle` radians (clockwise in the picture)."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x - s * y, s * x + c * y


def _noise(rng: np.random.Generator, scale: float) -> Array:
    """A random field [SIZE, SIZE] of mean 0 and standard deviation 1, smooth over `scale` px."""
    field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), scale, mode="wrap")
    return (field - field.mean()) / field.std()


# --------------------------------------------------------------------------- anatomy


def _draw_anatomy(rng: np.random.Generator) -> _Anatomy:
    """Draws one patient's body."""
    width = rng.uniform(150, 172)
    height = width * rng.uniform(0.66, 0.74)
    fat = rng.uniform(5, 16)
    wave_length = rng.uniform(45, 110, 6)
    direction = rng.uniform(0, 2 * np.pi, 6)
    waves = np.stack(
        [
            2 * np.pi * np.cos(direction) / wave_length,
            2 * np.pi * np.sin(direction) / wave_length,
            rng.uniform(4, 10, 6),
            rng.uniform(0, 2 * np.pi, 6),
        ],
        axis=1,
    )
    return _Anatomy(
        width=width,
        height=height,
        fat=fat,
        cavity_width=width - fat - rng.uniform(15, 20),
        cavity_height=height - 0.7 * fat - rng.uniform(18, 23),
        heart=rng.uniform(0.88, 1.12),
        heart_left=rng.uniform(20, 28),
        aorta=rng.uniform(10, 14),
        dome_right=rng.uniform(0.70, 0.80),
        dome_left=rng.uniform(0.76, 0.86),
        breathing=rng.uniform(6, 16),
        rib_phase=rng.uniform(0, 1),
        rib_slope=rng.uniform(5, 8),
        blood=_BLOOD + (rng.uniform(80, 200) if rng.random() < 0.3 else 0.0),
        lung_front=rng.uniform(-905, -735),
        lung_back=rng.uniform(40, 130),
        atelectasis=rng.uniform(80, 430),
        atelectasis_depth=rng.uniform(5, 18),
        fissure=(rng.uniform(5, 30), rng.uniform(0, 25)),
        waves=waves,
    )


def _wobble(body: _Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Irregularity of the organs' outlines, a few mm."""
    total = np.zeros(np.broadcast(x, y, level).shape)
    for kx, ky, kl, phase in body.waves:
        total += np.sin(kx * x + ky * y + kl * level + phase)
    return total * 1.2


def _cavity(body: _Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """The inside of the rib cage: narrow at the apex, kidney shaped."""
    grow = 0.62 + 0.38 * _step(0.0, 0.5, level)
    a, b = body.cavity_width * grow, body.cavity_height * (0.72 + 0.28 * _step(0.0, 0.4, level))
    return _ellipse(x * (1.0 - 0.09 * y / body.cavity_height), y, (0.0, 2.0), (a, b), power=2.4)


def _heart(body: _Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """The heart, from the great vessels' level down; far outside above it."""
    grow = body.heart * (0.3 + 0.7 * _step(0.36, 0.62, level))
    centre = (body.heart_left, -0.26 * body.cavity_height)
    field = _ellipse(x, y, centre, (64 * grow, 45 * grow), angle=0.5)
    return field + 60.0 * (1.0 - _step(0.34, 0.46, level))


def _spine(body: _Anatomy, x: Array, y: Array) -> Array:
    """A vertebra with the soft tissue at its sides."""
    centre = 0.62 * body.cavity_height
    bone = _ellipse(x, y, (0.0, centre), (21.0, 18.0), power=2.3)
    return _join(bone, _ellipse(x, y, (0.0, centre + 42.0), (30.0, 32.0)), 10.0)


def _mediastinum(body: _Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Everything between the lungs, wider on the patient's left where the heart lies."""
    b = body.cavity_height
    front = _ellipse(x, y, (4.0, -0.62 * b), (13.0, 0.5 * b))
    upper = 1.0 - 0.25 * _step(0.4, 0.6, level)
    middle = _ellipse(x, y, (2.0, -0.02 * b), (31.0 * upper, 0.62 * b))
    arch = _ellipse(x, y, (20.0, -0.02 * b), (22.0, 26.0)) + 40 * _step(0.3, 0.4, level)
    aorta = _ellipse(x, y, (26.0, 0.42 * b), (body.aorta + 3, body.aorta + 3))
    field = _join(_join(front, middle, 12.0), _spine(body, x, y), 12.0)
    field = _join(_join(field, arch, 10.0), aorta, 8.0)
    return _join(field, _heart(body, x, y, level), 12.0)


def _domes(body: _Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Liver (picture's left, higher) and spleen and stomach under the diaphragm."""
    a, b = body.cavity_width, body.cavity_height
    fields = []
    for side, top in ((-1.0, body.dome_right), (1.0, body.dome_left)):
        radius = 1.25 * np.sqrt(np.clip((level - top) / (1.0 - top), 0.0, 1.0))
        shape = _ellipse(x, y, (side * 0.56 * a, -0.12 * b), (0.42 * a, 0.72 * b))
        fields.append(shape + (1.0 - radius) * np.sqrt(0.42 * a * 0.72 * b))
    return np.minimum(fields[0], fields[1])


def _lungs(body: _Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Both lungs; about mm to the pleura, negative inside."""
    wobble = _wobble(body, x, y, level)
    inner = np.maximum(
        -_mediastinum(body, x, y, level) + wobble, -_domes(body, x, y, level) + wobble
    )
    return np.maximum(_cavity(body, x, y, level) + 0.5 * wobble, inner)


# --------------------------------------------------------------------------- vessels


def _inside_points(
    body: _Anatomy, rng: np.random.Generator, count: int, side: float, margin: float
) -> Array:
    """[count, 3] points (x, y, z) in one lung, at least `margin` mm from its border."""
    draws = count * 8
    x = side * rng.uniform(0, body.cavity_width, draws)
    y = rng.uniform(-body.cavity_height, body.cavity_height, draws)
    level = rng.uniform(0.05, 0.98, draws)
    inside = np.flatnonzero(_lungs(body, x, y, level) < -margin)[:count]
    return np.stack([x, y, level * LUNG_LENGTH], axis=1)[inside]


def _grow_tree(rng: np.random.Generator, root: Array, targets: Array) -> _Vessels:
    """Joins every target to the nearest part of the tree; calibres follow Murray's law."""
    order = np.argsort(np.linalg.norm(targets - root, axis=1))
    points, parents, path = [root], [-1], [0.0]
    for target in targets[order]:
        nodes = np.asarray(points)
        gap = np.linalg.norm(nodes - target, axis=1)
        parent = int(np.argmin(gap + 0.25 * np.asarray(path)))
        steps = max(1, int(gap[parent] // 7.0))
        bend = rng.normal(0.0, 0.09 * gap[parent], 3)
        for share in np.arange(1, steps + 1) / steps:
            line = nodes[parent] + share * (target - nodes[parent])
            points.append(line + bend * np.sin(np.pi * share))
            parents.append(parent if share == 1.0 / steps else len(points) - 2)
            path.append(path[parents[-1]] + gap[parent] / steps)
    flow = np.zeros(len(points))
    for node in range(len(points) - 1, 0, -1):
        flow[node] = max(flow[node], 1.0)
        flow[parents[node]] += flow[node]
    nodes, origin = np.asarray(points), np.asarray(parents)[1:]
    radius = 0.75 * flow[1:] ** (1.0 / 2.7)
    return _Vessels(nodes[origin], nodes[1:], np.minimum(radius, 6.0))


def _draw_vessels(body: _Anatomy, rng: np.random.Generator) -> list[_Vessels]:
    """One arterial and one venous tree per lung, from the hilum outwards."""
    trees = []
    for side in (-1.0, 1.0):
        for offset, depth in ((-10.0, 0.43), (12.0, 0.52)):
            x = side * (26.0 if side < 0 else 32.0)
            root = np.array([x, offset, depth * LUNG_LENGTH])
            trees.append(_grow_tree(rng, root, _inside_points(body, rng, 260, side, 2.0)))
    return trees


def _stamp(
    cover: Array, x: Array, y: Array, radius: Array, strength: Array, spacing: float
) -> None:
    """Draws soft discs (mm) into `cover` [SIZE, SIZE], in place, keeping the larger value."""
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


def _vessel_cover(tree: _Vessels, z: float, scanner: _Scanner, narrow: float = 1.0) -> Array:
    """Share of every pixel filled by vessels within the slice's thickness."""
    cover = np.zeros((SIZE, SIZE))
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
            x, y = _turned(points[..., 0][chosen], points[..., 1][chosen], scanner.turn)
            x, y = x + scanner.move[0], y + scanner.move[1]
            _stamp(cover, x, y, size, strength[chosen], scanner.spacing)
    return cover


# --------------------------------------------------------------------------- lesions


def _draw_lesions(
    body: _Anatomy, rng: np.random.Generator, heights: Array, spacing: float
) -> list[_Lesion]:
    """The lesions of one patient around the slices' heights (mm); one in eight has none."""
    if rng.random() < 0.12:
        return []
    count = 3 + rng.poisson(rng.choice([3.0, 7.0, 12.0], p=[0.3, 0.4, 0.3]))
    lesions = []
    for _ in range(count):
        z = float(rng.choice(heights) + rng.normal(0, 9.0))
        lesions.append(_draw_lesion(body, rng, z))
    return lesions


def _lesion_place(body: _Anatomy, rng: np.random.Generator, z: float) -> Array:
    """A point (x, y, z) in the lungs, most often under the pleura and towards the back."""
    x = rng.uniform(-body.cavity_width, body.cavity_width, 400)
    y = rng.uniform(-body.cavity_height, body.cavity_height, 400)
    level = np.clip(z / LUNG_LENGTH, 0.1, 0.95)
    depth = np.clip(-_cavity(body, x, y, level), 0.0, None)
    chance = (np.exp(-depth / 9.0) + 0.10) * np.exp(y / 70.0)
    chance *= _lungs(body, x, y, level) < -2.0
    chosen = rng.choice(400, p=chance / chance.sum())
    return np.array([x[chosen], y[chosen], z])


def _draw_lesion(body: _Anatomy, rng: np.random.Generator, z: float) -> _Lesion:
    """Draws one lesion; two of five hold a consolidation."""
    centre = _lesion_place(body, rng, z)
    radius = float(np.clip(rng.lognormal(np.log(19.0), 0.45), 8.0, 44.0))
    tangent = np.arctan2(centre[1], centre[0]) + np.pi / 2
    aspect = rng.uniform(1.0, 1.7)
    solid = rng.random() < 0.62
    return _Lesion(
        centre=centre,
        radii=np.array([radius * aspect, radius / aspect**0.5, rng.uniform(10, 26)]),
        angle=tangent + rng.normal(0, 0.35),
        softness=rng.uniform(0.09, 0.2),
        opacity=rng.uniform(140, 380),
        core=rng.uniform(0.6, 0.95) if solid else 0.0,
        core_hu=rng.uniform(-90, 45),
        paving=rng.uniform(60, 160) if rng.random() < 0.35 else 0.0,
        roll=(int(rng.integers(SIZE)), int(rng.integers(SIZE))),
    )


@dataclass(frozen=True)
class _Textures:
    """Noise fields of one patient, [2, SIZE, SIZE] each: mixed by height so that slices differ."""

    coarse: Array
    middle: Array
    fine: Array


def _draw_textures(rng: np.random.Generator) -> _Textures:
    """Draws the noise fields; scales in pixels."""
    fields = [np.stack([_noise(rng, scale) for _ in range(2)]) for scale in (5.0, 2.2, 1.0)]
    return _Textures(*fields)


def _mix(fields: Array, z: float) -> Array:
    """The noise at height z: neighbouring slices are alike, far ones are not."""
    return fields[0] * np.cos(z / 12.0) + fields[1] * np.sin(z / 12.0)


def _lesion_fields(
    lesion: _Lesion, x: Array, y: Array, z: float, coarse: Array, middle: Array
) -> tuple[Array, Array]:
    """Ground-glass and consolidation density of one lesion, both [SIZE, SIZE] in 0..1."""
    c, s = np.cos(lesion.angle), np.sin(lesion.angle)
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


# --------------------------------------------------------------------------- a slice


def _body_hu(body: _Anatomy, x: Array, y: Array, level: float, edge: float) -> Array:
    """HU of everything but the lungs, [SIZE, SIZE]."""
    hu = np.full((SIZE, SIZE), _AIR)
    couch = np.abs(y - body.height * 1.035 + x * x / 1400.0) - 1.3
    _paint(hu, couch, -350.0, edge)
    skin = _ellipse(x, y, (0.0, 0.0), (body.width, body.height), power=2.35)
    skin = skin + 0.6 * _wobble(body, x, y, 0.5)
    _paint(hu, skin, 0.0, edge)
    _paint(hu, skin + 2.5, _FAT, edge)
    cavity = _cavity(body, x, y, level)
    _paint_wall(hu, body, x, y, level, cavity, edge)
    _paint(hu, cavity, _FAT + 10, edge)
    _paint_mediastinum(hu, body, x, y, level, edge)
    _paint_bones(hu, body, x, y, level, edge)
    return hu


def _paint_wall(
    hu: Array, body: _Anatomy, x: Array, y: Array, level: float, cavity: Array, edge: float
) -> None:
    """Muscles of the chest wall and back, streaked with fat."""
    wobble = _wobble(body, 1.6 * x, 1.6 * y, level)
    _paint(hu, cavity - 9.0 + wobble, _MUSCLE, edge)
    b = body.cavity_height
    for side in (-1.0, 1.0):
        breast = (side * 0.52 * body.width, -0.80 * body.height)
        chest = _ellipse(x, y, breast, (52.0, 11.0), angle=side * 0.32)
        _paint(hu, chest + 0.6 * wobble + 12 * _step(0.5, 0.7, level), _MUSCLE - 8, edge)
        flank = (side * 0.83 * body.width, 0.34 * body.height)
        back = _ellipse(x, y, flank, (11.0, 46.0), angle=side * 0.5)
        _paint(hu, back + 0.6 * wobble, _MUSCLE, edge)
        erector = _ellipse(x, y, (side * 27.0, b + 6.0), (26.0, 17.0))
        _paint(hu, erector + 0.5 * wobble, _MUSCLE + 5, edge)


def _paint_mediastinum(
    hu: Array, body: _Anatomy, x: Array, y: Array, level: float, edge: float
) -> None:
    """Heart, great vessels, oesophagus, liver and spleen, windpipe and main bronchi."""
    b = body.cavity_height
    _paint(hu, _heart(body, x, y, level) + 4.0, body.blood, edge)
    _paint(hu, _ellipse(x, y, (26.0, 0.42 * b), (body.aorta,) * 2), body.blood + 4, edge)
    _paint(hu, _ellipse(x, y, (5.0, 0.36 * b), (7.0, 5.0)), 30.0, edge)
    if level < 0.5:
        _paint(hu, _ellipse(x, y, (-20.0, -0.22 * b), (9.0, 11.0)), body.blood, edge)
        _paint(hu, _ellipse(x, y, (3.0, -0.32 * b), (15.0, 14.0)), body.blood + 3, edge)
    if level < 0.34:
        arch = _ellipse(x, y, (17.0, 0.0), (14.0, 30.0), angle=-0.35)
        _paint(hu, arch, body.blood, edge)
    elif level < 0.5:
        _paint(hu, _ellipse(x, y, (20.0, -0.2 * b), (20.0, 11.0), angle=0.6), body.blood, edge)
    _paint(hu, _domes(body, x, y, level), _LIVER, edge)
    _paint_airways(hu, body, x, y, level, edge)


def _paint_airways(
    hu: Array, body: _Anatomy, x: Array, y: Array, level: float, edge: float
) -> None:
    """The windpipe, which parts into two main bronchi below level 0.38."""
    b = body.cavity_height
    part = 30.0 * float(_step(0.36, 0.52, level))
    width = 9.0 - 2.5 * float(_step(0.36, 0.42, level))
    for side, lowest in ((-1.0, 0.54), (1.0, 0.58)):
        if level > lowest:
            continue
        centre = (side * part * (1.0 + 0.12 * side), (0.10 + 0.02 * side) * b)
        tube = _ellipse(x, y, centre, (width - 0.6 * side, 0.9 * width), angle=0.4 * side)
        _paint(hu, tube - 1.8, 20.0, edge)
        _paint(hu, tube, -985.0, edge)


def _paint_bones(hu: Array, body: _Anatomy, x: Array, y: Array, level: float, edge: float) -> None:
    """Vertebra with its arch, breastbone, ribs as slanted cuts, shoulder blades above."""
    b = body.cavity_height
    for centre, radii, angle in _bone_shapes(body, level):
        shape = _ellipse(x, y, centre, radii, angle=angle)
        near = shape < 8.0
        inner = np.where(near, shape, 8.0)
        _paint(hu, inner, _CORTEX, edge)
        _paint(hu, inner + 2.2, _MARROW, edge)
    body_of_vertebra = _ellipse(x, y, (0.0, 0.62 * b), (18.0, 15.0), power=2.3)
    _paint(hu, body_of_vertebra, _CORTEX - 150, edge)
    _paint(hu, body_of_vertebra + 2.0, _MARROW, edge)
    _paint(hu, _ellipse(x, y, (0.0, 0.62 * b + 23.0), (8.5, 7.5)), 30.0, edge)


def _bone_shapes(body: _Anatomy, level: float) -> list[tuple[tuple, tuple, float]]:
    """Centre, half axes (mm) and angle of every bone in a slice but the vertebral body."""
    a, b = body.cavity_width, body.cavity_height
    grow_a = 0.62 + 0.38 * float(_step(0.0, 0.5, level))
    grow_b = 0.72 + 0.28 * float(_step(0.0, 0.4, level))
    shapes: list[tuple[tuple, tuple, float]] = [((3.0, -b * grow_b - 7.0), (18.0, 5.5), 0.0)]
    arch = 0.62 * b + 24.0
    shapes += [((side * 13.0, arch + 6.0), (12.0, 4.0), side * -0.7) for side in (-1.0, 1.0)]
    shapes.append(((0.0, arch + 20.0), (3.5, 13.0), 0.0))
    for side in (-1.0, 1.0):
        for k in range(7):
            turn = (k + body.rib_phase + body.rib_slope * level) % 7.0
            theta = -1.22 + 2.5 * turn / 7.0
            cos, sin = np.cos(theta), np.sin(theta)
            scale = (np.abs(cos) ** 2.4 + np.abs(sin) ** 2.4) ** (-1.0 / 2.4)
            x = side * (a * grow_a * scale + 5.5) * cos
            y = 2.0 + (b * grow_b * scale + 5.5) * sin
            tangent = np.arctan2(b * cos, -side * a * sin)
            shapes.append(((x, y), (9.0 + 6.0 * abs(sin), 4.2), tangent))
        if level < 0.5:
            blade = (side * (0.70 * body.width), 0.60 * body.height)
            shapes.append((blade, (30.0, 4.0), side * -0.75))
    return shapes


def _lung_hu(
    body: _Anatomy, x: Array, y: Array, level: float, depth: Array, textures: _Textures
) -> Array:
    """HU of healthy lung tissue without vessels: denser towards the back, with fissures."""
    z = level * LUNG_LENGTH
    back = np.clip((y + body.cavity_height) / (2 * body.cavity_height), 0.0, 1.0)
    hu = body.lung_front + body.lung_back * back**1.5
    middle = _mix(textures.middle, z)
    hu += 16.0 * _mix(textures.coarse, z) + 12.0 * middle
    reach = body.atelectasis_depth * (1.0 + 0.35 * _mix(textures.coarse, z))
    wall = np.clip(-_cavity(body, x, y, level), 0.0, None)
    dependent = np.exp(-np.minimum(wall, depth + 4.0) / np.maximum(reach, 2.0))
    hu += body.atelectasis * dependent * _step(0.05, 0.7, y / body.cavity_height)
    for side, start in zip((-1.0, 1.0), body.fissure, strict=True):
        bend = 0.0035 * (np.abs(x) - 60.0) ** 2
        line = y - (start - 120.0 * (level - 0.5) - bend + 2.0 * middle)
        hu += 130.0 * np.exp(-((line / 1.5) ** 2)) * (side * x > 0)
    return hu


def _add_vessels(
    hu: Array, trees: Sequence[_Vessels], z: float, scanner: _Scanner, blood: float
) -> None:
    """Vessels, and beside the larger arteries an airway with its wall; in place."""
    for index, tree in enumerate(trees):
        hu += np.clip(blood - 15.0 - hu, 0.0, None) * _vessel_cover(tree, z, scanner)
        if index % 2 == 0:
            wide = (tree.radius > 1.7) & (tree.radius < 5.0)
            side = np.sign(tree.start[:1, 0])
            move = np.array([[1.0, 1.0, 0.0]]) * (1.75 * tree.radius[wide, None])
            move[:, 0] *= side
            airway = _Vessels(tree.start[wide] + move, tree.end[wide] + move, tree.radius[wide])
            hu += np.clip(-380.0 - hu, 0.0, None) * _vessel_cover(airway, z, scanner, 1.1)
            hu += (-975.0 - hu) * _vessel_cover(airway, z, scanner, 0.72)


def _add_lesions(
    healthy: Array, lesions: Sequence[_Lesion], x: Array, y: Array, z: float, textures: _Textures
) -> tuple[Array, Array]:
    """HU of the lung with its lesions, and the density 0..1 of consolidation, [SIZE, SIZE]."""
    coarse, middle, fine = (_mix(f, z) for f in (textures.coarse, textures.middle, textures.fine))
    hu, solid_left = healthy.copy(), np.ones_like(healthy)
    for lesion in lesions:
        if abs(z - lesion.centre[2]) > 1.6 * lesion.radii[2]:
            continue
        glass, solid = _lesion_fields(lesion, x, y, z, coarse, middle)
        target = healthy + lesion.opacity + 45.0 * middle + 35.0 * fine
        target += lesion.paving * np.exp(-((middle / 0.22) ** 2))
        hu += np.clip(np.clip(target, -740.0, -300.0) - hu, 0.0, None) * glass
        hu += np.clip(lesion.core_hu + 20.0 * fine - hu, 0.0, None) * solid
        solid_left *= 1.0 - solid
    return hu, 1.0 - solid_left


def _label(added: Array, solid: Array, inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Class 0, 1 or 2 as a reader would outline it: what stands out from the healthy lung.

    Args:
      added: HU that the lesions add.
      solid: density 0..1 of consolidation.
      inside: the lungs.
    """
    visible = ndimage.gaussian_filter(added, 1.2) > VISIBLE_HU
    mask = np.where(visible, 1, 0)
    return (np.where(ndimage.gaussian_filter(solid, 0.6) > 0.5, 2, mask) * inside).astype(np.uint8)


def _scan(hu: Array, scanner: _Scanner, rng: np.random.Generator) -> NDArray[np.int16]:
    """Blur, HU shift and gain, correlated noise, rounding to int16."""
    hu = ndimage.gaussian_filter(hu, scanner.blur)
    hu = (hu + 1000.0) * scanner.gain - 1000.0 + scanner.shift
    grain = ndimage.gaussian_filter(rng.standard_normal(hu.shape), scanner.grain)
    hu += grain * (scanner.noise / grain.std())
    return np.rint(np.clip(hu, *HU_RANGE)).astype(np.int16)


@dataclass(frozen=True)
class _Patient:
    """All that the slices of one patient share."""

    body: _Anatomy
    vessels: list[_Vessels]
    lesions: list[_Lesion]
    textures: _Textures
    scanner: _Scanner
    levels: Array


def _draw_patient(rng: np.random.Generator) -> _Patient:
    """Draws body, scanner, slice levels, vessels and lesions, in this order."""
    body = _draw_anatomy(rng)
    scanner = _Scanner(
        spacing=2.0 * body.width * rng.uniform(1.03, 1.10) / SIZE,
        turn=float(np.radians(rng.normal(0, 2.5))),
        move=(rng.normal(0, 4.0), rng.normal(-4, 6.0)),
        shift=float(np.clip(rng.normal(0, 22), -50, 50)),
        gain=rng.uniform(0.96, 1.04),
        blur=rng.uniform(0.35, 0.75),
        noise=rng.uniform(14, 38),
        grain=rng.uniform(0.5, 0.9),
        thickness=rng.uniform(2.0, 5.0),
    )
    gap = rng.uniform(0.05, 0.11)
    first = rng.uniform(0.24, 0.88 - gap * (SLICES_PER_PATIENT - 1))
    levels = first + gap * np.arange(SLICES_PER_PATIENT)
    vessels = _draw_vessels(body, rng)
    lesions = _draw_lesions(body, rng, levels * LUNG_LENGTH, scanner.spacing)
    return _Patient(body, vessels, lesions, _draw_textures(rng), scanner, levels)


def _pixels(scanner: _Scanner) -> tuple[Array, Array]:
    """Place of every pixel's centre in the patient, mm, both [SIZE, SIZE]."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2) * scanner.spacing
    x, y = np.meshgrid(axis - scanner.move[0], axis - scanner.move[1])
    return _turned(x, y, -scanner.turn)


def _cut(
    patient: _Patient, level: float, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (HU), mask (0, 1, 2) and lung mask (0, 1) of one slice, each [SIZE, SIZE]."""
    body, scanner = patient.body, patient.scanner
    x, y = _pixels(scanner)
    field = _lungs(body, x, y, level)
    edge = 1.2 * scanner.spacing
    smear = body.breathing * np.exp(-np.clip(np.abs(_domes(body, x, y, level)) / 12.0, 0, 30))
    share = np.clip(0.5 - field / (edge + smear), 0.0, 1.0)
    z = level * LUNG_LENGTH
    healthy = _lung_hu(body, x, y, level, np.clip(-field, 0, None), patient.textures)
    lung, solid = _add_lesions(healthy, patient.lesions, x, y, z, patient.textures)
    mask = _label(lung - healthy, solid, field < 0)
    _add_vessels(lung, patient.vessels, z, scanner, body.blood)
    around = _body_hu(body, x, y, level, edge)
    image = _scan(around + (lung - around) * share, scanner, rng)
    return image, mask, (field < 0).astype(np.uint8)


def make_patient(patient_index: int, *, seed: int = SEED) -> list[Slice]:
    """All slices of one phantom patient, the same for the same seed and index.

    Args:
      patient_index: number of the patient, 0 or more.
      seed: the data set's seed.

    Returns:
      `SLICES_PER_PATIENT` slices from apex to base: image int16 HU, mask and lung uint8, all
      [SIZE, SIZE]; spacing in mm.
    """
    rng = np.random.default_rng([seed, patient_index])
    patient = _draw_patient(rng)
    name = f"phantom{patient_index:04d}"
    spacing = (patient.scanner.spacing, patient.scanner.spacing)
    return [
        Slice(*_cut(patient, float(level), rng), f"{name}_{k}", name, spacing)
        for k, level in enumerate(patient.levels)
    ]


def patients_of(split: str) -> range:
    """Patient numbers of a split; no patient is in two splits.

    Raises:
      ValueError: `split` does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"ct_phantom has no split {split!r}; it has {', '.join(SPLITS)}")
    names = list(SPLITS)
    first = sum(SPLITS[name] for name in names[: names.index(split)])
    return range(first, first + SPLITS[split])


# --------------------------------------------------------------------------- baseline


def fit_threshold(slices: Sequence[Slice]) -> float:
    """The lower HU bound inside the lung mask with the best pooled binary DSC on `slices`.

    Exact: every whole HU is tried by summing two histograms.

    Raises:
      ValueError: a slice has no mask or no lung mask.
    """
    bins = np.arange(HU_RANGE[0], HU_RANGE[1] + 2)
    every, lesion = np.zeros(len(bins) - 1), np.zeros(len(bins) - 1)
    for item in slices:
        if item.mask is None or item.lung is None:
            raise ValueError(f"slice {item.id}: fitting a threshold needs a mask and a lung mask")
        inside = item.lung > 0
        every += np.histogram(item.image[inside], bins)[0]
        lesion += np.histogram(item.image[inside & (item.mask > 0)], bins)[0]
    above, hits = np.cumsum(every[::-1])[::-1], np.cumsum(lesion[::-1])[::-1]
    return float(bins[np.argmax(2.0 * hits / (above + lesion.sum() + 1e-9))])


def apply_threshold(item: Slice, bound: float) -> NDArray[np.uint8]:
    """Binary mask [H, W]: pixels of the lung mask with at least `bound` HU.

    Raises:
      ValueError: the slice has no lung mask.
    """
    if item.lung is None:
        raise ValueError(f"slice {item.id}: the threshold baseline needs a lung mask")
    return ((item.lung > 0) & (item.image >= bound)).astype(np.uint8)


# --------------------------------------------------------------------------- TFDS


class CtPhantom(tfds.core.GeneratorBasedBuilder):
    """Phantom chest CT slices with lung mask, GGO and consolidation; nothing to download."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def _info(self) -> tfds.core.DatasetInfo:
        grid = (None, None)
        return self.dataset_info_from_configs(
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=grid, dtype=np.int16, encoding="zlib"),
                    "mask": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding="zlib"),
                    "lung": tfds.features.Tensor(shape=grid, dtype=np.uint8, encoding="zlib"),
                    "id": tfds.features.Text(),
                    "patient": tfds.features.Text(),
                    "spacing": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                }
            ),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
        del dl_manager
        return {split: self._generate_examples(patients_of(split)) for split in SPLITS}

    def _generate_examples(self, patients: range) -> Iterator[tuple[str, dict[str, object]]]:
        for patient in patients:
            for item in make_patient(patient):
                yield (
                    item.id,
                    {
                        "image": item.image,
                        "mask": item.mask,
                        "lung": item.lung,
                        "id": item.id,
                        "patient": item.patient,
                        "spacing": np.asarray(item.spacing, np.float32),
                    },
                )
