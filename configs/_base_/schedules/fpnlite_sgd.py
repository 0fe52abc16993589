"""The Object Detection API's schedule of FPNLite: 50,000 steps of 128 images, a warm-up and a cosine."""

max_iters = 50_000
warm_up = 1000

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# bfloat16 where the device multiplies it; optim_wrapper.enabled=False for float32.
optim_wrapper = dict(
    type='mnv2_backbone.BFloat16OptimWrapper',
    optimizer=dict(type='SGD', lr=0.08, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=warm_up),
    dict(type='CosineAnnealingLR', T_max=max_iters - warm_up, by_epoch=False, begin=warm_up, end=max_iters, eta_min=0),
]
# The learning rate is for 8 GPUs of 16 images; --auto-scale-lr scales it to the actual batch size.
auto_scale_lr = dict(enable=False, base_batch_size=128)
