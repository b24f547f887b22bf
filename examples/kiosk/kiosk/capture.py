"""A made-up camera: one drawing in, one 32-pixel photograph out. Numpy only.

The person stands before a textured background with up to three shapes, lit by `light`. The lens blurs, the sensor
adds shot and read noise, auto exposure follows the mean of the frame. All of it happens in linear light. Skin of
tone VI sends back a fifth of the light of tone I-II, so in dim light it drowns in the read noise first: the mechanism
behind real cameras' disparities.

Every photograph has a random stream of its own, so any batch can be taken alone and comes out the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SIZE = 32
DARKEST, BRIGHTEST = 0.025, 1.0
SHOT_ELECTRONS = 400.0
READ_NOISE = 0.004
SHAPES = 3

Floats = NDArray[np.float32]

_CHUNK = 16
_DRAWS = 80


def _to_linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _bicubic(coarse: int, fine: int) -> Floats:
    """Return the matrix [fine, coarse] of Catmull-Rom interpolation, ends held."""
    position = np.linspace(0, coarse - 1, fine)
    left = np.minimum(position.astype(int), coarse - 2)
    t = position - left
    weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    matrix = np.zeros((fine, coarse))
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        np.add.at(matrix, (np.arange(fine), np.clip(left + offset, 0, coarse - 1)), weight / 2)
    return matrix.astype(np.float32)


_LINEAR = _to_linear(np.arange(256) / 255).astype(np.float32)
_SRGB = np.rint(255 * _to_srgb(np.arange(65536) / 65535)).astype(np.uint8)
_TEXTURE = _bicubic(5, SIZE)
_CENTRES = ((np.arange(SIZE) + 0.5) / SIZE - 0.5).astype(np.float32)
_FINE = ((np.arange(2 * SIZE) + 0.5) / (2 * SIZE) - 0.5).astype(np.float32)


def stream(seed: int, split: str, row: int) -> np.random.Generator:
    """Return the random stream of one photograph (Philox: the row is the counter, seed and split are the key)."""
    key = hashlib.blake2b(f"{seed}/{split}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"), counter=row << 64))


def take(
    drawings: NDArray[np.uint8], *, light: NDArray[np.float64], streams: Sequence[np.random.Generator]
) -> NDArray[np.uint8]:
    """Photograph drawings.

    Parameters
    ----------
    drawings : array of uint8 [n, 64, 64, 4]
        sRGB with straight alpha.
    light : array of float [n]
        From `DARKEST` to `BRIGHTEST`; 1 lights a white wall to the sensor's full well.
    streams : sequence of n Generator
        One per photograph, as `stream` makes them.

    Returns
    -------
    array of uint8 [n, 3, 32, 32]
        sRGB, red first.
    """
    photographs = np.empty((len(drawings), 3, SIZE, SIZE), np.uint8)
    for start in range(0, len(drawings), _CHUNK):
        part = slice(start, start + _CHUNK)
        draws = _Draws(streams[part])
        scene = _person_before(_background(draws), drawings[part], draws)
        exposed = _expose(_light(_blur(scene, draws), light[part], draws), streams[part])
        photographs[part] = exposed.transpose(0, 3, 1, 2)
    return photographs


class _Draws:
    """Uniform numbers of a chunk, one row per photograph, handed out in a fixed order."""

    def __init__(self, streams: Sequence[np.random.Generator]) -> None:
        self._values = np.stack([one.random(_DRAWS) for one in streams]).astype(np.float32)
        self._used = 0

    def uniform(self, low: float, high: float, *shape: int) -> Floats:
        """Return numbers [n, *shape]."""
        first, self._used = self._used, self._used + int(np.prod(shape))
        values = self._values[:, first : self._used].reshape(-1, *shape)
        return np.float32(low) + np.float32(high - low) * values

    def chance(self, *shape: int) -> NDArray[np.bool_]:
        """Return fair coins [n, *shape]."""
        return self.uniform(0, 1, *shape) < 0.5

    def albedo(self, *shape: int) -> Floats:
        """Return albedos, log-uniform from .02 to .7, with a tint: [n, *shape, 3]."""
        return np.exp(self.uniform(np.log(0.02), np.log(0.7), *shape, 1)) * self.uniform(0.75, 1.25, *shape, 3)


def _background(draws: _Draws) -> Floats:
    """Return albedos [n, 32, 32, 3]: a textured wall and up to three boxes or ellipses."""
    grid = draws.uniform(0.5, 1.5, 5, 5)
    texture = np.clip(_TEXTURE @ grid @ _TEXTURE.T, 0.1, 2)
    wall = texture[..., None] * draws.albedo()[:, None, None]
    present, is_box = draws.chance(SHAPES), draws.chance(SHAPES)
    middle, half = draws.uniform(-0.5, 0.5, SHAPES, 2), draws.uniform(0.05, 0.3, SHAPES, 2)
    colours = draws.albedo(SHAPES)
    for shape in range(SHAPES):
        x = np.abs(_CENTRES[None, None, :] - middle[:, shape, 0, None, None]) / half[:, shape, 0, None, None]
        y = np.abs(_CENTRES[None, :, None] - middle[:, shape, 1, None, None]) / half[:, shape, 1, None, None]
        radius = np.where(is_box[:, shape, None, None], np.maximum(x, y), np.hypot(x, y))
        inside = (radius < 1) & present[:, shape, None, None]
        wall = np.where(inside[..., None], colours[:, shape, None, None], wall)
    return wall


def _person_before(background: Floats, drawings: NDArray[np.uint8], draws: _Draws) -> Floats:
    """Put each drawing before its background: scaled, turned, shifted, flipped; four samples per pixel."""
    angle, scale = np.deg2rad(draws.uniform(-15, 15, 1, 1)), draws.uniform(0.45, 0.95, 1, 1)
    shift, flip = draws.uniform(-0.15, 0.15, 2), np.where(draws.chance(1, 1), np.float32(-1), np.float32(1))
    x = _FINE[None, None, :] - shift[:, 0, None, None]
    y = _FINE[None, :, None] - shift[:, 1, None, None]
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    person = _sample(drawings, flip * (cosine * x + sine * y), cosine * y - sine * x)
    person = 0.25 * (person[:, ::2, ::2] + person[:, 1::2, ::2] + person[:, ::2, 1::2] + person[:, 1::2, 1::2])
    return person[..., :3] + background * (1 - person[..., 3:])


def _sample(drawings: NDArray[np.uint8], x: Floats, y: Floats) -> Floats:
    """Sample drawings [n, s, s, 4] at points (0 is the middle, 1 the width), as linear premultiplied RGBA."""
    n, side = drawings.shape[:2]
    source = np.zeros((n, side + 2, side + 2, 4), np.float32)
    alpha = drawings[..., 3:] * np.float32(1 / 255)
    source[:, 1:-1, 1:-1, :3] = _LINEAR[drawings[..., :3]] * alpha
    source[:, 1:-1, 1:-1, 3:] = alpha
    x, y = (np.clip((one + 0.5) * side + 0.5, 0, side + 0.999) for one in (x, y))
    column, row = x.astype(np.int32), y.astype(np.int32)
    right, down = (x - column)[..., None], (y - row)[..., None]
    corner = (np.arange(n, dtype=np.int32)[:, None, None] * (side + 2) + row) * (side + 2) + column
    pixels = source.view(np.complex128).ravel()  # one 16-byte item per pixel: numpy gathers those fastest

    def at(offset: int) -> Floats:
        return np.take(pixels, corner + offset, mode="clip").view(np.float32).reshape(*corner.shape, 4)

    below = side + 2
    return _mix(_mix(at(0), at(1), right), _mix(at(below), at(below + 1), right), down)


def _mix(a: Floats, b: Floats, share: Floats) -> Floats:
    b -= a
    b *= share
    b += a
    return b


def _blur(scene: Floats, draws: _Draws) -> Floats:
    """Blur with a Gaussian of .3 to 1 pixel."""
    sigma = draws.uniform(0.3, 1.0, 1, 1)
    distance = np.subtract.outer(np.arange(SIZE), np.arange(SIZE)).astype(np.float32)
    kernel = np.exp(-0.5 * (distance / sigma) ** 2)
    kernel /= kernel.sum(2, keepdims=True)
    down = (kernel @ scene.reshape(-1, SIZE, SIZE * 3)).reshape(-1, SIZE, SIZE, 3)
    return kernel[:, None] @ down


def _light(scene: Floats, light: NDArray[np.float64], draws: _Draws) -> Floats:
    """Multiply by the light: its level, its colour cast, and a linear fall-off across the frame."""
    cast = draws.uniform(0.8, 1.2, 3)
    slope = draws.uniform(-0.6, 0.6, 2)
    shading = 1 + slope[:, 0, None, None] * _CENTRES + slope[:, 1, None, None] * _CENTRES[:, None]
    return scene * shading[..., None] * (light.astype(np.float32)[:, None] * cast)[:, None, None]


def _expose(signal: Floats, streams: Sequence[np.random.Generator]) -> NDArray[np.uint8]:
    """Add shot and read noise, choose the gain by the mean of the frame, and encode as 8-bit sRGB."""
    noise = np.stack([one.standard_normal(signal.shape[1:], np.float32) for one in streams])
    seen = signal + np.sqrt(signal / np.float32(SHOT_ELECTRONS) + np.float32(READ_NOISE**2)) * noise
    mean = np.maximum(seen.mean((1, 2, 3), keepdims=True), np.float32(1e-6))
    gain = np.clip(np.float32(0.22) / mean, 0.5, 10)
    return _SRGB[np.rint(np.clip(seen * gain, 0, 1) * 65535).astype(np.int32)]
