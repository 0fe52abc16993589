"""What the options of ``tools/test.py`` change in a config."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import METRICS

from ..deployment.model import pipeline_for
from ..deployment.recipe import dataset_meta
from ..deployment.runtimes import is_exported, load_runtime
from ..errors import UserError


def apply_test_options(cfg: Config, args: argparse.Namespace) -> None:
    """Merges the options into a config.

    Args:
        cfg: The config; changed in place.
        args: ``checkpoint``, ``show``, ``show_dir``, ``wait_time``, ``tta``, ``out``, ``launcher``.

    Raises:
        UserError: An option does not go with the config.
    """
    if is_exported(args.checkpoint):
        _use_exported(cfg, args)
    if args.show or args.show_dir:
        _use_visualization(cfg, args)
    if args.tta:
        _use_tta(cfg)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        _save_predictions(cfg, args.out)


def _use_exported(cfg: Config, args: argparse.Namespace) -> None:
    for option, given in (('--tta', args.tta), ('--launcher', args.launcher != 'none')):
        if given:
            raise UserError(f'{option} does not go with an exported file ({args.checkpoint})')
    recipe = load_runtime(Path(args.checkpoint)).manifest.recipe
    if {'detect': 'mmdet', 'segment': 'mmseg'}[recipe.task] != cfg.get('default_scope'):
        raise UserError(f'{args.checkpoint} was made to {recipe.task}, {args.config} is for something else')
    classes = dataset_meta(cfg)['classes']
    if tuple(classes) != recipe.classes:
        raise UserError(
            f'{args.checkpoint} knows {len(recipe.classes)} classes ({", ".join(recipe.classes[:3])} ...), '
            f'the test data set of {args.config} has others ({", ".join(classes[:3])} ...)'
        )
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = pipeline_for(dataset.pipeline)
    cfg.model = ConfigDict(type='mnv2_backbone.ExportedModel', path=args.checkpoint)
    cfg.load_from = None


def _use_visualization(cfg: Config, args: argparse.Namespace) -> None:
    hook = (cfg.get('default_hooks') or {}).get('visualization')
    if hook is None:
        raise UserError('--show and --show-dir need default_hooks.visualization in the config')
    hook.draw = True
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        folder = os.path.abspath(args.show_dir)
        if hook.type.endswith('DetVisualizationHook'):
            hook.test_out_dir = folder
        else:
            cfg.visualizer.save_dir = folder


def _use_tta(cfg: Config) -> None:
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('default_scope') == 'mmdet':
        # MMDetection's own default: the picture and its mirror image, merged by NMS.
        keys = (
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
            'flip',
            'flip_direction',
        )
        flips = [dict(type='RandomFlip', prob=float(flip)) for flip in (True, False)]
        last = dict(
            type='TestTimeAug', transforms=[flips, [dict(type='PackDetInputs', meta_keys=keys)]]
        )
        cfg.setdefault('tta_pipeline', [*dataset.pipeline[:-1], last])
        nms = dict(type='nms', iou_threshold=0.5)
        cfg.setdefault(
            'tta_model', dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
        )
    for part in ('tta_model', 'tta_pipeline'):
        if part not in cfg:
            raise UserError(f'--tta: the config has no {part}')
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _save_predictions(cfg: Config, folder: str) -> None:
    evaluators = (
        cfg.test_evaluator
        if isinstance(cfg.test_evaluator, (list, tuple))
        else [cfg.test_evaluator]
    )
    found = False
    for evaluator in evaluators:
        if evaluator.type.endswith('IoUMetric'):
            evaluator.output_dir, evaluator.keep_results, found = folder, True, True
        elif evaluator.type.endswith('CocoMetric'):
            evaluator.outfile_prefix, found = str(Path(folder, 'predictions')), True
    if not found:
        kinds = ', '.join(evaluator.type for evaluator in evaluators)
        raise UserError(
            f'--out {folder}: {kinds} cannot write predictions to a folder; name a .pkl file'
        )
    Path(folder).mkdir(parents=True, exist_ok=True)


def dump(cfg: Config, path: str) -> DumpResults:
    """What collects all predictions and pickles them to a file."""
    kind = 'mmdet.DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
    return METRICS.build(dict(type=kind, out_file_path=path))
