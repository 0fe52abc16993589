"""From a trained model to its fastest form: folding, back ends, export, quantization, and one predictor for all.

Imports ``data``, ``weights`` and below.
"""
