"""The plan arithmetic, against slim's own tests, the paper's tables and slim's rules as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv2_backbone import V2_DEF, Row, feature_info, make_plan
from mnv2_backbone.spec import make_divisible

ALL = ('layer_19',)
WIDTHS = st.floats(0.1, 2.0)
STRIDES = st.sampled_from([None, 1, 2, 4, 8, 16, 32])


def channel_set(**options):
    plan = make_plan(out_indices=ALL, **options)
    return {c for layer in plan.layers for c in (layer.expanded_channels, layer.out_channels)} - {3}


def test_channel_sets_of_slims_own_tests():
    wide = {32, 64, 96, 160, 192, 320, 384, 576, 960, 1280}
    assert channel_set(divisible_by=16, min_depth=32) == wide
    assert channel_set(widen_factor=0.1, min_depth=32) == {32, 192, 128}
    assert channel_set(widen_factor=0.01, finegrain=True) == {8, 48, 1280}


@pytest.mark.parametrize(
    ('width', 'channels', 'layer_15'),
    [
        (0.35, [16, 8, 8, 8, 16, 16, 16, 24, 24, 24, 24, 32, 32, 32, 56, 56, 56, 112, 1280], 192),
        (0.5, [16, 8, 16, 16, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 80, 80, 80, 160, 1280], 288),
        (0.75, [24, 16, 24, 24, 24, 24, 24, 48, 48, 48, 48, 72, 72, 72, 120, 120, 120, 240, 1280], 432),
        (1.0, [32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320, 1280], 576),
        (1.3, [40, 24, 32, 32, 40, 40, 40, 80, 80, 80, 80, 128, 128, 128, 208, 208, 208, 416, 1664], 768),
        (1.4, [48, 24, 32, 32, 48, 48, 48, 88, 88, 88, 88, 136, 136, 136, 224, 224, 224, 448, 1792], 816),
    ],
)
def test_channels_of_the_published_widths(width, channels, layer_15):
    layers = make_plan(widen_factor=width, finegrain=True, out_indices=ALL).layers
    assert [layer.out_channels for layer in layers] == channels
    assert layers[14].expanded_channels == layer_15


@pytest.mark.parametrize(
    ('output_stride', 'expected'),
    [
        (16, {8: (2, 1), 15: (1, 1), 16: (1, 2), 17: (1, 2), 18: (1, 2)}),
        (8, {8: (1, 1), 9: (1, 2), 14: (1, 2), 15: (1, 2), 16: (1, 4), 18: (1, 4)}),
        (4, {5: (1, 1), 6: (1, 2), 8: (1, 2), 9: (1, 4), 15: (1, 4), 16: (1, 8), 18: (1, 8)}),
    ],
)
def test_a_lost_stride_becomes_the_rate_of_the_layers_after_it(output_stride, expected):
    layers = make_plan(output_stride=output_stride, out_indices=ALL).layers
    found = {n: (layers[n - 1].stride, layers[n - 1].rate) for n in expected}
    assert found == expected


@given(WIDTHS, STRIDES, st.booleans(), st.sampled_from([4, 8, 16]), st.integers(1, 32))
def test_every_plan_is_consistent(width, output_stride, finegrain, divisible_by, min_depth):
    plan = make_plan(
        widen_factor=width,
        output_stride=output_stride,
        finegrain=finegrain,
        divisible_by=divisible_by,
        min_depth=min_depth,
        out_indices=ALL,
    )
    full = make_plan(
        widen_factor=width, finegrain=finegrain, divisible_by=divisible_by, min_depth=min_depth, out_indices=ALL
    )
    channels, stride, reach = 3, 1, 1
    for layer, normal in zip(plan.layers, full.layers):
        reach *= normal.stride  # picture pixels per pixel of this layer's map without atrous convolution
        stride *= layer.stride
        assert layer.in_channels == channels
        assert layer.out_stride == stride == min(reach, output_stride or 32)
        # the spacing of the kernel's taps in picture pixels never depends on the output stride
        assert layer.rate * layer.in_stride == normal.in_stride
        assert layer.out_channels % divisible_by == 0 or min_depth % divisible_by
        assert layer.out_channels >= min_depth
        if layer.residual:
            assert layer.stride == 1 and layer.in_channels == layer.out_channels
        channels = layer.out_channels


@given(st.floats(1, 4000), st.sampled_from([1, 4, 8, 16]))
def test_rounding_keeps_nine_tenths(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= 0.9 * value
    assert rounded - value <= divisor


def test_end_points_by_name_and_by_stage():
    points = feature_info(out_indices=('layer_15/expansion_output', 'layer_7/depthwise_output', 'layer_18'))
    assert [(p.channels, p.stride) for p in points] == [(576, 16), (192, 8), (320, 32)]
    stages = feature_info(out_indices=range(8))
    assert [p.name for p in stages] == [f'layer_{n}' for n in (2, 4, 7, 11, 14, 17, 18, 19)]
    assert [p.channels for p in stages] == [16, 24, 32, 64, 96, 160, 320, 1280]
    assert [p.stride for p in stages] == [2, 4, 8, 16, 16, 32, 32, 32]


def test_nothing_is_planned_beyond_the_last_end_point():
    plan = make_plan(out_indices=('layer_4', 'layer_15/expansion_output'))
    assert [layer.name for layer in plan.layers][-1] == 'layer_15'
    assert plan.layers[-1].steps == ('expansion',)
    assert plan.layers[-2].steps[-1] == 'output'


def test_split_convolutions_follow_slims_divisible_split():
    spec = [Row('conv', 40, 2), Row('bottleneck', 64, split_expansion=3, split_projection=2)]
    layer = make_plan(spec, out_indices='layer_2').layers[1]
    # 40 and 240 channels in three ways, each a multiple of 8 and as even as that allows
    assert layer.expand_parts == ((16, 80), (16, 80), (8, 80))
    assert layer.project_parts == ((120, 32), (120, 32))
    points = make_plan(spec, out_indices='layer_2').end_points
    assert [points[f'layer_2/expand_part_{i}_output'].start for i in range(3)] == [0, 80, 160]
    narrow = [Row('conv', 16, 2), Row('bottleneck', 24, split_expansion=3)]
    assert len(make_plan(narrow, out_indices='layer_2').layers[1].expand_parts) == 1


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(widen_factor=0), ['widen_factor=0']),
        (dict(padding='valid'), ["padding='valid'", "'same'", "'explicit'"]),
        (dict(output_stride=6), ['output_stride=6', '1, 2, 4, 8, 16, 32']),
        (dict(out_indices=(8,)), ['end point 8', '0 to 7']),
        (dict(out_indices=('layer_2/expansion_output',)), ['layer_2/expansion_output']),
        (dict(out_indices=()), ['out_indices']),
        (dict(spec=[*V2_DEF[:4], dict(op='pool', out=8)]), ['row 5 (layer_5)', "'pool'"]),
        (dict(spec=[*V2_DEF[:4], dict(op='conv', out=8, width=1)]), ['row 5', "'width'", 'kernel']),
        (dict(spec=[*V2_DEF[:4], Row('bottleneck', 24, stride=0)]), ['row 5', 'stride=0']),
        (
            dict(spec=[Row('conv', 36), Row('bottleneck', 64, split_expansion=2)], divisible_by=4),
            ['row 2 (layer_2)', 'split_expansion=2', '36'],
        ),
    ],
)
def test_what_cannot_be_built_is_named(options, words):
    with pytest.raises(ValueError) as error:
        make_plan(**options)
    for word in words:
        assert word in str(error.value)
