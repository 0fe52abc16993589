"""What MMSegmentation's atrous MobileNetV2 costs: the same head, data, schedule and weights on both backbones.

At output strides 8 and 16 MMSegmentation gives a rate to the first block of a stage only, the original to all blocks
but the first, so weights that were trained at stride 32 see other distances there.

    python tools/compare_atrous.py configs/deeplabv3lite_mnv2_voc12.py mnv2://imagenet-1.0
    python tools/compare_atrous.py configs/deeplabv3lite_mnv2_voc_tf.py mnv2://deeplabv3-voc --no-train
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import CheckpointLoader, Runner

from mnv2_backbone import feature_info
from mnv2_backbone.errors import UserError
from mnv2_backbone.runtime.checkpoint import read_weights_only_everywhere
from mnv2_backbone.runtime.options import load_config
from mnv2_backbone.weights import scheme  # noqa: F401 - registers mnv2://

#: Strides and rates of its seven stages with which MMSegmentation reaches an output stride.
THEIRS = {
    8: dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)),
    16: dict(strides=(1, 2, 2, 2, 1, 1, 1), dilations=(1, 1, 1, 1, 1, 2, 2)),
    32: dict(strides=(1, 2, 2, 2, 1, 2, 1), dilations=(1, 1, 1, 1, 1, 1, 1)),
}
#: Blocks of each stage.
STAGES = (1, 2, 3, 4, 3, 3, 1)


def to_mmseg(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames the backbone's tensors; the last 1x1 convolution, which MMSegmentation lacks, is left out."""
    blocks = [f'layer{stage}.{i}.conv' for stage, count in enumerate(STAGES, 1) for i in range(count)]
    names = {'backbone.layer_1.': 'backbone.conv1.'}
    for number, block in enumerate(blocks, start=2):
        steps = ('expand', 'depthwise', 'project') if number > 2 else ('depthwise', 'project')
        for place, step in enumerate(steps):
            names[f'backbone.layer_{number}.{step}.'] = f'backbone.{block}.{place}.'
    renamed = {}
    for key, value in state.items():
        old = next((name for name in names if key.startswith(name)), None)
        if old is not None:
            renamed[names[old] + key.removeprefix(old)] = value
        elif not key.startswith('backbone.'):
            renamed[key] = value
    return renamed


def use_theirs(cfg: Config) -> None:
    """Puts MMSegmentation's backbone into a config of the lite head."""
    ours = cfg.model.backbone
    if tuple(ours.out_indices) != ('layer_18',) or ours.output_stride not in THEIRS:
        raise UserError(
            f'out_indices={ours.out_indices}, output_stride={ours.output_stride}: the comparison is for layer_18 '
            f'alone at {", ".join(map(str, THEIRS))}'
        )
    cfg.model.type = 'mmseg.EncoderDecoder'
    cfg.model.backbone = dict(
        type='mmseg.MobileNetV2',
        widen_factor=ours.widen_factor,
        norm_cfg=ours.norm_cfg,
        out_indices=(1, 2, 4, 6),
        **THEIRS[ours.output_stride],
    )
    (point,) = feature_info(widen_factor=ours.widen_factor, out_indices=('layer_18',))
    cfg.model.decode_head.update(in_channels=point.channels, in_index=3, output_stride=ours.output_stride)


def run(name: str, args: argparse.Namespace) -> float:
    """Trains, or only tests, with one of the backbones; returns the mIoU in percent."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.model.backbone.init_cfg = None
    state = CheckpointLoader.load_checkpoint(args.weights, map_location='cpu')['state_dict']
    if name == 'mmseg':
        use_theirs(cfg)
        state = to_mmseg(state)
    cfg.work_dir = str(Path(args.work_dir, name))
    cfg.experiment_name = f'atrous_{name}'
    Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
    cfg.load_from = str(Path(cfg.work_dir, 'start.pth'))
    torch.save(dict(state_dict=state, meta={}), cfg.load_from)
    if not any(key.startswith('decode_head.') for key in state):
        (check,) = (hook for hook in cfg.custom_hooks if hook.type == 'mnv2_backbone.CheckedLoadHook')
        check.fresh = ('decode_head',)
    runner = Runner.from_cfg(cfg)
    missing = [key for key in runner.model.backbone.state_dict() if f'backbone.{key}' not in state]
    if any('num_batches_tracked' not in key for key in missing):
        raise UserError(f'{args.weights} does not fit {args.config}: {", ".join(missing[:5])} missing')
    if not args.no_train:
        runner.train()
    return runner.test()['mIoU']


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('config', help='config of the lite head')
    parser.add_argument('weights', help='where both start')
    parser.add_argument('--no-train', action='store_true', help='test the weights as they are')
    parser.add_argument('--work-dir', default='work_dirs/atrous')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    read_weights_only_everywhere()
    try:
        scores = {name: run(name, args) for name in ('ours', 'mmseg')}
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print('\n'.join(f'{name:6} mIoU {score:.2f}' for name, score in scores.items()))
    return 0


if __name__ == '__main__':
    sys.exit(main())
