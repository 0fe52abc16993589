"""SGD with a short warm-up and a cosine; decay on full and 1x1 convolutions only, as in slim."""

max_epochs = 600

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=20)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# bfloat16 where the device multiplies it; optim_wrapper.enabled=False for float32.
optim_wrapper = dict(
    type='mnv2_backbone.BFloat16OptimWrapper',
    optimizer=dict(type='SGD', lr=0.015, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, dwconv_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, end=max_epochs, eta_min=0, by_epoch=True, convert_to_iter_based=True
    ),
]
# The learning rate is for 8 GPUs of 24 images; --auto-scale-lr scales it to the actual batch size.
auto_scale_lr = dict(enable=False, base_batch_size=192)
