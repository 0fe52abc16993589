"""Weights from elsewhere, brought into the package's one key layout.

The layout is that of the modules: ``backbone.layer_7.expand.conv.weight`` and so on, ``head.*`` of the
classifier, ``neck.*`` and ``bbox_head.*`` of the detector, ``decode_head.*`` of the segmenter.
"""
