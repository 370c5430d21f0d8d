"""The black box and the ways to open one: protocol, input spec, ONNX, torch, callables, served models."""

from robustest.classifiers.classifier import Canvas, Classifier, ClassifierInfo
from robustest.classifiers.loading import load_classifier
from robustest.classifiers.spec import InputSpec

__all__ = ["Canvas", "Classifier", "ClassifierInfo", "InputSpec", "load_classifier"]
