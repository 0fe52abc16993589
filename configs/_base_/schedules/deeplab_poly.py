"""DeepLab's recipe: SGD, polynomial decay of the learning rate, decay of full and 1x1 convolutions only.

The original counts 30000 iterations of 16 images; 46 epochs of VOC 2012 + SBD are as long. It is
counted in epochs because only runs by epoch resume exactly.
"""

max_epochs = 46

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# bfloat16 where the device multiplies it; optim_wrapper.enabled=False for float32.
optim_wrapper = dict(
    type='mnv2_backbone.BFloat16OptimWrapper',
    optimizer=dict(type='SGD', lr=0.007, momentum=0.9, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, dwconv_decay_mult=0.0),
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True)
]
# The learning rate is for 16 images in all; --auto-scale-lr scales it to the actual batch size.
auto_scale_lr = dict(enable=False, base_batch_size=16)
