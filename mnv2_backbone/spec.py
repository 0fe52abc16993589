"""The network as data: slim's layer table, and the pure function that turns it into a plan.

A table (:data:`V2_DEF`, the paper's table 2) says what the network is. :func:`make_plan` turns it, for a width, an
output stride and the end points asked for, into a :class:`Plan`: every channel, stride and rate of the network that
will be built. Everything else in the package reads the plan; nothing else computes one of these numbers. Pure Python.

Sources: ``nets/mobilenet/{mobilenet,mobilenet_v2,conv_blocks}.py`` of TF-slim; arXiv 1801.04381.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from operator import mul
from typing import Any, TypeAlias

OutIndex: TypeAlias = int | str
ActCfg: TypeAlias = str | Mapping[str, Any] | None
Parts: TypeAlias = tuple[tuple[int, int], ...]

#: Options of the backbone that are no part of its plan.
_BESIDES = (
    'type',
    'frozen_stages',
    'norm_eval',
    'with_cp',
    'channels_last',
    'conv_cfg',
    'norm_cfg',
    'act_cfg',
    'init_cfg',
)
#: Which padding a convolution gets: TensorFlow's SAME, or the same amount on both sides.
PADDINGS = ('same', 'explicit')


@dataclass(frozen=True)
class Row:
    """One row of a layer table; slim's ``op(...)``.

    Attributes:
        op: ``'conv'`` (convolution, norm, activation) or ``'bottleneck'`` (slim's ``expanded_conv``).
        out: Output channels at width 1.
        stride: Stride with ``output_stride=None``.
        kernel: Kernel size of the convolution, or of the depthwise one of a bottleneck.
        expand: Expansion factor of a bottleneck.
        divisible_by: Rounding of the expanded width (slim's ``expand_input_by_factor``).
        act: ``'default'`` for the network's ``act_cfg``, the name or config of another activation, or None for none. In
            a bottleneck it follows the expansion and the depthwise convolution; the projection stays linear.
        residual: Whether a bottleneck adds its input where stride and channels allow.
        split_expansion: Number of groups of the expansion's 1x1 convolution (slim's ``split_conv``).
        split_projection: Number of groups of the projection's.
    """

    op: str
    out: int
    stride: int = 1
    kernel: int = 3
    expand: float = 6
    divisible_by: int = 8
    act: ActCfg = 'default'
    residual: bool = True
    split_expansion: int = 1
    split_projection: int = 1


Spec: TypeAlias = Sequence[Row | Mapping[str, Any]]


def _repeat(times: int, out: int, stride: int = 1) -> tuple[Row, ...]:
    return tuple(Row('bottleneck', out, stride if i == 0 else 1) for i in range(times))


#: Table 2 of the paper, slim's ``V2_DEF``: 19 layers, ``layer_1`` to ``layer_19``.
V2_DEF: tuple[Row, ...] = (
    Row('conv', 32, stride=2),
    Row('bottleneck', 16, expand=1, divisible_by=1),
    *_repeat(2, 24, stride=2),
    *_repeat(3, 32, stride=2),
    *_repeat(4, 64, stride=2),
    *_repeat(3, 96),
    *_repeat(3, 160, stride=2),
    *_repeat(1, 320),
    Row('conv', 1280, kernel=1),
)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a layer; a norm follows it.

    Attributes:
        module: Its module inside the layer, which is slim's variable scope too: ``'expand'``, ``'depthwise'`` or
            ``'project'``, with a number (``'expand.0'``) for a part of a split one; empty for a layer of one
            convolution.
        step: The step of the layer that it computes, see :class:`Layer`.
        in_channels, out_channels, kernel, stride, rate, groups: Of the convolution.
    """

    module: str
    step: str
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    rate: int = 1
    groups: int = 1

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of its weights in PyTorch's layout."""
        return self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel


BOTTLENECK_STEPS = ('expansion', 'depthwise', 'projection', 'output')
#: The modules of the steps of a bottleneck that have convolutions.
STEP_MODULES = {'expansion': 'expand', 'depthwise': 'depthwise', 'projection': 'project'}


@dataclass(frozen=True)
class Layer:
    """One layer of a plan, ready to be built.

    Attributes:
        name: slim's name, ``layer_1`` and on.
        op: ``'conv'`` or ``'bottleneck'``.
        kernel, stride, rate: Of the spatial convolution; ``rate`` is its dilation.
        in_channels, out_channels: Channels in and out.
        expand_parts: (in, out) channels of each 1x1 convolution of the expansion; empty without one.
        project_parts: The same for the projection; empty for ``'conv'``.
        residual: Whether the input is added to the output.
        act: As in :class:`Row`.
        in_stride, out_stride: Pixels of the image per pixel of the layer's input and of its output.
        stage: The unit of ``frozen_stages``: 0 for the first layer, then 1 and on.
        steps: What of a bottleneck is built, of ``('expansion', 'depthwise', 'projection', 'output')`` (output is the
            projection with the residual added); the last layer of a plan may stop inside.
    """

    name: str
    op: str
    kernel: int
    stride: int
    rate: int
    in_channels: int
    out_channels: int
    expand_parts: Parts
    project_parts: Parts
    residual: bool
    act: ActCfg
    in_stride: int
    out_stride: int
    stage: int
    steps: tuple[str, ...] = ('output',)

    @property
    def expanded_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return sum(out for _, out in self.expand_parts) or self.in_channels

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """The convolutions of its steps, in the order in which they are computed."""
        spatial = dict(kernel=self.kernel, stride=self.stride, rate=self.rate)
        if self.op == 'conv':
            return (Convolution('', 'output', self.in_channels, self.out_channels, **spatial),)
        inner = self.expanded_channels
        steps = {
            'expansion': _pointwise('expansion', self.expand_parts),
            'depthwise': (Convolution('depthwise', 'depthwise', inner, inner, **spatial, groups=inner),),
            'projection': _pointwise('projection', self.project_parts),
        }
        return tuple(conv for step in self.steps for conv in steps.get(step, ()))


def _pointwise(step: str, parts: Parts) -> tuple[Convolution, ...]:
    module = STEP_MODULES[step]
    if len(parts) == 1:
        return (Convolution(module, step, *parts[0]),)
    return tuple(Convolution(f'{module}.{i}', step, *part) for i, part in enumerate(parts))


@dataclass(frozen=True)
class EndPoint:
    """A named tensor of the network.

    Attributes:
        name: slim's name, e.g. ``layer_15/expansion_output``.
        channels, stride: Its channels, and pixels of the image per pixel of it.
        layer, step: The layer it comes from, and the step inside (see :class:`Layer`).
        start: Its first channel in the step's tensor: not 0 only for a part of a split convolution.
    """

    name: str
    channels: int
    stride: int
    layer: str
    step: str
    start: int = 0


@dataclass(frozen=True)
class Plan:
    """What :func:`make_plan` returns.

    Attributes:
        layers: The layers to build, up to the last end point asked for.
        outputs: The end points asked for, in the order asked.
        padding: ``'same'`` or ``'explicit'``.
        num_stages: Stages of the whole table (8 for :data:`V2_DEF`), the greatest ``frozen_stages``.
    """

    layers: tuple[Layer, ...]
    outputs: tuple[EndPoint, ...]
    padding: str
    num_stages: int

    @property
    def end_points(self) -> dict[str, EndPoint]:
        """Every end point of the layers that are built, by slim's name."""
        return {point.name: point for layer in self.layers for point in _end_points(layer)}


def make_divisible(value: float, divisor: int, minimum: int | None = None) -> int:
    """Rounds to a multiple of ``divisor`` without losing more than a tenth (slim's ``_make_divisible``)."""
    rounded = max(minimum or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def make_plan(
    spec: Spec = V2_DEF,
    *,
    widen_factor: float = 1.0,
    output_stride: int | None = None,
    out_indices: OutIndex | Sequence[OutIndex] = (1, 2, 4, 7),
    padding: str = 'same',
    finegrain: bool = False,
    divisible_by: int = 8,
    min_depth: int = 8,
    in_channels: int = 3,
) -> Plan:
    """Turns a layer table into the plan of a network.

    Args:
        spec: The table: :class:`Row` objects, or mappings with the same names (as in a config file).
        widen_factor: Multiplies every row's output channels (slim's ``depth_multiplier``).
        output_stride: The coarsest resolution, as pixels of the image per pixel of the map. From the layer that would
            go beyond it on, strides become rates: that layer itself keeps the old rate, later ones get the rate
            multiplied by the lost stride. None for the table's own (32).
        out_indices: End points by name (``'layer_15/expansion_output'``), or MMDetection's stage numbers (0 to 7).
        padding: ``'same'`` (TensorFlow's, uneven at stride 2) or ``'explicit'`` (even, PyTorch's). Both give maps of
            size ceil(size / stride).
        finegrain: Leaves the last row's width alone where ``widen_factor`` is below 1 (slim's
            ``finegrain_classification_mode``).
        divisible_by: Channels are rounded to a multiple of this.
        min_depth: Channels are never fewer than this.
        in_channels: Channels of the images.

    Returns:
        The plan; layers after the last end point asked for are left out, and a bottleneck that is asked only for an
        inner end point is cut after it.

    Raises:
        ValueError: An option or a row of the table has a value that cannot be built.

    Examples:
        >>> plan = make_plan(out_indices=('layer_15/expansion_output', 'layer_19'))
        >>> [(point.channels, point.stride) for point in plan.outputs]
        [(576, 16), (1280, 32)]
    """
    rows = _read_rows(spec)
    for name, value in (('widen_factor', widen_factor), ('divisible_by', divisible_by), ('min_depth', min_depth)):
        if not value > 0:
            raise ValueError(f'{name}={value!r}: allowed are numbers above 0')
    if not isinstance(in_channels, int) or in_channels < 1:
        raise ValueError(f'in_channels={in_channels!r}: allowed are integers from 1')
    if padding not in PADDINGS:
        raise ValueError(f'padding={padding!r}: allowed are {" and ".join(map(repr, PADDINGS))}')
    reached = sorted(set(accumulate((row.stride for row in rows), mul, initial=1)))
    if output_stride is not None and output_stride not in reached:
        raise ValueError(f'output_stride={output_stride!r}: this table reaches {", ".join(map(str, reached))}, or None')
    if finegrain and widen_factor < 1:
        rows = (*rows[:-1], replace(rows[-1], out=rows[-1].out / widen_factor))  # type: ignore[arg-type]

    layers = tuple(_lay_out(rows, in_channels, widen_factor, output_stride, divisible_by, min_depth))
    points = {point.name: point for layer in layers for point in _end_points(layer)}
    outputs = tuple(points[name] for name in _names(out_indices, layers, points))
    return Plan(_cut(layers, outputs), outputs, padding, num_stages=layers[-1].stage)


def feature_info(**options: Any) -> tuple[EndPoint, ...]:
    """Name, channels and stride of each of ``out_indices``, before anything is built.

    Args:
        **options: As for :func:`make_plan`; others of :class:`mnv2_backbone.MobileNetV2` change nothing.

    Examples:
        >>> [point.channels for point in feature_info(widen_factor=0.5, out_indices=(2, 4))]
        [16, 48]
    """
    return make_plan(**{name: value for name, value in options.items() if name not in _BESIDES}).outputs


def _lay_out(
    rows: Sequence[Row], channels: int, widen: float, output_stride: int | None, divisible_by: int, min_depth: int
) -> Iterator[Layer]:
    current_stride, rate, stage = 1, 1, 0
    for number, row in enumerate(rows, start=1):
        before = rows[number - 2] if number > 1 else None
        if before and (number == 2 or row.stride > 1 or (row.op, row.out) != (before.op, before.out)):
            stage += 1
        in_stride = current_stride
        if current_stride == output_stride:  # slim: the lost stride counts for the layers after this one
            layer_stride, layer_rate = 1, rate
            rate *= row.stride
        else:
            layer_stride, layer_rate = row.stride, 1
            current_stride *= row.stride
        out = make_divisible(row.out * widen, divisible_by, min_depth)
        inner = channels
        expand_parts: Parts = ()
        project_parts: Parts = ()
        if row.op == 'bottleneck':
            inner = make_divisible(channels * row.expand, row.divisible_by)
            if inner > channels:
                expand_parts = _split(number, 'split_expansion', channels, inner, row.split_expansion)
            else:  # slim builds no expansion that would not expand
                inner = channels
            project_parts = _split(number, 'split_projection', inner, out, row.split_projection)
        yield Layer(
            name=f'layer_{number}',
            op=row.op,
            kernel=row.kernel,
            stride=layer_stride,
            rate=layer_rate,
            in_channels=channels,
            out_channels=out,
            expand_parts=expand_parts,
            project_parts=project_parts,
            residual=row.op == 'bottleneck' and row.residual and layer_stride == 1 and out == channels,
            act=row.act,
            in_stride=in_stride,
            out_stride=current_stride,
            stage=stage,
            steps=BOTTLENECK_STEPS[not expand_parts :] if row.op == 'bottleneck' else ('output',),
        )
        channels = out


def _split(number: int, option: str, channels: int, out: int, ways: int) -> Parts:
    """Slim's ``split_conv``: a plain convolution where a part would have fewer than 8 channels."""
    if ways == 1 or min(channels // ways, out // ways) < 8:
        return ((channels, out),)
    if channels % 8 or out % 8:
        where = f'spec row {number} (layer_{number}): {option}={ways}'
        raise ValueError(f'{where} splits {channels} channels into {out}; both must be multiples of 8')
    return tuple(zip(_split_divisible(channels, ways), _split_divisible(out, ways)))


def _split_divisible(total: int, ways: int, divisor: int = 8) -> list[int]:
    parts: list[int] = []
    for i in range(ways):
        part = total // ways // divisor * divisor
        while sum(parts) + part < total * (i + 1) / ways:
            part += divisor
        parts.append(part)
    return parts


def _end_points(layer: Layer) -> Iterator[EndPoint]:
    for step in layer.steps:
        stride = layer.in_stride if step == 'expansion' else layer.out_stride
        start = 0
        for conv in layer.convolutions:
            if conv.step == step and '.' in conv.module:  # slim's split_conv
                name = f'{layer.name}/{conv.module.replace(".", "_part_")}_output'
                yield EndPoint(name, conv.out_channels, stride, layer.name, step, start)
                start += conv.out_channels
        if step in ('expansion', 'depthwise'):
            yield EndPoint(f'{layer.name}/{step}_output', layer.expanded_channels, stride, layer.name, step)
        elif step == 'output':
            for name in (f'{layer.name}/output', layer.name) if layer.op == 'bottleneck' else (layer.name,):
                yield EndPoint(name, layer.out_channels, stride, layer.name, step)


def _names(
    out_indices: OutIndex | Sequence[OutIndex], layers: Sequence[Layer], points: Mapping[str, EndPoint]
) -> list[str]:
    wanted = (out_indices,) if isinstance(out_indices, (int, str)) else tuple(out_indices)
    last_of_stage = {layer.stage: layer.name for layer in layers}
    names = []
    for index in wanted:
        if isinstance(index, int) and index + 1 in last_of_stage and index >= 0:
            names.append(last_of_stage[index + 1])
        elif isinstance(index, str) and index in points:
            names.append(index)
        else:
            raise ValueError(
                f'out_indices={out_indices!r}: no end point {index!r}; allowed are the stages 0 to '
                f'{max(last_of_stage) - 1} and the names {", ".join(points)}'
            )
    if not names:
        raise ValueError('out_indices is empty: name at least one end point')
    return names


def _cut(layers: tuple[Layer, ...], outputs: Sequence[EndPoint]) -> tuple[Layer, ...]:
    """Drops the layers after the last output, and the steps after it inside its layer."""
    wanted = {point.layer for point in outputs}
    last = max(i for i, layer in enumerate(layers) if layer.name in wanted)
    steps = layers[last].steps
    needed = max(steps.index(point.step) for point in outputs if point.layer == layers[last].name)
    return (*layers[:last], replace(layers[last], steps=steps[: needed + 1]))


def _read_rows(spec: Spec) -> tuple[Row, ...]:
    if len(spec) < 2:
        raise ValueError(f'spec has {len(spec)} rows: a network has 2 or more')
    return tuple(_read_row(number, row) for number, row in enumerate(spec, start=1))


def _read_row(number: int, row: Row | Mapping[str, Any]) -> Row:
    where = f'spec row {number} (layer_{number})'
    if not isinstance(row, Row):
        names = [f.name for f in fields(Row)]
        for name in row:
            if name not in names:
                raise ValueError(f'{where}: no option {name!r}; allowed are {", ".join(names)}')
        for name in ('op', 'out'):
            if name not in row:
                raise ValueError(f'{where}: {name!r} is missing')
        row = Row(**row)
    if row.op not in ('conv', 'bottleneck'):
        raise ValueError(f"{where}: op={row.op!r}: allowed are 'conv' and 'bottleneck'")
    for name in ('out', 'stride', 'kernel', 'divisible_by', 'split_expansion', 'split_projection'):
        value = getattr(row, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f'{where}: {name}={value!r}: allowed are integers from 1')
    if not row.expand > 0:
        raise ValueError(f'{where}: expand={row.expand!r}: allowed are numbers above 0')
    if row.op == 'conv' and (row.split_expansion, row.split_projection) != (1, 1):
        raise ValueError(f'{where}: split_expansion and split_projection are for bottlenecks only')
    return row
