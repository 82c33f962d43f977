"""Sequential Fashion-MNIST, in reading order and in one fixed random order, one pixel a step: harder than MNIST.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017, arXiv 1708.07747.
"""

from dataclasses import dataclass
from typing import ClassVar

from tasks.smnist import PermutedMNIST, SequentialMNIST


@dataclass(frozen=True)
class FashionMNIST(SequentialMNIST, name="fashion_mnist"):
    """Ten classes of clothes, T = 784 normalised pixels, row by row; validation is the last 10 % of train."""

    mean: ClassVar[tuple[float, ...]] = (0.2860,)
    deviation: ClassVar[tuple[float, ...]] = (0.3530,)
    dataset: ClassVar[str] = "fashion_mnist"


@dataclass(frozen=True)
class PermutedFashionMNIST(PermutedMNIST, name="permuted_fashion_mnist"):
    """Ten classes of clothes, T = 784 normalised pixels in one random order, the same for every image."""

    mean: ClassVar[tuple[float, ...]] = FashionMNIST.mean
    deviation: ClassVar[tuple[float, ...]] = FashionMNIST.deviation
    dataset: ClassVar[str] = FashionMNIST.dataset
