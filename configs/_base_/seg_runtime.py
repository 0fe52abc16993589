"""The common runtime with MMSegmentation's scope and drawing, and the best checkpoint kept by mIoU."""

_base_ = './default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(
    checkpoint=dict(save_best='mIoU', rule='greater'),
    visualization=dict(_delete_=True, type='SegVisualizationHook', interval=1),
)
visualizer = dict(
    _delete_=True, type='SegLocalVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')], alpha=0.6
)
