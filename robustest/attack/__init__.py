"""The pixel game, the search that plays it, and the driver that plays many images at once."""

from robustest.attack.find import find_adversarial, find_adversarials

__all__ = ["find_adversarial", "find_adversarials"]
