"""Prints the network of a config layer by layer, with its totals and the published ones."""

import argparse
import sys
from typing import Any

from costs import CLASSIFIERS, NETWORKS, TABLE_3, TABLE_3_SIZES, TABLE_4, largest_tensors, layer_costs
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Column, Table

from mnv2_backbone.configs import leaves
from mnv2_backbone.errors import UserError, command, setting_up
from mnv2_backbone.training.command_line import check_files


@command
def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or the name of one in the package')
    parser.add_argument('--size', type=int, nargs=2, metavar=('H', 'W'), help="input size; the config's own by default")
    parser.add_argument('--compare', action='store_true', help="add the paper's tables 3 and 4 beside ours")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    check_files(args.config)
    from mmengine.model.utils import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    from mnv2_backbone import MobileNetV2
    from mnv2_backbone.training.options import load_config

    with setting_up():
        cfg = load_config(args.config, args.cfg_options)
        height, width = args.size or input_size(cfg, args.config)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    backbone = next((m for m in model.modules() if isinstance(m, MobileNetV2)), None)
    if backbone is None:
        raise UserError(f'{args.config}: its model has no mnv2_backbone.MobileNetV2')
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(plan_table(backbone, height, width))
    console.print(totals_table(model, backbone, height, width))
    if args.compare:
        console.print(*comparison_tables(backbone))
    return 0


def input_size(cfg: Config, path: str) -> tuple[int, int]:
    """(height, width) that a config tests at: its preprocessor's, else what the test images are resized to."""
    from mnv2_backbone.deployment.recipe import padding_of

    if size := padding_of(cfg).get('size') or (cfg.model.get('data_preprocessor') or {}).get('size'):
        return tuple(size)
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    for _, leaf in leaves('dataset', dataset):
        for step in reversed(leaf.get('pipeline', [])):
            if 'scale' in step:
                return tuple(reversed(step['scale']))
    raise UserError(f'{path}: its test images are not resized; name a size with --size H W')


def plan_table(backbone: Any, height: int, width: int) -> Table:
    """The layers of the backbone at an input size."""
    numbers = _numbers('stride', 'rate', 'channels', 'size', 'field', 'parameters', 'multiply-adds')
    title = f'{type(backbone).__name__}, {height}x{width}, padding {backbone.plan.padding}'
    table = Table('layer', 'operator', *numbers, title=title)
    outputs = {point.layer: point.name for point in backbone.plan.outputs}
    for cost in layer_costs(backbone.plan, height, width):
        layer = cost.layer
        operator = f'conv {layer.kernel}x{layer.kernel}'
        channels = f'{layer.in_channels} > {layer.out_channels}'
        if layer.op == 'bottleneck':
            operator = f'bottleneck {layer.kernel}x{layer.kernel}' + (' +' if layer.residual else '')
            channels = f'{layer.in_channels} > {layer.expanded_channels} > {layer.out_channels}'
            if layer.steps[-1] != 'output':
                operator = f'bottleneck, only its {layer.steps[-1]}'
                channels = f'{layer.in_channels} > {layer.expanded_channels}'
        table.add_row(
            layer.name,
            operator,
            str(layer.stride),
            str(layer.rate),
            channels,
            f'{cost.height}x{cost.width}',
            str(cost.receptive_field),
            f'{cost.params:,}',
            f'{cost.madds:,}',
            style='bold' if layer.name in outputs else None,
        )
    table.caption = 'outputs: ' + ', '.join(
        f'{point.name} ({point.channels} channels, stride {point.stride})' for point in backbone.plan.outputs
    )
    return table


def totals_table(model: Any, backbone: Any, height: int, width: int) -> Table:
    """Parameters and multiply-adds of the whole network, and the published ones."""
    from mnv2_backbone import Classifier

    table = Table('network', *_numbers('parameters (M)', 'multiply-adds (M)'), 'source', title='totals')
    if model is not backbone:
        table.add_row(f'this model, {height}x{width}', *_counts(model, height, width), 'counted')
    table.add_row(f'its backbone, {height}x{width}', *_counts(backbone, height, width), 'counted')
    module = type(model).__module__.split('.')[-1]
    if module == 'segmentors' or 'DeepLab' in type(getattr(model, 'decode_head', None)).__name__:
        module = 'deeplab'
    if module in NETWORKS:
        published = NETWORKS[module]
        table.add_row(published.name, f'{published.params}', f'{published.madds:g}', published.source)
    width_factor = backbone.widen_factor
    if width_factor in CLASSIFIERS:
        classifier = Classifier(widen_factor=width_factor, finegrain=True).eval()
        name = f'ImageNet classifier of width {width_factor}, 224x224'
        table.add_row(name, *_counts(classifier, 224, 224), 'counted')
        published = CLASSIFIERS[width_factor]
        params = f'{published.params}' if published.params else ''
        table.add_row(f'{published.name}, 224x224', params, f'{published.madds:g}', published.source)
    return table


def comparison_tables(backbone: Any) -> list[Table]:
    """The paper's tables 3 and 4 with this backbone's row in front."""
    from mnv2_backbone import Classifier, make_plan

    width = backbone.widen_factor
    sizes = (f'{size}x{size}' for size in TABLE_3_SIZES)
    title = 'channels / kB of the largest tensor between layers at 224x224, 16 bit (table 3)'
    memory = Table('network', *_numbers(*sizes, 'largest, kB'), title=title)
    found = largest_tensors(make_plan(widen_factor=width, finegrain=True, out_indices='layer_19'))
    cells = [f'{found[size][0]}/{found[size][1] / 1024:.0f}' for size in TABLE_3_SIZES]
    most = max(size for side, (_, size) in found.items() if side < 112) / 1024
    memory.add_row(f'ours, width {width}, counted', *cells, f'{most:.0f}', style='bold')
    memory.caption = 'the largest is without 112x112, as in the paper: those maps can be made piece by piece'
    for name, row, largest in TABLE_3:
        memory.add_row(name, *row, largest)

    numbers = _numbers('top-1 %', 'parameters (M)', 'multiply-adds (M)', 'Pixel 1 CPU, ms')
    accuracy = Table('network', *numbers, title='ImageNet at 224x224 (table 4)')
    classifier = Classifier(widen_factor=width, finegrain=True).eval()
    accuracy.add_row(f'ours, width {width}, counted', '', *_counts(classifier, 224, 224), '', style='bold')
    for name, top1, params, madds, ms in TABLE_4:
        accuracy.add_row(name, f'{top1}', f'{params}', f'{madds:g}', f'{ms or ""}')
    return [memory, accuracy]


def _numbers(*names: str) -> list[Column]:
    return [Column(name, justify='right') for name in names]


def _counts(model: Any, height: int, width: int) -> tuple[str, str]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.zeros(1, 3, height, width))
    params = sum(p.numel() for p in model.parameters())
    return f'{params / 1e6:.3f}', f'{flops.get_total_flops() / 2e6:.1f}'


if __name__ == '__main__':
    sys.exit(main())
