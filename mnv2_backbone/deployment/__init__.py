"""From a trained model to its fastest form: folding, compiling, export, quantization."""

from .deployed import DeployedDetector, DeployedSegmenter, deploy

__all__ = ['DeployedDetector', 'DeployedSegmenter', 'deploy']
