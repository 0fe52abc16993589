"""The config that is written for a data set: plain mm, to be read, edited and run with ``mnv2 train``."""

from collections.abc import Sequence
from pathlib import Path
from pprint import pformat

from mnv2_backbone.data.masks import voc_colormap
from mnv2_backbone.errors import whole_file

from .choices import IMAGENET, Choices, interval
from .data import Data

_COMMON = '''"""{title}

    mnv2 train {config} --work-dir {again}
"""

_base_ = 'mnv2_backbone::{base}'

load_from = {start!r}
{backbone}input_size, max_epochs = {size}, {epochs}  # width and height
folder = {folder!r}  # the lists of images
classes = {classes}
'''

_DETECTOR = """data = dict(
    type='CocoDataset',
    data_root={root!r},
    metainfo=dict(classes=classes),
    data_prefix=dict(_delete_=True, img=''),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=input_size, photometric={photometric})
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=input_size)
model = dict({part}bbox_head=dict(num_classes=len(classes){anchors}))
train = dict(data, ann_file=folder + 'train.json', pipeline=train_pipeline)
train_dataloader = dict(batch_size={batch}, dataset=train)
val_dataloader = dict(dataset=dict(data, ann_file=folder + 'val.json', pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(data, ann_file=folder + '{final}.json', pipeline=test_pipeline))
val_evaluator = dict(_delete_=True, type='CocoMetric', ann_file=folder + 'val.json', metric='bbox')
test_evaluator = dict(_delete_=True, type='CocoMetric', ann_file=folder + '{final}.json', metric='bbox')
"""

_SEGMENTER = """metainfo = dict(classes=classes, palette={palette})
data = dict(
    type='BaseSegDataset',
    data_root={root!r},
    metainfo=metainfo,
    img_suffix='',
    data_prefix=dict(img_path='', seg_map_path=folder + 'masks'),
)
train_pipeline = _base_.train_dataloader.dataset.pipeline
train_pipeline[2].update(scale=input_size)
train_pipeline[3].update(crop_size=input_size[::-1])
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=input_size)
size = dict(size=input_size[::-1])
model = dict({part}data_preprocessor=dict(size, test_cfg=size), decode_head=dict(num_classes=len(classes)))
train = dict(data, ann_file=folder + 'train.txt', pipeline=train_pipeline)
train_dataloader = dict(batch_size={batch}, dataset=train)
val_dataloader = dict(dataset=dict(data, ann_file=folder + 'val.txt', pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(data, ann_file=folder + '{final}.txt', pipeline=test_pipeline))
"""

_SCHEDULE = """optim_wrapper = dict(optimizer=dict(lr={lr}))
train_cfg = dict(max_epochs=max_epochs, val_interval={interval})
param_scheduler = _base_.param_scheduler
param_scheduler[{last}].update({length})
best = {score!r}
default_hooks = dict(checkpoint=dict(save_best=best, rule='greater', interval={interval}, max_keep_ckpts=1))
stop = dict(type='EarlyStoppingHook', monitor=best, rule='greater', patience={patience}, min_delta=0.001)
custom_hooks = [*_base_.custom_hooks, stop]
randomness = dict(seed={seed})
"""

#: The most classes that the config names one by one.
MOST = 20
#: The config that a model builds on, the score that counts, and how its schedule is set.
BASES = {
    'ssdlite': ('ssdlite_mnv2_finetune.py', 'coco/bbox_mAP_50'),
    'fpnlite': ('fpnlite_mnv2_finetune.py', 'coco/bbox_mAP_50'),
    'deeplab': ('deeplabv3lite_mnv2_voc_short.py', 'mIoU'),
}


def _names(classes: Sequence[str], file: Path) -> str:
    """The classes as the config has them; many stand in a file beside it."""
    if len(classes) <= MOST:
        return pformat(tuple(classes), width=110, compact=True)
    with whole_file(file) as draft:
        draft.write_text('\n'.join(classes) + '\n', 'utf-8')
    return f"tuple(open(folder + {file.name!r}, encoding='utf-8').read().splitlines())"


def _backbone(choices: Choices) -> str:
    """A line with the model's backbone, if it alone has weights to start from."""
    if choices.weights != IMAGENET or choices.model == 'fpnlite':  # whose base has it
        return ''
    # The detector's base keeps the norms of COCO's weights, which are folded.
    norms = ', norm_eval=False, norm_cfg=dict(momentum=0.03)' if choices.task == 'detect' else ''
    return f"backbone = dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint={choices.weights!r}){norms})\n"


def write_config(data: Data, choices: Choices, title: str, work_dir: Path, patience: int | None, seed: int) -> Path:
    """Writes ``config.py`` to the work folder, which has the lists of images; returns its path."""
    base, score = BASES[choices.model]
    detects = choices.task == 'detect'
    every = interval(choices.epochs)
    patience = patience or max(10, choices.epochs // 3)
    path = work_dir / 'config.py'
    values = dict(
        title=title.replace('\\', '/').replace('"', "'"),
        config=path,
        again=work_dir / 'training_2',
        base=base,
        start=None if choices.weights == IMAGENET else choices.weights,
        backbone=(backbone := _backbone(choices)),
        part='backbone=backbone, ' if backbone else '',
        size=choices.size,
        epochs=choices.epochs,
        folder=f'{work_dir.resolve()}/',
        classes=_names(data.classes, work_dir / 'classes.txt'),
        root=f'{data.root.resolve()}/',
        batch=choices.batch,
        lr=choices.lr,
        anchors=f', anchor_generator=dict(reference_size={choices.reference})' if choices.model == 'ssdlite' else '',
        photometric=None if choices.keep_colours else 'dict()',
        final=data.final,
        palette=voc_colormap(len(data.classes)).tolist() if len(data.classes) <= MOST else [],
        interval=every,
        last=1 if detects else 0,
        length='T_max=max_epochs, end=max_epochs' if detects else 'end=max_epochs',
        score=score,
        patience=max(1, round(patience / every)),
        seed=seed,
    )
    text = ''.join(part.format(**values) for part in (_COMMON, _DETECTOR if detects else _SEGMENTER, _SCHEDULE))
    with whole_file(path) as draft:
        draft.write_text(text)
    return path
