"""What other libraries' MobileNetV2 reaches when it is trained as ours: the same images, weights, schedule and seeds.

SSDLite configs are compared with MMDetection's SSDLite-MobileNetV2 and with our FPNLite, segmentation configs with the
same head on MMSegmentation's MobileNetV2. At output strides 8 and 16 that dilates only the first block of a stage, the
original all but the first.

    python tools/compare_peers.py configs/ssdlite_mnv2_voc_short.py mnv2://imagenet-1.0 --seeds 0 1 2
    python tools/compare_peers.py configs/deeplabv3lite_mnv2_voc12.py mnv2://imagenet-1.0
    python tools/compare_peers.py configs/deeplabv3lite_mnv2_voc_tf.py mnv2://deeplabv3-voc --no-train
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import torch
from mmdet.evaluation import VOCMetric
from mmdet.evaluation.functional import eval_map
from mmengine.config import Config, DictAction
from mmengine.hub import get_config
from mmengine.registry import METRICS
from mmengine.runner import CheckpointLoader, Runner
from outward import rename_for
from torch import Tensor, nn

from mnv2_backbone import feature_info
from mnv2_backbone.data.masks import IndexedIoUMetric
from mnv2_backbone.errors import UserError, command, whole_file
from mnv2_backbone.network.checkpoint import (
    find_resume_point,
    read_checkpoint,
    read_weights_only_everywhere,
    refuse_earlier_run,
)
from mnv2_backbone.training.cpu import keep_freed_memory
from mnv2_backbone.training.options import apply_options, load_config
from mnv2_backbone.training.preflight import check_data
from mnv2_backbone.training.run import DueValidationHook

State = dict[str, Tensor]

#: Strides and rates of its seven stages with which MMSegmentation reaches an output stride.
MMSEG = {
    8: dict(strides=(1, 2, 2, 1, 1, 1, 1), dilations=(1, 1, 1, 2, 2, 4, 4)),
    16: dict(strides=(1, 2, 2, 2, 1, 1, 1), dilations=(1, 1, 1, 1, 1, 2, 2)),
    32: dict(strides=(1, 2, 2, 2, 1, 2, 1), dilations=(1, 1, 1, 1, 1, 1, 1)),
}
MMDET = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'


@METRICS.register_module()
class VOCMetricByClass(VOCMetric):
    """MMDetection's VOCMetric that has the AP50 of each class among its scores, not in its log alone."""

    def compute_metrics(self, results: list) -> dict:
        """The scores of VOCMetric and ``AP50 CLASS`` of the classes that the images have."""
        scores: dict = super().compute_metrics(results)
        truth, found = zip(*results)
        options = dict(iou_thr=0.5, eval_mode=self.eval_mode, use_legacy_coordinate=True, logger='silent')
        for name, one in zip(self.dataset_meta['classes'], eval_map(found, truth, **options)[1]):
            if one['num_gts']:
                scores[f'AP50 {name}'] = float(one['ap'])
        return scores


@METRICS.register_module()
class IoUMetricByClass(IndexedIoUMetric):
    """IndexedIoUMetric that has the IoU of each class, in percent, among its scores, not in its log alone."""

    def compute_metrics(self, results: list) -> dict:
        """The scores of IoUMetric and ``IoU CLASS`` of the classes that the masks or the predictions have."""
        scores: dict = super().compute_metrics(results)
        areas = [sum(column) for column in zip(*results)]
        every = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)['IoU']
        for name, one in zip(self.dataset_meta['classes'], every):
            if not isnan(one):
                scores[f'IoU {name}'] = 100 * float(one)
        return scores


def as_it_is(cfg: Config, state: State) -> State:
    """No change."""
    return state


def use_mmseg(cfg: Config, state: State) -> State:
    """Puts MMSegmentation's backbone into a config of the lite head, and renames the weights for it."""
    ours = cfg.model.backbone
    if tuple(ours.out_indices) != ('layer_18',) or ours.output_stride not in MMSEG:
        raise UserError(
            f'out_indices={ours.out_indices}, output_stride={ours.output_stride}: the comparison is for layer_18 '
            f'alone at {", ".join(map(str, MMSEG))}'
        )
    cfg.model.type = 'mmseg.EncoderDecoder'
    cfg.model.backbone = dict(
        type='mmseg.MobileNetV2',
        widen_factor=ours.widen_factor,
        norm_cfg=ours.norm_cfg,
        out_indices=(1, 2, 4, 6),
        **MMSEG[ours.output_stride],
    )
    (point,) = feature_info(widen_factor=ours.widen_factor, out_indices=('layer_18',))
    cfg.model.decode_head.update(in_channels=point.channels, in_index=3, output_stride=ours.output_stride)
    rest = {key: value for key, value in state.items() if not key.startswith('backbone.')}
    return {**rename_for('mmseg', state), **rest}


def use_mmdet(cfg: Config, state: State) -> State:
    """Puts MMDetection's detector into a config of ours: its features, neck, head, anchors, initialization, NMS.

    The normalization of images stays the one that the weights were trained with.
    """
    model = get_config(MMDET).model
    model.bbox_head.num_classes = cfg.model.bbox_head.num_classes
    model.data_preprocessor = cfg.model.data_preprocessor
    cfg.model = model
    return rename_for('mmdet', state)


def use_mmdet_and_recipe(cfg: Config, state: State) -> State:
    """MMDetection's detector with its own augmentation and optimizer too; epochs and batch stay the config's."""
    theirs = get_config(MMDET)
    pipeline = theirs.train_dataloader.dataset.dataset.pipeline
    next(step for step in pipeline if step.type == 'Expand').mean = cfg.model.data_preprocessor.mean
    cfg.train_dataloader.dataset.pipeline = pipeline
    cfg.optim_wrapper = theirs.optim_wrapper
    return use_mmdet(cfg, state)


def use_fpnlite(cfg: Config, state: State) -> State:
    """Puts FPNLite, as it is fine-tuned, into a config of SSDLite."""
    model = load_config('fpnlite_mnv2_finetune.py').model
    model.bbox_head.num_classes = cfg.model.bbox_head.num_classes
    cfg.model = model
    return state


#: By the scope of the config: what is compared.
NETWORKS: Mapping[str, Mapping[str, Callable[[Config, State], State]]] = {
    'mmdet': {'ours': as_it_is, 'mmdet': use_mmdet, 'mmdet-recipe': use_mmdet_and_recipe, 'fpnlite': use_fpnlite},
    'mmseg': {'ours': as_it_is, 'mmseg': use_mmseg},
}


#: What replaces the metrics of a config.
BY_CLASS = {'VOCMetric': 'VOCMetricByClass', 'mnv2_backbone.IndexedIoUMetric': 'IoUMetricByClass'}


def earlier(work_dir: Path, asked: Mapping[str, Any], resume: bool) -> str | None:
    """The checkpoint to go on from in the folder of a run; None if none has been saved there.

    Raises:
        UserError: There is one without ``resume``, or of a run that was asked for something else than ``asked``.
    """
    start = work_dir / 'start.pth'
    if not resume:
        refuse_earlier_run(work_dir)
    elif start.is_file():
        before = read_checkpoint(start)['meta'].get('asked', {})
        for key, value in asked.items():
            if before.get(key) != value:
                raise UserError(f'--resume: {work_dir} was begun with {key}={before.get(key)}, this is {key}={value}')
    return find_resume_point(work_dir)


def run(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Trains, or only tests, one of :data:`NETWORKS` of the scope of a config, as the command line asks.

    It starts from ``args.weights``; parts that they do not have start fresh. ``NAME_seedSEED`` in the folder gets
    logs, checkpoints and ``scores.json``: the scores of the last validation (``val``) and of the test (``test``), and
    the ``seconds`` since the last start. With ``--resume`` a run that has ended is not run again, and one that was cut
    goes on.

    Raises:
        UserError: The weights do not fit, or a run to resume was begun with other options.
    """
    work_dir = args.work_dir / f'{name}_seed{seed}'
    options = args.cfg_options or {}
    asked = dict(config=args.config, options=options, weights=args.weights, trained=not args.no_train)
    point = earlier(work_dir, asked, args.resume)
    done = work_dir / 'scores.json'
    if args.resume and done.is_file():
        ended: dict[str, Any] = json.loads(done.read_text())
        return ended
    cfg = load_config(args.config, options)
    state = CheckpointLoader.load_checkpoint(args.weights, map_location='cpu')['state_dict']
    state = NETWORKS[cfg.default_scope][name](cfg, state)
    if cfg.default_scope == 'mmdet':  # what has replaced the model or the recipe has not seen them
        apply_options(cfg, options)
    cfg.model.backbone.init_cfg = None
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{name}_{seed}_{time.time_ns()}'
    cfg.visualizer.name = cfg.experiment_name  # with the same name it would write to the log of the first run
    cfg.randomness = dict(seed=seed)
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg.load_from = str(work_dir / 'start.pth')
    if point:
        cfg.load_from, cfg.resume = point, True
    else:
        with whole_file(Path(cfg.load_from)) as draft:
            torch.save(dict(state_dict=state, meta=dict(asked=asked)), draft)
    (check,) = (hook for hook in cfg.custom_hooks if hook.type == 'mnv2_backbone.CheckedLoadHook')
    heads = ('neck', 'bbox_head', 'decode_head')
    check.fresh = tuple(part for part in heads if not any(key.startswith(f'{part}.') for key in state))
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.type = BY_CLASS.get(evaluator.type, evaluator.type)
    began = time.monotonic()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(DueValidationHook(), priority='LOWEST')
    missing = [key for key in runner.model.backbone.state_dict() if f'backbone.{key}' not in state]
    if any('num_batches_tracked' not in key for key in missing):
        raise UserError(f'{args.weights} do not fit {name}: {", ".join(missing[:5])} missing')
    if name.startswith('mmdet'):
        # MMDetection 3.2 and 3.3 ask the head for the loss_cls that it does not have.
        runner.model.bbox_head.loss_cls = nn.Identity()
    runner.model.to(memory_format=torch.channels_last)  # theirs like ours: the same values in half the time
    scores: dict[str, Any] = {}
    if not args.no_train:
        runner.train()
        hub = runner.message_hub.log_scalars
        found = {key.removeprefix('val/'): log.current() for key, log in hub.items() if key.startswith('val/')}
        scores['val'] = {key: float(value) for key, value in found.items() if 'time' not in key}
        # A second run of a runner starts mmengine's EMAHook again: the averaged weights are in the checkpoint.
        saved = CheckpointLoader.load_checkpoint(find_resume_point(work_dir), map_location='cpu')
        runner.model.load_state_dict(saved['state_dict'])
    scores['test'] = {key: float(value) for key, value in runner.test().items()}
    scores['seconds'] = round(time.monotonic() - began)
    with whole_file(done) as draft:
        draft.write_text(json.dumps(scores, indent=1) + '\n')
    return scores


@command
def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of our SSDLite or of the lite segmentation head')
    parser.add_argument('weights', help='the weights that all start from')
    parser.add_argument(
        '--names', nargs='+', help='some of ours, mmdet, mmdet-recipe, fpnlite, or ours, mmseg (default: all)'
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0], help='one run each (default: 0)')
    parser.add_argument('--no-train', action='store_true', help='test the weights as they are')
    parser.add_argument('--resume', action='store_true', help='go on with what was cut; what has ended stays')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/peers'), help='default: %(default)s')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    read_weights_only_everywhere()
    networks = NETWORKS[load_config(args.config).default_scope]
    for name in args.names or networks:
        if name not in networks:
            raise UserError(f'--names {name}: allowed for {args.config} are {", ".join(networks)}')
    check_data(load_config(args.config, args.cfg_options), ('test',) if args.no_train else ('train', 'val', 'test'))
    for name in args.names or networks:
        for seed in args.seeds:
            print(f'{name}, seed {seed}: {json.dumps(run(args, name, seed))}', flush=True)
    return 0


if __name__ == '__main__':
    keep_freed_memory()
    sys.exit(main())
