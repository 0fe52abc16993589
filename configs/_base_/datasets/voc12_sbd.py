"""VOC 2012 with the extra masks of SBD (10582 images to train on), in MMSegmentation's layout.

``VOC2012/SegmentationClassAug`` and ``VOC2012/ImageSets/Segmentation/aug.txt`` hold what SBD adds to train.txt;
MMSegmentation's ``tools/dataset_converters/voc_aug.py`` makes them.
"""

_base_ = './voc12.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='PascalVOCDataset',
                data_root={{_base_.data_root}},
                ann_file=f'VOC2012/ImageSets/Segmentation/{part}.txt',
                data_prefix=dict(img_path='VOC2012/JPEGImages', seg_map_path=f'VOC2012/SegmentationClass{aug}'),
                pipeline={{_base_.train_pipeline}},
            )
            for part, aug in (('train', ''), ('aug', 'Aug'))
        ],
    )
)
