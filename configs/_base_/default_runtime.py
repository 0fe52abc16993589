"""How a run is logged, saved and made repeatable; the same for every detection config."""

default_scope = 'mmdet'
custom_imports = dict(imports=['mnv2_backbone'])

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mnv2_backbone.AtomicCheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)
custom_hooks = [
    dict(type='mnv2_backbone.CheckedLoadHook'),
    dict(type='mnv2_backbone.ReproducibleHook'),
    dict(type='mnv2_backbone.SkippedImagesHook'),
]

# The command line takes gloo instead where there is no GPU.
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
randomness = dict(seed=0)

visualizer = dict(type='DetLocalVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=10, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
