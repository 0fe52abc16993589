"""What a plan costs, layer by layer, and what others publish: the paper's tables (arXiv 1801.04381), slim's README."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from mnv2_backbone.spec import Layer, Plan


@dataclass(frozen=True)
class LayerCost:
    """One layer of a plan at a given input size, for one image.

    ``height`` and ``width`` are of its output, ``receptive_field`` in pixels of the image, ``params`` with two for each
    channel of a norm, ``madds`` the multiply-adds of its convolutions, ``elements`` those of its output.
    """

    layer: Layer
    height: int
    width: int
    receptive_field: int
    params: int
    madds: int
    elements: int


def layer_costs(plan: Plan, height: int, width: int) -> Iterator[LayerCost]:
    """Yields the cost of each layer that a plan builds, for an image of height and width in pixels.

    Examples:
        >>> from mnv2_backbone import make_plan
        >>> costs = list(layer_costs(make_plan(out_indices='layer_19'), 224, 224))
        >>> sum(cost.madds for cost in costs)
        299494720
    """
    field = 1
    for layer in plan.layers:
        params = madds = 0
        for conv in layer.convolutions:
            stride = layer.in_stride if conv.step == 'expansion' else layer.out_stride
            h, w = -(-height // stride), -(-width // stride)
            weights = prod(conv.weight_shape)
            params += weights + 2 * conv.out_channels
            madds += weights * h * w
            channels = conv.out_channels
        if layer.steps[-1] != 'expansion':  # not cut before its spatial convolution
            field += (layer.kernel - 1) * layer.rate * layer.in_stride
        if layer.steps[-1] in ('projection', 'output'):  # of all parts of a split projection
            channels = layer.out_channels
        elif layer.steps[-1] == 'expansion':
            channels = layer.expanded_channels
        yield LayerCost(layer, h, w, field, params, madds, channels * h * w)


@dataclass(frozen=True)
class Published:
    """A row of a published table: parameters and multiply-adds in millions, and its source."""

    name: str
    params: float | None
    madds: float
    source: str


#: ImageNet classifiers at 224x224, 1001 classes, by width (slim's README; parameters of the paper).
CLASSIFIERS = {
    0.35: Published('MobileNetV2 0.35', 1.66, 59, 'slim README'),
    0.5: Published('MobileNetV2 0.5', 1.95, 97, 'slim README'),
    0.75: Published('MobileNetV2 0.75', 2.61, 209, 'slim README'),
    1.0: Published('MobileNetV2 1.0', 3.4, 300, 'paper, table 4'),
    1.3: Published('MobileNetV2 1.3', None, 509, 'slim README'),
    1.4: Published('MobileNetV2 1.4', 6.9, 585, 'paper, table 4'),
}

#: Whole networks at width 1, by the module of the task in this package.
NETWORKS = {
    'ssdlite': Published('MobileNetV2 + SSDLite, 320x320', 4.3, 800, 'paper, table 6'),
    'deeplab': Published('MobileNetV2 + DeepLabv3-lite, 513x513, output stride 16', 2.11, 2750, 'paper, table 7'),
}

#: The paper's table 4: ImageNet at 224x224 (top-1 %, parameters M, multiply-adds M, ms on a Pixel 1).
TABLE_4: tuple[tuple[str, float, float, float, int | None], ...] = (
    ('MobileNetV1', 70.6, 4.2, 575, 113),
    ('ShuffleNet (1.5)', 71.5, 3.4, 292, None),
    ('ShuffleNet (x2)', 73.7, 5.4, 524, None),
    ('NASNet-A', 74.0, 5.3, 564, 183),
    ('MobileNetV2', 72.0, 3.4, 300, 75),
    ('MobileNetV2 (1.4)', 74.7, 6.9, 585, 143),
)

#: The paper's table 3: channels and kB (16 bit) of the largest tensor between layers, by map size at 224.
TABLE_3_SIZES = (112, 56, 28, 14, 7, 1)
TABLE_3: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ('MobileNetV1', ('1/O(1)', '128/800', '256/400', '512/200', '1024/199', '1024/2'), '800'),
    ('MobileNetV2', ('1/O(1)', '32/200', '64/100', '160/62', '320/32', '1280/2'), '200'),
    ('ShuffleNet (2x, g=3)', ('1/O(1)', '48/300', '400/600', '800/310', '1600/156', '1600/3'), '600'),
)


def largest_tensors(plan: Plan) -> dict[int, tuple[int, int]]:
    """The paper's table 3 for a plan of the whole network: the largest tensor between layers at 224x224.

    For each map size, the channels of the widest layer output and its size in bytes at 16 bit. The last layer is
    counted after the pooling, as 1x1.
    """
    found: dict[int, tuple[int, int]] = {}
    *inner, last = layer_costs(plan, 224, 224)
    for cost in inner:
        channels = cost.layer.out_channels
        if channels > found.get(cost.height, (0, 0))[0]:
            found[cost.height] = (channels, 2 * cost.elements)
    found[1] = (last.layer.out_channels, 2 * last.layer.out_channels)
    return found
