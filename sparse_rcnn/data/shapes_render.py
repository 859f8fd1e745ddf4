"""Drawing for the generated data set: shapes as signed distances, textures, backgrounds. numpy alone.

Pixel (row, column) covers [column, column + 1) x [row, row + 1); distances are taken at pixel centres, are
negative inside and in pixels, so that ``distance < 0`` is the mask and ``0.5 - distance`` the antialiasing.
Nothing here uses a font or an imaging library's drawing, whose pixels change with the version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NORMAL_CONTRAST = 95.0  # least RGB distance (0..255 scale) of an object's colour from what lies under it
LOW_CONTRAST = (40.0, 60.0)


@dataclass(frozen=True)
class Pose:
    """Where an object lies: centre and half extents in pixels before the rotation by ``angle`` (radians)."""

    centre_xy: tuple[float, float]
    half_extents: tuple[float, float]
    angle: float

    @cached_property
    def matrix(self) -> Array:
        """The 2x2 map from the shape's unit frame ([-1, 1] squared) to pixels, without the centre."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        a, b = self.half_extents
        return np.array([[a * cos, -b * sin], [a * sin, b * cos]])

    @cached_property
    def inverse(self) -> Array:
        """The 2x2 map back from pixels (less the centre) to the unit frame."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        a, b = self.half_extents
        return np.array([[cos / a, sin / a], [-sin / b, cos / b]])

    @cached_property
    def window_xyxy(self) -> tuple[int, int, int, int]:
        """Pixel window around the object, margin for the antialiasing included; may leave the image."""
        (x, y), (half_w, half_h) = self.centre_xy, np.abs(self.matrix).sum(axis=1) + 1.5
        return math.floor(x - half_w), math.floor(y - half_h), math.ceil(x + half_w), math.ceil(y + half_h)


@dataclass(frozen=True)
class Patch:
    """Centres of the pixels of a window: ``x`` (w,), ``y`` (h, 1), ``u``, ``v`` (h, w) in the unit frame."""

    x: Array
    y: Array
    u: Array
    v: Array
    pose: Pose


def patch(pose: Pose) -> Patch:
    """The pixel centres of ``pose.window_xyxy``."""
    x0, y0, x1, y1 = pose.window_xyxy
    x, y = 0.5 + np.arange(x0, x1, dtype=np.float64), 0.5 + np.arange(y0, y1, dtype=np.float64)[:, None]
    dx, dy, inverse = x - pose.centre_xy[0], y - pose.centre_xy[1], pose.inverse
    return Patch(x, y, inverse[0, 0] * dx + inverse[0, 1] * dy, inverse[1, 0] * dx + inverse[1, 1] * dy, pose)


# --- shapes -----------------------------------------------------------------------------------------------


def polygon_distance(at: Patch, unit_vertices: Array) -> Array:
    """Exact signed distance to a simple polygon of the unit frame (an affine map keeps it a polygon)."""
    vertices = unit_vertices @ at.pose.matrix.T + at.pose.centre_xy
    squared, inside = np.full(at.u.shape, np.inf), np.zeros(at.u.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(vertices.tolist(), np.roll(vertices, -1, axis=0).tolist(), strict=True):
        ex, ey, wx, wy = bx - ax, by - ay, at.x - ax, at.y - ay
        t = np.clip((wx * ex + wy * ey) / (ex**2 + ey**2), 0.0, 1.0)
        np.minimum(squared, (wx - t * ex) ** 2 + (wy - t * ey) ** 2, out=squared)
        if ey != 0:  # even-odd rule: count the edges crossed on the way to the right
            inside ^= ((wy < 0) != (at.y < by)) & (wx < wy * (ex / ey))
    return np.where(inside, -1.0, 1.0) * np.sqrt(squared)


def ellipse_distance(at: Patch, centre_u: float, radius: float) -> Array:
    """Signed distance, to first order, to a circle of the unit frame (an ellipse in pixels)."""
    u, v = at.u - centre_u, at.v
    r = np.maximum(np.hypot(u, v), 1e-9)
    inverse = at.pose.inverse
    slope = np.hypot(u * inverse[0, 0] + v * inverse[1, 0], u * inverse[0, 1] + v * inverse[1, 1]) / r
    return (r - radius) / np.maximum(slope, 1e-9)


def _star() -> Array:
    angles, radii = np.arange(10) * math.pi / 5, np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _polygon(*vertices: tuple[float, float]) -> Callable[[Patch], Array]:
    unit_vertices = np.array(vertices)
    return lambda at: polygon_distance(at, unit_vertices)


def _ring(at: Patch) -> Array:
    return np.maximum(ellipse_distance(at, 0.0, 1.0), -ellipse_distance(at, 0.0, 0.55))


def _crescent(at: Patch) -> Array:
    return np.maximum(ellipse_distance(at, 0.0, 1.0), -ellipse_distance(at, 0.5, 0.8))


_A = 0.36  # half the width of the plus's arms
SHAPES: dict[str, Callable[[Patch], Array]] = {
    "disc": lambda at: ellipse_distance(at, 0.0, 1.0),
    "square": _polygon((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": _polygon((0, -1), (1, 0.9), (-1, 0.9)),
    "plus": _polygon(
        *((-_A, -1), (_A, -1), (_A, -_A), (1, -_A), (1, _A), (_A, _A)),
        *((_A, 1), (-_A, 1), (-_A, _A), (-1, _A), (-1, -_A), (-_A, -_A)),
    ),
    "star": _polygon(*map(tuple, _star())),
    "ring": _ring,
    "crescent": _crescent,
    "arrow": _polygon((1, 0), (0.1, -0.9), (0.1, -0.35), (-1, -0.35), (-1, 0.35), (0.1, 0.35), (0.1, 0.9)),
    "bowtie": _polygon((-1, -0.9), (0, -0.15), (1, -0.9), (1, 0.9), (0, 0.15), (-1, 0.9)),
    "corner": _polygon((-1, -1), (-0.25, -1), (-0.25, 0.25), (1, 0.25), (1, 1), (-1, 1)),
}
"""Class name -> signed distance (h, w) in pixels at a patch. No two differ by rotation or scaling alone."""


# --- textures and colours ---------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _interpolation(size: int, num_cells: int) -> NDArray[np.float32]:
    position = (np.arange(size) + 0.5) / size * (num_cells - 1)
    left = np.minimum(position.astype(int), num_cells - 2)
    weight = (1 - np.cos((position - left) * math.pi)) / 2
    matrix = np.zeros((size, num_cells), np.float32)
    matrix[np.arange(size), left] = 1 - weight
    matrix[np.arange(size), left + 1] = weight
    return matrix


def smooth_noise(rng: np.random.Generator, height: int, width: int, num_cells: int) -> NDArray[np.float32]:
    """Smooth random field (height, width) of about unit variance, with ``num_cells`` (>= 2) knots a side."""
    knots = rng.standard_normal((num_cells, num_cells), dtype=np.float32)
    return _interpolation(height, num_cells) @ knots @ _interpolation(width, num_cells).T


def texture(rng: np.random.Generator, x: Array, y: Array, period: float, kinds: tuple[str, ...]) -> Array:
    """A random texture in [0, 1] over coordinates in pixels: the weight of the second of two colours."""
    kind = kinds[int(rng.integers(len(kinds)))]
    phase_x, phase_y = rng.uniform(0, 2 * math.pi, 2)
    sharpness = period / math.pi  # transitions of about one pixel
    if kind == "gradient":
        return np.clip(0.5 + x / (4 * period), 0, 1)
    if kind == "noise":
        num_cells = max(3, round(max(x.shape) / period))
        return np.clip(0.5 + smooth_noise(rng, x.shape[0], x.shape[1], num_cells), 0, 1)
    wave_x, wave_y = np.sin(x * 2 * math.pi / period + phase_x), np.sin(y * 2 * math.pi / period + phase_y)
    if kind == "stripes":
        return np.clip(0.5 + wave_x * sharpness, 0, 1)
    if kind == "checker":
        return np.clip(0.5 + wave_x * wave_y * sharpness, 0, 1)
    assert kind == "dots", kind
    return np.clip(0.5 + (wave_x + wave_y - 0.9) * sharpness, 0, 1)


TEXTURES = ("gradient", "noise", "stripes", "checker", "dots")


HUE_SPREAD = 0.035  # standard deviation around a class's own hue, in turns of the colour circle


def random_colour(rng: np.random.Generator, saturation_range: tuple[float, float], hue: float | None = None) -> Array:
    """An RGB colour (3,) in 0..255, not too dark, of any hue or near one (in turns of the colour circle)."""
    turn = rng.uniform() if hue is None else hue + HUE_SPREAD * rng.standard_normal()
    full = np.clip(np.abs((turn * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    low, high = saturation_range
    saturation, value = low + (high - low) * math.sqrt(rng.uniform()), rng.uniform(60, 250)
    return value * (1 - saturation + saturation * full)


def _contrasting_colour(rng: np.random.Generator, under: Array, hue: float | None) -> Array:
    saturation_range = (0.0, 0.95) if hue is None else (0.6, 1.0)
    best, best_contrast = under, -1.0
    for _ in range(6):
        colour = random_colour(rng, saturation_range, hue)
        contrast = float(np.linalg.norm(colour - under))
        if contrast > best_contrast:
            best, best_contrast = colour, contrast
        if contrast >= NORMAL_CONTRAST:
            break
    return best


def paint_object(
    canvas: NDArray[np.float32],
    rng: np.random.Generator,
    at: Patch,
    distance: Array,
    low_contrast: bool,
    textured: bool,
    hue: float | None,
) -> None:
    """Paint one object over ``canvas`` (H, W, 3; 0..255) in place, in any colour or near a hue."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = at.pose.window_xyxy
    inside = np.s_[max(0, -y0) : height - y0, max(0, -x0) : width - x0]
    view = canvas[max(0, y0) : y1, max(0, x0) : x1]
    d, u, v = distance[inside], at.u[inside], at.v[inside]
    under = view[d < 0].mean(axis=0) if (d < 0).any() else view.mean(axis=(0, 1))
    half_w, half_h = at.pose.half_extents
    if low_contrast:
        direction = rng.standard_normal(3)
        direction *= np.sign(127.5 - under) * np.sign(direction)  # away from the end of the scale
        first = under + direction / np.linalg.norm(direction) * rng.uniform(*LOW_CONTRAST)
    else:
        first = _contrasting_colour(rng, under, hue)
    colour = np.broadcast_to(first, (*d.shape, 3))
    if textured:
        second = first + rng.uniform(0.35, 0.7) * (_contrasting_colour(rng, under, hue) - first)
        if low_contrast:
            second = first + rng.uniform(-25, 25, 3)
        period = max(3.5, 2 * min(half_w, half_h) * rng.uniform(0.22, 0.5))
        colour = colour + texture(rng, u * half_w, v * half_h, period, TEXTURES)[..., None] * (second - first)
    light = rng.uniform(-0.16, 0.16, 2)
    shade = 1 + light[0] * u + light[1] * v
    if rng.uniform() < 0.35 and min(half_w, half_h) > 6 and not low_contrast:  # an outline
        shade = shade * (1 + rng.choice([-0.45, 0.35]) * np.clip(d + rng.uniform(1.0, 2.2) + 0.5, 0, 1))
    coverage = np.clip(0.5 - d, 0, 1)[..., None]
    view += coverage * (np.clip(colour * shade[..., None], 0, 255) - view)


# --- backgrounds ------------------------------------------------------------------------------------------


def _paint_stroke(canvas: NDArray[np.float32], rng: np.random.Generator, max_saturation: float) -> None:
    """Paint a straight or bent stroke: a quadratic curve cut into segments."""
    size = len(canvas)
    start, middle, end = rng.uniform(-0.1, 1.1, (3, 2)) * size
    bent = rng.uniform() < 0.5
    t = np.linspace(0, 1, 7 if bent else 2)[:, None]
    bend = middle if bent else (start + end) / 2
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    half_width = rng.uniform(0.5, 1.8) * size / 128
    view, x, y = _window(canvas, points.min(axis=0) - half_width, points.max(axis=0) + half_width)
    ax, ay = points[:-1].T[:, :, None, None]
    ex, ey = np.diff(points, axis=0).T[:, :, None, None]
    s = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex**2 + ey**2 + 1e-9), 0, 1)
    squared = ((x - ax - s * ex) ** 2 + (y - ay - s * ey) ** 2).min(axis=0)
    _paint_distractor(view, rng, np.sqrt(squared) - half_width, max_saturation)


def _paint_blotch(canvas: NDArray[np.float32], rng: np.random.Generator, max_saturation: float) -> None:
    """Paint an irregular blotch: a circle whose radius wobbles so much that it is none of the shapes."""
    size = len(canvas)
    centre, radius = rng.uniform(0, size, 2), rng.uniform(0.04, 0.2) * size
    view, x, y = _window(canvas, centre - 1.7 * radius, centre + 1.7 * radius)
    angle = np.arctan2(y - centre[1], x - centre[0])
    wobble = np.zeros_like(angle)
    for k in (2, 3, 5):
        amplitude, phase = rng.uniform(0.12, 0.3) / math.sqrt(k - 1), rng.uniform(0, 2 * math.pi)
        wobble += amplitude * np.sin(k * angle + phase)
    distance = np.hypot(x - centre[0], y - centre[1]) - radius * (1 + wobble)
    _paint_distractor(view, rng, distance, max_saturation)


def _window(canvas: NDArray[np.float32], low_xy: Array, high_xy: Array) -> tuple[NDArray[np.float32], Array, Array]:
    """A view of the canvas around a box, with room for soft edges, and its pixel centres x (w,), y (h, 1)."""
    (x0, y0), (x1, y1) = (np.clip(np.floor(p), 0, len(canvas)).astype(int) for p in (low_xy - 4, high_xy + 5))
    return canvas[y0:y1, x0:x1], np.arange(x0, x1) + 0.5, (np.arange(y0, y1) + 0.5)[:, None]


def _paint_distractor(
    view: NDArray[np.float32], rng: np.random.Generator, distance: Array, max_saturation: float
) -> None:
    softness = 1.0 if rng.uniform() < 0.6 else rng.uniform(2, 6)
    coverage = np.clip(0.5 - distance / softness, 0, 1) * rng.uniform(0.25, 0.8)
    view += coverage[..., None] * (random_colour(rng, (0.0, max_saturation)) - view)


def paint_background(
    rng: np.random.Generator, size: int, max_distractors: int, max_saturation: float
) -> NDArray[np.float32]:
    """A cluttered background (size, size, 3), 0..255: gradient, smooth noise, texture patches, distractors.

    Distractors are strokes and irregular blotches, up to ``max_distractors`` of them: no class looks so.
    """
    y, x = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5, indexing="ij")
    first, second = (random_colour(rng, (0.0, max_saturation)) for _ in range(2))
    angle = rng.uniform(0, 2 * math.pi)
    along = 0.5 + ((x / size - 0.5) * math.cos(angle) + (y / size - 0.5) * math.sin(angle)) / 1.4
    canvas = (first + along[..., None] * rng.uniform(0.3, 1.0) * (second - first)).astype(np.float32)
    canvas += rng.uniform(4, 22) * smooth_noise(rng, size, size, int(rng.integers(3, 9)))[..., None]
    if rng.uniform() < 0.6:  # a region of another texture with an organic border
        region = np.clip(smooth_noise(rng, size, size, int(rng.integers(3, 6))) * 6 - rng.uniform(0, 4), 0, 1)
        turn = rng.uniform(0, math.pi)
        along_x, along_y = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        weight = texture(rng, along_x, along_y, rng.uniform(5, 16), ("stripes", "checker", "dots", "noise"))
        amplitude = rng.uniform(8, 26) * np.sign(rng.uniform(-1, 1)) * (0.5 + 0.5 * rng.uniform(0, 1, 3))
        canvas += (region * weight)[..., None] * amplitude
    for _ in range(int(rng.integers(max_distractors + 1))):
        paint_distractor = _paint_stroke if rng.uniform() < 0.5 else _paint_blotch
        paint_distractor(canvas, rng, max_saturation)
    return np.clip(canvas, 0, 255)
