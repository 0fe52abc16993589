"""The network: layers, backbone, classifier, detector and segmenter, built from a plan, and weights fitted to it.

Imports ``spec``, ``registry`` and ``errors`` only.
"""
