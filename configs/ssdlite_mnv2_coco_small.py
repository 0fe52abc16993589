"""Google's detector for small objects: 512x512, with anchors of the same size in pixels.

    mnv2 test ssdlite_mnv2_coco_small.py mnv2://ssdlite-coco
    mnv2 test ssdlite_mnv2_coco_small.py mnv2://ssdlite-coco --tta

AP of small objects 0.077 on 103 images of COCO val2017 (0.037 at 300x300); AP 0.200 (0.296), and 0.297 with --tta.
"""

_base_ = './ssdlite_mnv2_coco_tf.py'

input_size = (512, 512)
model = dict(bbox_head=dict(anchor_generator=dict(reference_size=300)))

train_pipeline = _base_.train_pipeline  # noqa: F821 - mmengine provides it
train_pipeline[1] = dict(train_pipeline[1], scale=input_size)
test_pipeline = _base_.test_pipeline  # noqa: F821
test_pipeline[1] = dict(type='mnv2_backbone.TFResize', scale=input_size, keep_ratio=False)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# --tta also runs 300x300, which finds large objects better.
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=100))
tta_pipeline = [
    test_pipeline[0],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(test_pipeline[1], scale=(side, side)) for side in (300, 512)],
            [dict(type='RandomFlip', prob=0.0)],  # which says in the image's data that it is not mirrored
            [test_pipeline[2]],
            [dict(type='PackDetInputs')],
        ],
    ),
]
