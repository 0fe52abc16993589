"""AdamW, a warm-up and a cosine: 6 epochs, for a few hundred images; longer schedules override it."""

max_epochs = 6

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=6)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# bfloat16 where the device multiplies it; optim_wrapper.enabled=False for float32.
optim_wrapper = dict(
    type='mnv2_backbone.BFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=40),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        end=max_epochs,
        eta_min=2e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
# The learning rate is for 16 images in all; --auto-scale-lr scales it to the actual batch size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
