"""Your own images with VOC-style XML files, from Google's COCO detector, in minutes on a CPU: a config to inherit from.

Set ``num_classes``, and ``metainfo``, ``data_root`` and ``ann_file`` of the data sets; ssdlite_mnv2_bccd.py is an example.
"""

_base_ = './ssdlite_mnv2_coco_tf.py'

load_from = 'mnv2://ssdlite-coco'
# Google's decay of 0.9997 would leave the norms of a few hundred iterations with COCO's statistics.
norm_cfg = dict(momentum=0.03)
# New classes are learned faster with softmax scores than with the sigmoid scores of Google's detector.
model = dict(neck=dict(norm_cfg=norm_cfg), bbox_head=dict(norm_cfg=norm_cfg, score_converter='softmax'))

max_epochs = 30

# Minutes leave no time to learn from images that are strongly zoomed or cropped.
train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(train_pipeline[1], expand=None, crop=dict(min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5))

# Images below data_root/JPEGImages, one XML file each below Annotations, lists of names below ImageSets/Main.
xml = dict(_delete_=True, type='VOCDataset', data_root='', ann_file='', data_prefix=dict(sub_data_root=''))
train_dataloader = dict(
    batch_size=8, num_workers=2, dataset=dict(xml, pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False))
)
val_dataloader = dict(dataset=dict(xml, pipeline=_base_.test_pipeline, test_mode=True))  # noqa: F821
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='area')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    _delete_=True, type='mnv2_backbone.BFloat16OptimWrapper', optimizer=dict(type='AdamW', lr=7e-4, weight_decay=0.01)
)
param_scheduler = _base_.param_scheduler  # noqa: F821
param_scheduler[0].update(start_factor=0.05, end=40)
param_scheduler[1].update(T_max=max_epochs, end=max_epochs, eta_min=1e-5)
# The learning rate is for 8 images in all; --auto-scale-lr scales it to the actual batch size.
auto_scale_lr = dict(base_batch_size=8)
