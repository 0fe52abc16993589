"""The rows of the table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mnv2_backbone.deployment.backends import FORMATS

TASKS = ('backbone', 'detect', 'fpnlite', 'segment', 'train')
#: Our fast forms, the format of the exported file if it is one, and the precisions that each has on a CPU.
FORMS = {
    'deployed': ('', ('fp32', 'bf16')),
    'onnxruntime': ('onnx', ('fp32', 'int8')),
    'openvino': ('openvino', ('fp32', 'bf16', 'int8')),
    'litert': ('tflite', ('fp32', 'int8')),
    'ncnn': ('ncnn', ('fp32',)),
}
NAMES = ('ours-trained', *(f'ours-{form}' for form in FORMS), 'torchvision', 'timm', 'mmdet', 'mmseg')
_OURS = 'speed.ours'


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        task: One of :data:`TASKS`.
        name: Whose network in which form.
        precision: ``'fp32'``, ``'bf16'`` or ``'int8'``.
        runs: ``module:function``, for :class:`speed.workers.Worker`. What is another library's is not named as a part
            of this package, which would otherwise be imported with it.
        options: For the function, beside what all get.
    """

    task: str
    name: str
    precision: str
    runs: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        """Whether it is another library's network."""
        return not self.name.startswith('ours')


def variants(task: str, device: str) -> list[Variant]:
    """The rows of a task; on ``'cuda'`` only what runs eagerly is measured, in float32 and with autocast."""
    eager = {
        'backbone': [
            ('ours-trained', f'{_OURS}:backbone_trained'),
            *((name, 'peers:backbone') for name in ('torchvision', 'timm', 'mmdet', 'mmseg')),
        ],
        'detect': [
            ('ours-trained', f'{_OURS}:model_trained'),
            ('torchvision', 'peers:detect_torchvision'),
            ('mmdet', 'peers:detect_mmdet'),
        ],
        'fpnlite': [('ours-trained', f'{_OURS}:model_trained')],
        'segment': [
            ('ours-trained', f'{_OURS}:model_trained'),
            ('torchvision', 'peers:segment_torchvision'),
            ('mmseg', 'peers:segment_mmseg'),
        ],
        'train': [('ours-trained', f'{_OURS}:train'), ('mmdet', 'training:mmdet')],
    }[task]
    if device == 'cuda':
        return [
            Variant(task, name, x, runs, dict(task=task, name=name)) for name, runs in eager for x in ('fp32', 'bf16')
        ]
    trained, *peers = (Variant(task, name, 'fp32', runs, dict(task=task, name=name)) for name, runs in eager)
    if task == 'train':  # MMDetection's autocast needs a GPU
        return [trained, replace(trained, precision='bf16'), *peers]
    fast = [
        Variant(task, f'ours-{form}', precision, f'{_OURS}:{_function(task, format)}', dict(task=task, format=format))
        for form, (format, precisions) in FORMS.items()
        if task != 'backbone' or not (format and FORMATS[format].raw)  # whose files hold whole models only
        for precision in precisions
    ]
    return [trained, *fast, *peers]


def _function(task: str, format: str) -> str:
    return f'{"backbone" if task == "backbone" else "model"}_{"exported" if format else "deployed"}'
