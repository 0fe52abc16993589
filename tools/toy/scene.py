"""Random scenes of flat shapes on cluttered grounds: images with exact masks, drawn with OpenCV.

Colour and texture say nothing about the class, sizes span COCO's small, medium and large, and shapes hide parts of each
other, so a detector has to get its strides, anchors and receptive fields right to score here. `toy.dataset` makes a
data set of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import cv2
import numpy as np

CLASSES = ('ellipse', 'ring', 'rectangle', 'triangle', 'star', 'cross', 'crescent', 'arrow')
#: One RGB colour for each class, for drawing results; the shapes themselves have random colours.
PALETTE = (
    (230, 57, 70),
    (255, 159, 28),
    (255, 221, 0),
    (82, 183, 60),
    (0, 187, 190),
    (52, 120, 246),
    (155, 81, 224),
    (240, 98, 190),
)
SUPERSAMPLING = 4
PLACEMENT_TRIES = 12


@dataclass(frozen=True)
class SceneOptions:
    """How hard a scene is. The defaults are those of the demo.

    Raises:
        ValueError: A value is out of its range; the message names the option.
    """

    #: Least and greatest height and width of an image, in pixels; both are drawn independently.
    side: tuple[int, int] = (280, 400)
    #: Least and greatest number of objects. An object that finds no place is left out.
    objects: tuple[int, int] = (2, 6)
    #: Least and greatest size of an object (the side of a square of the same extent), in pixels. At most three quarters
    #: of the shorter side of the image are used.
    size: tuple[float, float] = (16.0, 250.0)
    #: Sizes are spread evenly on a log scale at 1; below 1 there are more large ones, above 1 more small ones.
    size_skew: float = 0.55
    #: Greatest aspect ratio, for the classes that keep their nature when stretched (see `_SHAPES`).
    stretch: float = 2.5
    #: Least part of a shape's area that stays visible, after occlusion and the edge of the image.
    min_visible: float = 0.7
    #: Greatest overlap (IoU) between the boxes of two objects, so that NMS need not choose between true objects.
    max_box_iou: float = 0.4
    #: Greatest number of shapes that belong to no class, and of thin lines on the ground.
    distractors: int = 3
    scratches: int = 8
    #: Least distance between an object's colour and the ground under it, in 8-bit RGB, if the colours drawn allow it.
    contrast: float = 70.0
    #: Greatest standard deviation of the blur of the finished image, in pixels, and of its noise, in 8-bit steps.
    blur: float = 1.0
    noise: float = 8.0

    def __post_init__(self) -> None:
        """Checks every option."""
        for name, least, kind in (('side', 64, int), ('objects', 1, int), ('size', 8, (int, float))):
            value = getattr(self, name)
            pair = isinstance(value, tuple) and len(value) == 2 and all(_is(v, kind) for v in value)
            if not pair or not least <= value[0] <= value[1] < math.inf:
                raise ValueError(f'{name}={value!r}: expected a pair (least, greatest), {least} or more')
        if self.size[0] > 0.75 * self.side[0]:
            limit = f'three quarters of the least side {self.side[0]}'
            raise ValueError(f'size={self.size!r}: the least size must not exceed {limit}')
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(low, int) and not _is(value, int):
                raise ValueError(f'{name}={value!r}: expected an integer from {low} to {high}')
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f'{name}={value!r}: expected a number from {low} to {high}')


_RANGES: dict[str, tuple[float, float]] = {
    'size_skew': (0.05, 20.0),
    'stretch': (1.0, 5.0),
    'min_visible': (0.1, 1.0),
    'max_box_iou': (0.0, 1.0),
    'distractors': (0, 100),
    'scratches': (0, 1000),
    'contrast': (0.0, 440.0),
    'blur': (0.0, 10.0),
    'noise': (0.0, 100.0),
}


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn image and the truth about it."""

    #: (height, width, 3), uint8, BGR as in OpenCV.
    image: np.ndarray
    #: Which object each pixel shows, (height, width), int16: an index into `classes`, -1 for none.
    owner: np.ndarray
    #: The class index of each object, from the back of the scene to its front.
    classes: tuple[int, ...]
    #: The whole outline of each object, visible or not: closed polygons (points, 2) of x, y in pixels, where pixel (0,
    #: 0) covers 0 to 1; the second polygon, if any, is a hole.
    outlines: tuple[tuple[np.ndarray, ...], ...] = field(repr=False)

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.classes)

    def mask(self, index: int) -> np.ndarray:
        """The visible part of an object, (height, width), bool."""
        return self.owner == index

    def box(self, index: int) -> tuple[int, int, int, int]:
        """The tight box of an object's visible part: x, y, width, height in pixels."""
        x, y, width, height = cv2.boundingRect(self.mask(index).astype(np.uint8))
        return x, y, width, height

    def label_map(self) -> np.ndarray:
        """Semantic labels, (height, width), uint8: 0 is the ground, class i is i + 1."""
        values = np.array([0, *(label + 1 for label in self.classes)], dtype=np.uint8)
        return values[self.owner + 1]


# Outlines: polygons (points, 2) around the origin that fill about -0.5 .. 0.5.


def _polar(radius: np.ndarray | float, angle: np.ndarray | float) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _circle(radius: float = 0.5) -> np.ndarray:
    return _polar(radius, np.linspace(0, 2 * np.pi, 72, endpoint=False))


def _ellipse(rng: np.random.Generator) -> list[np.ndarray]:
    return [_circle()]


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    return [_circle(), _circle(rng.uniform(0.24, 0.34))]


def _rectangle(rng: np.random.Generator) -> list[np.ndarray]:
    return [np.array([[-0.45, -0.45], [0.45, -0.45], [0.45, 0.45], [-0.45, 0.45]])]


def _triangle(rng: np.random.Generator) -> list[np.ndarray]:
    return [_polar(0.6, np.pi * np.array([0.5, 7 / 6, 11 / 6])) - [0, 0.1]]


def _star(rng: np.random.Generator) -> list[np.ndarray]:
    radius = np.tile([0.55, rng.uniform(0.2, 0.25)], 5)
    return [_polar(radius, np.linspace(0, 2 * np.pi, 10, endpoint=False))]


def _cross(rng: np.random.Generator) -> list[np.ndarray]:
    a, b = 0.5, rng.uniform(0.12, 0.17)
    quarter = np.array([[a, -b], [a, b], [b, b]])
    turn = np.array([[0, 1], [-1, 0]])
    return [np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])]


def _crescent(rng: np.random.Generator) -> list[np.ndarray]:
    # A disc less a second disc: both arcs meet where the circles cross.
    shift, inner = rng.uniform(0.24, 0.3), 0.43
    x = (0.25 - inner**2 + shift**2) / (2 * shift)
    y = math.sqrt(0.25 - x**2)
    outer_tip, inner_tip = math.atan2(y, x), math.atan2(y, x - shift)
    far = _polar(0.5, np.linspace(outer_tip, 2 * np.pi - outer_tip, 48))
    near = _polar(inner, np.linspace(2 * np.pi - inner_tip, inner_tip, 36)) + [shift, 0]
    return [np.concatenate([far, near]) + [0.12, 0]]


def _arrow(rng: np.random.Generator) -> list[np.ndarray]:
    shaft, neck = rng.uniform(0.1, 0.15), rng.uniform(-0.02, 0.1)
    upper = np.array([[-0.55, shaft], [neck, shaft], [neck, 0.4], [0.55, 0.0]])
    return [np.concatenate([upper, upper[-2::-1] * [1, -1]])]


def _amoeba(rng: np.random.Generator) -> list[np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    phase = rng.uniform(0, 2 * np.pi, 3)
    waves = (
        0.3 * np.sin(2 * angle + phase[0]) + 0.3 * np.sin(3 * angle + phase[1]) + 0.15 * np.sin(7 * angle + phase[2])
    )
    return [_polar(0.36 * (1 + waves), angle)]


def _wave(rng: np.random.Generator) -> list[np.ndarray]:
    x = np.linspace(-0.7, 0.7, 60)
    centre = 0.18 * np.sin(x * rng.uniform(9, 14))
    half = rng.uniform(0.05, 0.08)
    return [np.concatenate([np.stack([x, centre - half], -1), np.stack([x, centre + half], -1)[::-1]])]


def _zigzag(rng: np.random.Generator) -> list[np.ndarray]:
    x = np.linspace(-0.7, 0.7, int(rng.integers(5, 8)))
    y = np.where(np.arange(len(x)) % 2, 0.18, -0.18)
    half = rng.uniform(0.07, 0.1)
    return [np.concatenate([np.stack([x, y - half], -1), np.stack([x, y + half], -1)[::-1]])]


_Shape = Callable[[np.random.Generator], list[np.ndarray]]
#: Class -> its outline and the part of `SceneOptions.stretch` (on a log scale) it can take and still be recognised.
_SHAPES: dict[str, tuple[_Shape, float]] = {
    'ellipse': (_ellipse, 1.0),
    'ring': (_ring, 0.6),
    'rectangle': (_rectangle, 1.0),
    'triangle': (_triangle, 0.6),
    'star': (_star, 0.2),
    'cross': (_cross, 0.3),
    'crescent': (_crescent, 0.2),
    'arrow': (_arrow, 0.5),
}
_DISTRACTORS = (_amoeba, _wave, _zigzag)


def _outline(rng: np.random.Generator, shape: _Shape, size: float, stretch: float) -> list[np.ndarray]:
    """A shape at random aspect and rotation, its centre at the origin, in pixels."""
    aspect = math.sqrt(stretch ** rng.uniform(-1, 1))
    turn = rng.uniform(0, 2 * np.pi)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return [(polygon * [size * aspect, size / aspect]) @ matrix for polygon in shape(rng)]


def _coverage(outline: Sequence[np.ndarray]) -> tuple[np.ndarray, int, int]:
    """The part of each pixel that an outline (polygons of x, y; an overlap is a hole) covers.

    Returns:
        Coverage (height, width), float32, 0 to 1, of the outline's surroundings, and x and y of its first pixel in the
        image, which may be negative.
    """
    points = np.concatenate(outline)
    x0, y0 = (int(v) - 1 for v in np.floor(points.min(0)))
    width, height = (int(v) + 2 for v in np.ceil(points.max(0)) - [x0, y0])
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    # OpenCV counts from the middle of a pixel, outlines count from its corner; 4 bits of fraction.
    fixed = [np.rint(((p - [x0, y0]) * SUPERSAMPLING - 0.5) * 16).astype(np.int32) for p in outline]
    # It also paints the pixels an edge runs through: all shapes are an eighth of a pixel larger.
    cv2.fillPoly(fine, fixed, 255, shift=4)
    coarse = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return coarse.astype(np.float32) / 255, x0, y0


# Colours and textures: unfinished images are planar, (3, height, width), float32, BGR.


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A random BGR colour, (3, 1, 1), float32, 0 to 255."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).reshape(3, 1, 1) * 255


def _contrasting_colour(rng: np.random.Generator, ground: np.ndarray, contrast: float) -> np.ndarray:
    """A colour at least `contrast` away from the ground's (3,), or the farthest of some."""
    drawn = [_colour(rng, (0.35, 1.0), (0.25, 1.0)) for _ in range(8)]
    distances = [float(np.linalg.norm(colour.ravel() - ground)) for colour in drawn]
    good = (k for k, distance in enumerate(distances) if distance >= contrast)
    return drawn[next(good, int(np.argmax(distances)))]


def _clouds(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Smooth noise with features of about `cell` pixels, (height, width), float32, 0 to 1."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)
    coarse = rng.random((rows, columns), np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _pattern(rng: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    """A random texture of period ``scale``, (height, width), float32, 0 to 1: the mix of two colours at each pixel."""
    kind = rng.choice(['plain', 'gradient', 'stripes', 'checks', 'dots', 'clouds'])
    if kind == 'plain':
        return np.zeros((height, width), np.float32)
    if kind == 'clouds':
        return _clouds(rng, height, width, scale)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    u = x * math.cos(turn) + y * math.sin(turn)
    v = y * math.cos(turn) - x * math.sin(turn)
    if kind == 'gradient':
        return (u - u.min()) / max(float(np.ptp(u)), 1.0)
    frequency = 2 * math.pi / max(scale, 4.0)
    if kind == 'stripes':
        wave = np.sin(u * frequency)
    elif kind == 'checks':
        wave = np.sin(u * frequency) * np.sin(v * frequency)
    else:
        wave = np.cos(u * frequency) + np.cos(v * frequency) - 1
    # Steep but not a step, so that edges are anti-aliased.
    return np.clip(0.5 + 2 * wave, 0, 1)


def _ground(rng: np.random.Generator, height: int, width: int, options: SceneOptions) -> np.ndarray:
    """The background: two muted colours mixed by clouds, one or two textures, and scratches."""
    first, second = (_colour(rng, (0.05, 0.45), (0.3, 0.95)) for _ in range(2))
    image = first + (second - first) * _clouds(rng, height, width, rng.uniform(80, 240))
    for _ in range(int(rng.integers(1, 3))):
        image += rng.uniform(-35, 35) * _pattern(rng, height, width, 2 ** rng.uniform(2.5, 6))
    for _ in range(int(rng.integers(0, options.scratches + 1))):
        points = np.cumsum(rng.normal(0, 0.12, (6, 2)), 0) + rng.random(2)
        if rng.random() < 0.5:
            points = points[[0, -1]] + rng.normal(0, 0.4, (2, 2))
        else:
            knots = np.linspace(0, 1, 40)
            points = np.stack([_bezier(points[:, axis], knots) for axis in range(2)], -1)
        fixed = np.rint(points * [width, height] * 16).astype(np.int32)
        colour = _colour(rng, (0.0, 0.6), (0.1, 1.0))
        canvas = np.zeros((height, width), np.uint8)
        cv2.polylines(canvas, [fixed], False, 255, int(rng.integers(1, 4)), cv2.LINE_AA, shift=4)
        y, x = np.nonzero(canvas)
        alpha = canvas[y, x].astype(np.float32) * (rng.uniform(0.3, 0.8) / 255)
        image[:, y, x] += alpha * (colour[:, 0] - image[:, y, x])
    return image


def _bezier(values: np.ndarray, t: np.ndarray) -> np.ndarray:
    n = len(values) - 1
    return sum(math.comb(n, k) * t**k * (1 - t) ** (n - k) * values[k] for k in range(n + 1))


def _blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Lays a colour or an image over an image, in place; alpha (height, width) is its density."""
    image += alpha * (colour - image)


class _Painter:
    """An unfinished scene: paints from back to front and keeps account of what stays visible."""

    def __init__(self, rng: np.random.Generator, options: SceneOptions) -> None:
        self.rng = rng
        self.options = options
        self.height, self.width = (int(v) for v in rng.integers(options.side[0], options.side[1] + 1, 2))
        self.image = _ground(rng, self.height, self.width, options)
        self.owner = np.full((self.height, self.width), -1, np.int16)
        self.light = _polar(1.0, rng.uniform(0, 2 * np.pi)).astype(np.float32)
        # One entry for each shape painted, `owner` counts them: its class (-1: none), its outline, and the number of
        # its pixels that must stay visible.
        self.classes: list[int] = []
        self.outlines: list[tuple[np.ndarray, ...]] = []
        self.least: list[float] = []

    def place(self, label: int, size: float) -> None:
        """Paints a shape of a class (-1: none) in front of all others if it finds a place where it harms none."""
        shape: _Shape
        if label < 0:
            shape, share = _DISTRACTORS[self.rng.integers(len(_DISTRACTORS))], 0.3
        else:
            shape, share = _SHAPES[CLASSES[label]]
        centred = _outline(self.rng, shape, size, self.options.stretch**share)
        for _ in range(PLACEMENT_TRIES):
            centre = self.rng.random(2) * [self.width, self.height]
            outline = tuple(polygon + centre for polygon in centred)
            alpha, x, y = _coverage(outline)
            whole = np.count_nonzero(alpha >= 0.5)
            # What lies in the image; that is something, as every outline surrounds its centre.
            left, top = max(-x, 0), max(-y, 0)
            alpha = alpha[top : self.height - y, left : self.width - x]
            rows, columns = (slice(a, a + n) for a, n in zip((y + top, x + left), alpha.shape, strict=True))
            least = self.options.min_visible * whole
            solid = alpha >= 0.5
            if np.count_nonzero(solid) < max(least, 1) or not self._fits(label, solid, rows, columns):
                continue
            self._paint(alpha, rows, columns, size)
            self.owner[rows, columns][solid] = len(self.classes)
            self.classes.append(label)
            self.outlines.append(outline)
            self.least.append(least)
            return

    def _fits(self, label: int, solid: np.ndarray, rows: slice, columns: slice) -> bool:
        """Whether shapes stay visible and objects' boxes apart once `solid` is painted over."""
        owner = self.owner.copy()
        owner[rows, columns][solid] = len(self.classes)
        pixels = np.bincount(owner.ravel() + 1)[1:]
        if any(pixels[: len(self.least)] < self.least):
            return False
        labels = [*self.classes, label]
        boxes = [cv2.boundingRect((owner == k).view(np.uint8)) for k, c in enumerate(labels) if c >= 0]
        return all(_box_iou(a, b) <= self.options.max_box_iou for a, b in combinations(boxes, 2))

    def _paint(self, alpha: np.ndarray, rows: slice, columns: slice, size: float) -> None:
        """Lays shadow, filling and rim of a shape over the image."""
        rng, image = self.rng, self.image[:, rows, columns]
        height, width = alpha.shape
        ground = image[:, alpha >= 0.5].mean(1)
        colour = _contrasting_colour(rng, ground, self.options.contrast)
        second = colour + (_colour(rng, (0.2, 1.0), (0.2, 1.0)) - colour) * rng.uniform(0.2, 0.6)
        fill = _pattern(rng, height, width, size * rng.uniform(0.12, 0.35))
        fill = colour + (second - colour) * fill
        if rng.random() < 0.35:
            thick = max(3, 2 * round(size * 0.025) + 1)
            inner = cv2.erode(alpha, np.ones((thick, thick), np.uint8), borderValue=0)
            _blend(fill, alpha - inner, colour * (0.45 if rng.random() < 0.5 else 1.6))
        # Brighter towards the light, which comes from one side in the whole scene.
        fill *= 1 - 0.18 * _slope(height, width, self.light)
        self._shadow(alpha, rows.start, columns.start, size)
        _blend(image, alpha, np.clip(fill, 0, 255))

    def _shadow(self, alpha: np.ndarray, top: int, left: int, size: float) -> None:
        """Darkens the surroundings of a shape on the side away from the light."""
        sigma = 0.6 + size * 0.025
        pad = math.ceil(3 * sigma + size * 0.05)
        soft = cv2.copyMakeBorder(alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        soft = cv2.GaussianBlur(soft, (0, 0), sigma)
        y, x = (round(o - pad + size * 0.04 * d) for o, d in zip((top, left), self.light[::-1], strict=True))
        soft = soft[max(-y, 0) : max(self.height - y, 0), max(-x, 0) : max(self.width - x, 0)]
        y, x = max(y, 0), max(x, 0)
        self.image[:, y : y + soft.shape[0], x : x + soft.shape[1]] *= 1 - 0.45 * soft

    def scene(self) -> Scene:
        """The finished scene, in which shapes of no class are part of the ground."""
        objects = [k for k, label in enumerate(self.classes) if label >= 0]
        numbers = np.full(len(self.classes) + 1, -1, np.int16)
        numbers[np.array(objects, dtype=int) + 1] = np.arange(len(objects))
        return Scene(
            image=self._develop(),
            owner=numbers[self.owner + 1],
            classes=tuple(self.classes[k] for k in objects),
            outlines=tuple(self.outlines[k] for k in objects),
        )

    def _develop(self) -> np.ndarray:
        """The image with uneven light, colour cast, blur and noise, (height, width, 3), uint8."""
        rng = self.rng
        lamp = _polar(rng.uniform(0, 0.3), rng.uniform(0, 2 * np.pi)).astype(np.float32)
        cast = rng.uniform(0.75, 1.1) * rng.uniform(0.92, 1.08, (3, 1, 1))
        lit = self.image * cast.astype(np.float32) * (1 + _slope(self.height, self.width, lamp))
        image = cv2.merge(list(lit))
        sigma = rng.uniform(0, self.options.blur)
        if sigma > 0.3:  # less is no blur at all on the pixel grid
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        grain = rng.standard_normal(image.shape, np.float32)
        image += grain * rng.uniform(0, self.options.noise)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _slope(height: int, width: int, direction: np.ndarray) -> np.ndarray:
    """A plane that rises along direction (x, y) by its length from the middle to the edges."""
    x, y = (np.linspace(-1, 1, n, dtype=np.float32) for n in (width, height))
    return x * direction[0] + y[:, None] * direction[1]


def _box_iou(a: Sequence[int], b: Sequence[int]) -> float:
    """IoU of two boxes x, y, width, height."""
    overlap_x = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    overlap_y = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(overlap_x, 0) * max(overlap_y, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def draw_scene(rng: np.random.Generator, options: SceneOptions | None = None) -> Scene:
    """Draws one scene; the state of ``rng`` decides every pixel. The default options are the demo's.

    Shapes are painted from the back to the front, large ones mostly first. A shape that would hide too much of one
    behind it, or be cut off too far itself, is tried at other places and left out if none fits.
    """
    options = options or SceneOptions()
    painter = _Painter(rng, options)
    objects = int(rng.integers(options.objects[0], options.objects[1] + 1))
    distractors = int(rng.integers(0, options.distractors + 1))
    low, high = options.size[0], min(options.size[1], 0.75 * min(painter.height, painter.width))
    sizes = low * (high / low) ** rng.random(objects + distractors) ** options.size_skew
    labels = np.array([*rng.integers(0, len(CLASSES), objects), *[-1] * distractors])
    for k in np.argsort(-sizes * np.exp(rng.normal(0, 0.5, sizes.shape)), kind='stable'):
        painter.place(int(labels[k]), float(sizes[k]))
    return painter.scene()
