"""The six classes of VOC that show animals and people, and the images of VOC 2012 to train on."""

# XMLDataset: with VOCDataset the table of scores names its rows after the first of all 20 classes.
animals = dict(type='XMLDataset', metainfo=dict(classes=('cat', 'cow', 'dog', 'horse', 'person', 'sheep')))
animals_train = dict(
    animals,
    ann_file='VOC2012/ImageSets/Main/voc2012_animals.txt',
    # Without it images without these classes would be trained on too.
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
)
