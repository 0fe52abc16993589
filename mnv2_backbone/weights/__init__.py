"""Weights: named ones, importers of foreign formats, all in one key layout; class transfer; the checked loading.

What belongs here reads files. Whether tensors fit a network is decided in ``network``. Imports ``network`` and below.

The keys are those of the modules: ``backbone.layer_7.expand.conv.weight`` and so on, ``head.*`` of the classifier,
``neck.*`` and ``bbox_head.*`` of the detector, ``decode_head.*`` of the segmenter.
"""
