"""Where to look in an image: SIFT features, their mixture, regions, and maps of others to compare with."""

from robustest.saliency.features import Features, detect_features
from robustest.saliency.mixture import Saliency, mixture, saliency_of

__all__ = ["Features", "Saliency", "detect_features", "mixture", "saliency_of"]
