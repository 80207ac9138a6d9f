"""The body of a chest CT phantom: its shapes in millimetres, and its Hounsfield units (HU).

`x` increases to the right of the picture, which is the patient's LEFT (the usual orientation in
radiology: the heart lies to the right of the picture's centre), `y` increases towards the back, and
`level` is from 0 (apex of the lungs) to 1 (base). A shape is a function of position; its value,
here called a field, is about the distance to its border in mm, negative inside.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_AIR, _FAT, _MUSCLE, _BLOOD, _LIVER = -1000.0, -100.0, 50.0, 42.0, 60.0
_MARROW, _CORTEX = 170.0, 620.0


@dataclass(frozen=True)
class Anatomy:
    """One patient's body, without lesions; lengths in mm, levels from 0 to 1."""

    width: float  # half width of the body
    height: float  # half height (front to back) of the body
    fat: float  # thickness of the fat under the skin
    cavity_width: float  # half width of the inside of the rib cage
    cavity_height: float  # half height of the inside of the rib cage
    heart: float  # scale of the heart
    heart_left: float  # distance of the heart's centre to the patient's left
    aorta: float  # radius of the descending aorta
    dome_right: float  # level of the top of the right half of the diaphragm
    dome_left: float  # level of the top of the left half of the diaphragm
    breathing: float  # width of the blurred border of the diaphragm
    rib_phase: float  # position of the ribs at level 0, as a share of the distance of two ribs
    rib_slope: float  # change of that position from level 0 to level 1
    blood: float  # HU of the blood, higher with contrast agent
    lung_front: float  # HU of the lung at the front
    lung_back: float  # HU added gradually towards the back
    atelectasis: float  # HU added at the back of the lung
    atelectasis_depth: float  # thickness of that layer
    fissure: tuple[float, float]  # y of the oblique fissure at level 0.5, right and left
    waves: Array  # [6, 4]: wave vectors (x, y, level) and phases of the irregular outlines


def step(low: float, high: float, value: Array | float) -> Array:
    """Return a smooth ramp from 0 at `low` to 1 at `high`.

    Args:
        low: where the ramp starts.
        high: where it ends.
        value: where to evaluate it, any shape.
    """
    u = np.clip((np.asarray(value, np.float32) - low) / (high - low), 0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


def _ellipse(
    x: Array, y: Array, centre: tuple, radii: tuple, angle: float = 0.0, power: float = 2.0
) -> Array:
    """Return the field of a (super)ellipse: about the distance to its border in mm."""
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    width, height = np.asarray(radii[0], np.float32), np.asarray(radii[1], np.float32)
    u, v = np.abs(c * dx + s * dy) / width, np.abs(c * dy - s * dx) / height
    rho = np.sqrt(u * u + v * v) if power == 2.0 else (u**power + v**power) ** (1.0 / power)
    return (rho - 1.0) * np.sqrt(width * height)


def _smooth_union(first: Array, second: Array, width: float) -> Array:
    """Return the field of the union of two shapes, with edges rounded over `width` mm."""
    h = np.clip(width - np.abs(first - second), 0.0, None) / width
    return np.minimum(first, second) - h * h * width * 0.25


def _cover(field: Array, edge: float) -> Array:
    """Return the share of each pixel inside a shape; the border is a ramp of `edge` mm."""
    return np.clip(0.5 - field / edge, 0.0, 1.0)


def _paint(hu: Array, field: Array, value: float | Array, edge: float) -> None:
    """Set the pixels of `hu` inside a shape to `value`, in place."""
    hu += (value - hu) * _cover(field, edge)


def turned(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return points rotated by an angle (clockwise in the picture).

    Args:
        x: coordinates of the points to the right, any shape.
        y: coordinates of the points downwards, of the same shape.
        angle: in radians.
    """
    c, s = math.cos(angle), math.sin(angle)
    return c * x - s * y, s * x + c * y


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient's body.

    Args:
        rng: the source of randomness.
    """
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
    return Anatomy(
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
        lung_front=rng.uniform(-915, -700),
        lung_back=rng.uniform(60, 210),
        atelectasis=rng.uniform(100, 430),
        atelectasis_depth=rng.uniform(4, 13),
        fissure=(rng.uniform(5, 30), rng.uniform(0, 25)),
        waves=waves,
    )


def _wobble(body: Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Return the irregularity of the organs' outlines, a few mm."""
    total = np.zeros(x.shape, np.float32)
    for kx, ky, kl, phase in body.waves.tolist():
        total += np.sin(kx * x + ky * y + kl * level + phase)
    return total * 1.2


def cavity(body: Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Return the field of the inside of the rib cage: narrow at the apex, kidney-shaped.

    Args:
        body: the patient's body.
        x: coordinates to the patient's left in mm, any shape.
        y: coordinates to the back in mm, of the same shape.
        level: from 0 (apex) to 1 (base).
    """
    grow = 0.62 + 0.38 * step(0.0, 0.5, level)
    a, b = body.cavity_width * grow, body.cavity_height * (0.72 + 0.28 * step(0.0, 0.4, level))
    return _ellipse(x * (1.0 - 0.09 * y / body.cavity_height), y, (0.0, 2.0), (a, b), power=2.4)


def _heart(body: Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Return the field of the heart; it is below the level of the great vessels."""
    grow = body.heart * (0.3 + 0.7 * step(0.36, 0.62, level))
    centre = (body.heart_left, -0.26 * body.cavity_height)
    field = _ellipse(x, y, centre, (64 * grow, 45 * grow), angle=0.5)
    return field + 60.0 * (1.0 - step(0.34, 0.46, level))


def _spine(body: Anatomy, x: Array, y: Array) -> Array:
    """Return the field of a vertebra with the soft tissue at its sides."""
    centre = 0.62 * body.cavity_height
    bone = _ellipse(x, y, (0.0, centre), (21.0, 18.0), power=2.3)
    return _smooth_union(bone, _ellipse(x, y, (0.0, centre + 42.0), (30.0, 32.0)), 10.0)


def _mediastinum(body: Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Return the field of all between the lungs, wider on the patient's left with the heart."""
    b = body.cavity_height
    front = _ellipse(x, y, (4.0, -0.62 * b), (13.0, 0.5 * b))
    upper = 1.0 - 0.25 * step(0.4, 0.6, level)
    middle = _ellipse(x, y, (2.0, -0.02 * b), (31.0 * upper, 0.62 * b))
    arch = _ellipse(x, y, (20.0, -0.02 * b), (22.0, 26.0)) + 40 * step(0.3, 0.4, level)
    aorta = _ellipse(x, y, (26.0, 0.42 * b), (body.aorta + 3, body.aorta + 3))
    field = _smooth_union(_smooth_union(front, middle, 12.0), _spine(body, x, y), 12.0)
    field = _smooth_union(_smooth_union(field, arch, 10.0), aorta, 8.0)
    return _smooth_union(field, _heart(body, x, y, level), 12.0)


def domes(body: Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Return the field of what is below the diaphragm: the liver (higher), spleen and stomach.

    Args:
        body: the patient's body.
        x: coordinates to the patient's left in mm, any shape.
        y: coordinates to the back in mm, of the same shape.
        level: from 0 (apex) to 1 (base).
    """
    a, b = body.cavity_width, body.cavity_height
    fields = []
    for side, top in ((-1.0, body.dome_right), (1.0, body.dome_left)):
        radius = 1.25 * np.sqrt(np.clip((level - top) / (1.0 - top), 0.0, 1.0))
        shape = _ellipse(x, y, (side * 0.56 * a, -0.12 * b), (0.42 * a, 0.72 * b))
        fields.append(shape + (1.0 - radius) * np.sqrt(0.42 * a * 0.72 * b))
    return np.minimum(fields[0], fields[1])


def lungs(body: Anatomy, x: Array, y: Array, level: Array | float) -> Array:
    """Return the field of both lungs.

    Args:
        body: the patient's body.
        x: coordinates to the patient's left in mm, any shape.
        y: coordinates to the back in mm, of the same shape.
        level: from 0 (apex) to 1 (base).

    Returns:
        About the distance to the pleura in mm, negative inside the lungs.
    """
    wobble = _wobble(body, x, y, level)
    inner = np.maximum(
        -_mediastinum(body, x, y, level) + wobble, -domes(body, x, y, level) + wobble
    )
    return np.maximum(cavity(body, x, y, level) + 0.5 * wobble, inner)


def body_hu(body: Anatomy, x: Array, y: Array, level: float, edge: float) -> Array:
    """Return the HU of everything but the lungs.

    Args:
        body: the patient's body.
        x: coordinates to the patient's left in mm, `[H, W]`.
        y: coordinates to the back in mm, `[H, W]`.
        level: from 0 (apex) to 1 (base).
        edge: width of the borders between tissues in mm.

    Returns:
        `[H, W]` float32.
    """
    hu = np.full(x.shape, _AIR, np.float32)
    couch = np.abs(y - body.height * 1.035 + x * x / 1400.0) - 1.3
    _paint(hu, couch, -350.0, edge)
    skin = _ellipse(x, y, (0.0, 0.0), (body.width, body.height), power=2.35)
    skin = skin + 0.6 * _wobble(body, x, y, 0.5)
    _paint(hu, skin, 0.0, edge)
    _paint(hu, skin + 2.5, _FAT, edge)
    inside = cavity(body, x, y, level)
    _paint_wall(hu, body, x, y, level, inside, edge)
    _paint(hu, inside, _FAT + 10, edge)
    _paint_mediastinum(hu, body, x, y, level, edge)
    _paint_bones(hu, body, x, y, level, edge)
    return hu


def _paint_wall(
    hu: Array, body: Anatomy, x: Array, y: Array, level: float, inside: Array, edge: float
) -> None:
    """Draw the muscles of the chest wall and the back, streaked with fat."""
    wobble = _wobble(body, 1.6 * x, 1.6 * y, level)
    _paint(hu, inside - 9.0 + wobble, _MUSCLE, edge)
    b = body.cavity_height
    for side in (-1.0, 1.0):
        breast = (side * 0.52 * body.width, -0.80 * body.height)
        chest = _ellipse(x, y, breast, (52.0, 11.0), angle=side * 0.32)
        _paint(hu, chest + 0.6 * wobble + 12 * step(0.5, 0.7, level), _MUSCLE - 8, edge)
        flank = (side * 0.83 * body.width, 0.34 * body.height)
        back = _ellipse(x, y, flank, (11.0, 46.0), angle=side * 0.5)
        _paint(hu, back + 0.6 * wobble, _MUSCLE, edge)
        erector = _ellipse(x, y, (side * 27.0, b + 6.0), (26.0, 17.0))
        _paint(hu, erector + 0.5 * wobble, _MUSCLE + 5, edge)


def _paint_mediastinum(
    hu: Array, body: Anatomy, x: Array, y: Array, level: float, edge: float
) -> None:
    """Draw heart, great vessels, oesophagus, liver, spleen, windpipe and main bronchi."""
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
    _paint(hu, domes(body, x, y, level), _LIVER, edge)
    _paint_airways(hu, body, x, y, level, edge)


def _paint_airways(hu: Array, body: Anatomy, x: Array, y: Array, level: float, edge: float) -> None:
    """Draw the windpipe, which divides into the two main bronchi below level 0.38."""
    b = body.cavity_height
    part = 30.0 * float(step(0.36, 0.52, level))
    width = 9.0 - 2.5 * float(step(0.36, 0.42, level))
    for side, lowest in ((-1.0, 0.54), (1.0, 0.58)):
        if level > lowest:
            continue
        centre = (side * part * (1.0 + 0.12 * side), (0.10 + 0.02 * side) * b)
        tube = _ellipse(x, y, centre, (width - 0.6 * side, 0.9 * width), angle=0.4 * side)
        _paint(hu, tube - 1.8, 20.0, edge)
        _paint(hu, tube, -985.0, edge)


def _paint_bones(hu: Array, body: Anatomy, x: Array, y: Array, level: float, edge: float) -> None:
    """Draw a vertebra with its arch, breastbone, ribs as oblique sections, shoulder blades."""
    b = body.cavity_height
    for centre, radii, angle in _bone_shapes(body, level):
        reach = max(radii) + 2.0 * edge
        near = (np.abs(x - centre[0]) < reach) & (np.abs(y - centre[1]) < reach)
        part, shape = hu[near], _ellipse(x[near], y[near], centre, radii, angle=angle)
        _paint(part, shape, _CORTEX, edge)
        _paint(part, shape + 2.2, _MARROW, edge)
        hu[near] = part
    body_of_vertebra = _ellipse(x, y, (0.0, 0.62 * b), (18.0, 15.0), power=2.3)
    _paint(hu, body_of_vertebra, _CORTEX - 150, edge)
    _paint(hu, body_of_vertebra + 2.0, _MARROW, edge)
    _paint(hu, _ellipse(x, y, (0.0, 0.62 * b + 23.0), (8.5, 7.5)), 30.0, edge)


def _bone_shapes(body: Anatomy, level: float) -> list[tuple[tuple, tuple, float]]:
    """Return centre, half axes (mm) and angle of the bones of a slice but the vertebral body."""
    a, b = body.cavity_width, body.cavity_height
    grow_a = 0.62 + 0.38 * float(step(0.0, 0.5, level))
    grow_b = 0.72 + 0.28 * float(step(0.0, 0.4, level))
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
