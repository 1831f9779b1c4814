"""Generated street scenes: a road in perspective with houses, trees, cars, people and signs.

Small enough to learn in a minute, varied enough that a bad network is visibly bad: colors of
different classes overlap, so place, shape and texture have to be learned as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from qaedge.errors import DataError

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Color = tuple[int, int, int]

SCENE_CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "pedestrian", "sign")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PEDESTRIAN, SIGN = range(8)

_WALLS = ((150, 92, 78), (186, 168, 140), (140, 136, 130), (205, 196, 182), (122, 100, 84), (168, 150, 160))
_LEAVES = ((66, 98, 48), (88, 112, 52), (52, 82, 56), (124, 112, 54), (98, 104, 72))
_PAINTS = ((165, 34, 32), (36, 58, 130), (38, 40, 44), (200, 202, 206), (120, 124, 128), (210, 170, 50), (48, 92, 74))
_CLOTHES = ((170, 60, 60), (50, 70, 120), (44, 44, 48), (190, 180, 160), (90, 110, 80), (200, 130, 60))
_SIGNS = ((196, 36, 40), (40, 84, 170), (226, 186, 40), (232, 232, 232))


class _Canvas:
    """An image [3, height, width] in 0..255 with its label, and the camera that looks down the road.

    Colors are [3, 1, 1], or [3, height, width] where they vary: planes are several times faster
    to paint than interleaved pixels.
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        """Choose a camera; `grain` is the fine texture that surfaces share."""
        self.rng, self.height, self.width = rng, height, width
        self.image: Floats = np.zeros((3, height, width), np.float32)
        self.label: Pixels = np.zeros((height, width), np.uint8)
        self.y: Floats = np.arange(height, dtype=np.float32)[:, None]
        self.x: Floats = np.arange(width, dtype=np.float32)[None, :]
        self.horizon = float(height * rng.uniform(0.34, 0.5))
        self.vanishing = float(width * rng.uniform(0.34, 0.66))
        self.grain = self.noise(height // 2, width // 2)

    def color(self, palette: tuple[Color, ...], spread: float = 14) -> Floats:
        """Pick a color of a palette, a little off."""
        chosen = np.array(palette[self.rng.integers(len(palette))], np.float32)
        return (chosen + spread * self.rng.standard_normal(3, dtype=np.float32))[:, None, None]

    def noise(self, rows: int, columns: int) -> Floats:
        """Draw smooth noise of about unit variance, [height, width], from a coarse grid."""
        grid = self.rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(1.4)
        return _weights(self.height, rows) @ grid @ _weights(self.width, columns).T

    def put(self, class_id: int, mask: Mask, color: Floats | Color, top: int = 0, left: int = 0) -> None:
        """Paint a mask whose upper left corner lies at (top, left), and label it."""
        rows, columns = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
        paint = color if isinstance(color, np.ndarray) else np.array(color, np.float32)[:, None, None]
        np.copyto(self.image[:, rows, columns], paint, where=mask)
        np.copyto(self.label[rows, columns], np.uint8(class_id), where=mask)

    def window(self, left: float, top: float, width: float, height: float) -> tuple[int, int, Floats, Floats] | None:
        """Return the visible part of a box: its top, left, and coordinates v [h, 1], u [1, w] in 0..1."""
        x0, x1 = max(0, math.floor(left)), min(self.width, math.ceil(left + width))
        y0, y1 = max(0, math.floor(top)), min(self.height, math.ceil(top + height))
        if x1 <= x0 or y1 <= y0:
            return None
        return y0, x0, (self.y[y0:y1] + (0.5 - top)) / height, (self.x[:, x0:x1] + (0.5 - left)) / width

    def ground(self, near: float) -> float:
        """The row of the ground at a nearness: 0 at the horizon, 1 at the lower edge."""
        return self.horizon + near * (self.height - self.horizon)


def _weights(size: int, points: int) -> Floats:
    """Linear interpolation from `points` to `size`, as a matrix [size, points]."""
    at = np.linspace(0, points - 1, size, dtype=np.float32)[:, None]
    weights: Floats = np.maximum(0, 1 - np.abs(at - np.arange(points, dtype=np.float32)))
    return weights


def scene(index: int, seed: int, height: int, width: int) -> tuple[Pixels, Pixels]:
    """Draw a scene; the same arguments always give the same pixels.

    Args:
        index: which scene.
        seed: which series of scenes.
        height: rows, from 32.
        width: columns, from 32.

    Returns:
        The image, RGB [height, width, 3], and its label, ids of SCENE_CLASSES [height, width].

    Raises:
        DataError: a size below 32 pixels.
    """
    if min(height, width) < 32:
        raise DataError(f"A scene of {height}x{width} pixels is too small.", "Set data.height and data.width from 32.")
    rng = np.random.default_rng((seed, index))
    canvas = _Canvas(rng, height, width)
    _sky(canvas)
    _skyline(canvas)
    half, shift = rng.uniform(0.5, 0.85), rng.uniform(-0.18, 0.18)
    edges = (shift - half, shift + half)  # of the road, in widths from the vanishing point, at near = 1
    walks = (edges[0] - rng.uniform(0.3, 0.7), edges[1] + rng.uniform(0.3, 0.7))
    for side in (0, 1):
        _houses(canvas, walks[side])
    _ground(canvas, edges, walks)
    _objects(canvas, edges, walks)
    return _developed(canvas), canvas.label


def _sky(canvas: _Canvas) -> None:
    """A gradient with clouds, from blue to overcast."""
    overcast = np.float32(canvas.rng.uniform(0, 1))
    top = _rgb(70, 120, 190) * (1 - overcast) + _rgb(168, 172, 178) * overcast
    low = _rgb(190, 208, 226) * (1 - overcast) + _rgb(206, 206, 206) * overcast
    share = np.clip(canvas.y / canvas.horizon, 0, 1)
    clouds = np.clip(canvas.noise(7, 6) + np.float32(canvas.rng.uniform(-1, 0.5)), 0, 1) * 0.6
    canvas.image[:] = (top + (low - top) * share) * (1 - clouds) + 232 * clouds


def _skyline(canvas: _Canvas) -> None:
    """Far houses and trees, pale with haze, along the horizon."""
    rng, blocks = canvas.rng, int(canvas.rng.integers(6, 13))
    which = np.minimum((canvas.x[0] / canvas.width * blocks).astype(int), blocks - 1)
    tops = (canvas.horizon - canvas.height * rng.uniform(0.02, 0.16, blocks)).astype(np.float32)
    is_tree = rng.random(blocks) < 0.4
    colors = np.concatenate([canvas.color(_LEAVES if tree else _WALLS) * 0.6 + 78 for tree in is_tree], axis=2)
    ragged = canvas.grain[1] * (is_tree[which] * np.float32(canvas.height * 0.015))
    start, stop = max(0, int(canvas.horizon - canvas.height * 0.22)), int(canvas.horizon) + 2
    rows = slice(start, stop)
    mask = canvas.y[rows] > tops[which] + ragged
    color = colors[:, :, which] + canvas.grain[rows] * 7
    canvas.put(BUILDING, mask & ~is_tree[which], color, start)
    canvas.put(TREE, mask & is_tree[which], color, start)


def _houses(canvas: _Canvas, line: float) -> None:
    """A row of houses along one side, standing on the line that runs to the vanishing point."""
    rng, middle = canvas.rng, round(canvas.vanishing)
    columns = slice(0, middle) if line < 0 else slice(middle, canvas.width)
    near = (canvas.x[:, columns] - canvas.vanishing) / np.float32(line * canvas.width)
    seen = near > 0.04
    near = np.where(seen, near, np.float32(1))
    far = 1 / near  # distance along the street
    ends = np.cumsum(rng.uniform(0.5, 2.2, 24)) + rng.uniform(-1, 0.4)
    which = np.minimum(np.searchsorted(ends, far[0]), 23)
    heights = (canvas.height * rng.uniform(0.35, 1.5, 24)).astype(np.float32)
    standing = rng.random(24) > 0.22
    colors = np.concatenate([canvas.color(_WALLS, 18) for _ in heights], axis=2)
    bottom = canvas.horizon + near * (canvas.height - canvas.horizon)
    mask = (canvas.y < bottom) & (canvas.y > canvas.horizon - near * heights[which]) & (seen & standing[which])
    haze = np.clip(0.45 - near, 0, 0.45)
    wall = colors[:, :, which] * np.float32(rng.uniform(0.55, 1.1)) * (1 - haze) + 190 * haze
    canvas.put(BUILDING, mask, wall + canvas.grain[:, columns] * 6, 0, columns.start)
    # Windows: a grid in wall coordinates, distance along the street and height in storeys.
    storeys = (bottom - canvas.y) / (near * np.float32(canvas.height * rng.uniform(0.16, 0.26)))
    along = far * np.float32(rng.uniform(3.0, 6.0))
    fine = near * np.float32(canvas.width * 0.3) > 2 * (far + 0.2)  # windows below a pixel or two would only alias
    across = (np.abs(along - np.floor(along) - 0.5) < 0.24) & fine
    window = mask & across & (np.abs(storeys - np.floor(storeys) - 0.55) < 0.26) & (storeys > 0.25)
    glass = canvas.color(((40, 44, 52), (70, 76, 86), (104, 110, 122)), 8)
    canvas.put(BUILDING, window, glass + canvas.grain[:, columns] * 4, 0, columns.start)


def _ground(canvas: _Canvas, edges: tuple[float, float], walks: tuple[float, float]) -> None:
    """Pavement with slabs, grass behind it, and a road with lines and patches."""
    rng, start = canvas.rng, int(canvas.horizon) + 1
    near = np.maximum((canvas.y[start:] - canvas.horizon) / (canvas.height - canvas.horizon), np.float32(1e-3))
    across = (canvas.x - canvas.vanishing) / (near * canvas.width)
    far = 1 / near
    grain = canvas.grain[start:] + canvas.noise(9, 9)[start:]
    # Behind the pavement, in the gaps between houses: hedges and grass, which count as tree.
    canvas.put(TREE, canvas.label[start:] != BUILDING, canvas.color(_LEAVES) + grain * 12, start)
    stone = canvas.color(((172, 164, 154), (150, 146, 142), (184, 160, 140)), 8)
    slabs = ((np.abs(_part(across * 9) - 0.5) > 0.45) | (np.abs(_part(far * 2.5) - 0.5) > 0.44)) & (near > 0.25)
    walk = (across > walks[0]) & (across < walks[1])
    canvas.put(PAVEMENT, walk, stone + (grain * 7 - slabs * np.float32(18)), start)
    canvas.put(PAVEMENT, (across > edges[0] - 0.03) & (across < edges[1] + 0.03), stone + 26, start)
    road = (across > edges[0]) & (across < edges[1])
    asphalt = canvas.color(((92, 92, 96), (116, 114, 112), (74, 76, 84)), 6)
    canvas.put(ROAD, road, asphalt + (grain * 7 + canvas.noise(12, 5)[start:] * 7), start)
    middle, dash = (edges[0] + edges[1]) / 2, rng.uniform(0.8, 1.8)
    lines = (np.abs(across - middle) < 0.018) & (_part(far * dash + rng.random()) < 0.55)
    if rng.random() < 0.5:
        lines |= np.minimum(np.abs(across - edges[0] - 0.06), np.abs(across - edges[1] + 0.06)) < 0.012
    if rng.random() < 0.3:  # a crossing
        at = rng.uniform(1.2, 3)
        lines |= (np.abs(far - at) < 0.16 * at) & (_part(across * 8) < 0.5)
    canvas.put(ROAD, road & lines, _rgb(1, 1, 1) * (np.float32(rng.uniform(175, 225)) + grain * 8), start)


def _part(values: Floats) -> Floats:
    """The fractional part; several times faster than `%`."""
    return values - np.floor(values)


def _rgb(red: float, green: float, blue: float) -> Floats:
    return np.array((red, green, blue), np.float32)[:, None, None]


def _objects(canvas: _Canvas, edges: tuple[float, float], walks: tuple[float, float]) -> None:
    """Everything that stands on the ground, the farthest first so that the near hides the far."""
    rng = canvas.rng
    things: list[tuple[float, float, Callable[[_Canvas, float, float], None]]] = []

    def scatter(
        count: int, low: float, draw: Callable[[_Canvas, float, float], None], place: Callable[[], float]
    ) -> None:
        for _ in range(count):
            near = float(np.exp(rng.uniform(np.log(low), np.log(0.8))))
            things.append((near, canvas.vanishing + place() * near * canvas.width, draw))

    def beside() -> float:
        """Somewhere on either pavement."""
        side = int(rng.integers(2))
        return float(edges[side] + (walks[side] - edges[side]) * rng.uniform(0.2, 0.95))

    def curb() -> float:
        """Close to either edge of the road, on the pavement."""
        side = int(rng.integers(2))
        return float(edges[side] + (walks[side] - edges[side]) * 0.15)

    def lane() -> float:
        """Somewhere on the road, parked or driving."""
        half = (edges[1] - edges[0]) / 2
        return float((edges[0] + edges[1]) / 2 + half * rng.choice([-0.78, -0.45, 0.45, 0.78]) + rng.normal(0, 0.03))

    scatter(int(rng.integers(1, 6)), 0.12, _tree, beside)
    scatter(int(rng.integers(1, 6)), 0.14, _car, lane)
    scatter(int(rng.integers(2, 7)), 0.4, _pedestrian, beside if rng.random() < 0.85 else lane)
    scatter(int(rng.integers(1, 5)), 0.4, _sign, curb)
    for near, x, draw in sorted(things, key=lambda thing: thing[0]):
        draw(canvas, near, x)


def _hazed(color: Floats, near: float) -> Floats:
    share = max(0.0, 0.3 - near)
    return color * (1 - share) + 190 * share


def _tree(canvas: _Canvas, near: float, x: float) -> None:
    """A trunk under a ragged crown."""
    rng, base = canvas.rng, canvas.ground(near)
    tall = near * canvas.height * rng.uniform(0.75, 1.25)
    wide = tall * rng.uniform(0.5, 0.85)
    trunk = canvas.window(x - tall * 0.035, base - tall * 0.5, tall * 0.07, tall * 0.5)
    if trunk:
        top, left, v, u = trunk
        canvas.put(TREE, (v > -1) & (u > -1), _hazed(canvas.color(((84, 66, 50),)), near), top, left)
    crown = canvas.window(x - wide / 2, base - tall, wide, tall * 0.68)
    if crown:
        top, left, v, u = crown
        rows, columns = v.shape[0], u.shape[1]
        clumps = _weights(rows, 6) @ rng.standard_normal((6, 6), dtype=np.float32) @ _weights(columns, 6).T
        fine = rng.standard_normal((rows, columns), dtype=np.float32)
        radius = (2 * u - 1) ** 2 + (2 * v - 1) ** 2 + 0.22 * clumps + 0.07 * fine
        color = canvas.color(_LEAVES) + (clumps * 12 + fine * 13 + (0.5 - v) * 34)
        canvas.put(TREE, radius < 0.86, _hazed(color, near), top, left)


def _car(canvas: _Canvas, near: float, x: float) -> None:
    """A car from behind or the front: body, cabin with a window, wheels, lights, a shadow."""
    rng, base = canvas.rng, canvas.ground(near)
    wide = near * canvas.width * rng.uniform(0.3, 0.42)
    tall = wide * rng.uniform(0.62, 0.85)
    shadow = canvas.window(x - wide * 0.56, base - tall * 0.07, wide * 1.12, tall * 0.16)
    if shadow:  # darkens the road, and is road
        top, left, v, u = shadow
        part = canvas.image[:, top : top + v.shape[0], left : left + u.shape[1]]
        np.multiply(part, 0.5, out=part, where=(((2 * u - 1) ** 2 + (2 * v - 1) ** 2) < 1))
    box = canvas.window(x - wide / 2, base - tall, wide, tall)
    if not box:
        return
    top, left, v, u = box
    side = np.abs(2 * u - 1)
    paint = canvas.color(_PAINTS) * rng.uniform(0.8, 1.1)
    cabin = (v <= 0.45) & (side < 0.62 + 0.5 * v) & (v > 0.05 * side)
    body = (v > 0.4) & (v < 0.9) & (side < 1 - 0.1 * (v > 0.82))
    wheels = (v >= 0.82) & (side > 0.62) & (side < 0.94)
    canvas.put(CAR, wheels, (24, 24, 26), top, left)
    canvas.put(CAR, cabin | body, _hazed(paint + ((0.5 - v) * 50), near), top, left)
    canvas.put(CAR, (v > 0.1) & (v < 0.4) & (side < 0.52 + 0.45 * v), _hazed(_rgb(52, 62, 72), near), top, left)
    light = ((214, 40, 34), (244, 240, 214))[int(rng.integers(2))]
    canvas.put(CAR, (v > 0.5) & (v < 0.62) & (side > 0.72) & (side < 0.96), light, top, left)
    canvas.put(CAR, (v > 0.68) & (v < 0.78) & (side < 0.25), (210, 208, 196), top, left)


def _pedestrian(canvas: _Canvas, near: float, x: float) -> None:
    """A head, a coat with arms, and two legs."""
    rng, base = canvas.rng, canvas.ground(near)
    tall = near * canvas.height * rng.uniform(0.5, 0.62)
    box = canvas.window(x - tall * 0.19, base - tall, tall * 0.38, tall)
    if not box:
        return
    top, left, v, u = box
    off = 2 * u - 1
    coat, trousers = canvas.color(_CLOTHES), canvas.color(_CLOTHES) * 0.6
    stride = rng.uniform(0.2, 0.55)
    legs = (v > 0.52) & (np.abs(np.abs(off) - stride * (v - 0.45)) < 0.22)
    canvas.put(PEDESTRIAN, legs, _hazed(trousers, near), top, left)
    torso = (v > 0.17) & (v < 0.6) & (np.abs(off) < 0.5 + 0.35 * np.minimum(v - 0.17, 0.25))
    canvas.put(PEDESTRIAN, torso, _hazed(coat + ((0.4 - v) * 40 - 18 * (off > 0.2)), near), top, left)
    skin = canvas.color(((206, 164, 138), (140, 100, 76), (90, 64, 50)), 8)
    canvas.put(PEDESTRIAN, (off / 0.36) ** 2 + ((v - 0.1) / 0.1) ** 2 < 1, _hazed(skin, near), top, left)


def _sign(canvas: _Canvas, near: float, x: float) -> None:
    """A round, square or triangular plate on a pole."""
    rng, base = canvas.rng, canvas.ground(near)
    tall = near * canvas.height * rng.uniform(0.55, 0.75)
    wide = max(tall * 0.42, 6.0)
    thick = max(tall * 0.06, 2.0)
    pole = canvas.window(x - thick / 2, base - tall, thick, tall)
    if pole:
        top, left, v, u = pole
        canvas.put(SIGN, (v > -1) & (u > -1), _hazed(_rgb(130, 132, 134) + (20 - u * 50), near), top, left)
    plate = canvas.window(x - wide / 2, base - tall - wide * 0.1, wide, wide)
    if not plate:
        return
    top, left, v, u = plate
    shapes = ((2 * u - 1) ** 2 + (2 * v - 1) ** 2, np.maximum(np.abs(2 * u - 1), np.abs(2 * v - 1)) ** 2)
    triangle = np.maximum(np.abs(2 * u - 1) / np.maximum(v, 0.02), v) ** 2
    shape = (*shapes, triangle)[int(rng.integers(3))]
    outer = int(rng.integers(len(_SIGNS)))
    inner = (outer + int(rng.integers(1, len(_SIGNS)))) % len(_SIGNS)
    canvas.put(SIGN, shape < 1, _SIGNS[outer], top, left)
    canvas.put(SIGN, shape < 0.42, _SIGNS[inner], top, left)


def _developed(canvas: _Canvas) -> Pixels:
    """Light, shade, and a camera's noise."""
    rng = canvas.rng
    tint = rng.normal(1, 0.04, (3, 1, 1)).astype(np.float32) * np.float32(rng.uniform(0.65, 1.12))
    image = canvas.image * (1 + 0.1 * canvas.noise(3, 4))
    image *= tint
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 9))
    np.clip(image, 0, 255, out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
