"""Data sets, prepared once (`python -m tasks.prepare`) and read memory-mapped by tasks, without TensorFlow."""

from tasks._datasets.base import DataSet
from tasks._datasets.computed import LISTOPS, PATHFINDER
from tasks._datasets.heart import MITDB12
from tasks._datasets.images import CIFAR10, FASHION_MNIST, MNIST
from tasks._datasets.speech import FSDD, SPEECH_COMMANDS, SPEECH_COMMANDS_16K
from tasks._datasets.text import AAN, IMDB, TINYSHAKESPEARE

_RECORDED = (
    MNIST,
    FASHION_MNIST,
    CIFAR10,
    IMDB,
    AAN,
    TINYSHAKESPEARE,
    FSDD,
    SPEECH_COMMANDS,
    SPEECH_COMMANDS_16K,
    MITDB12,
)
SETS: dict[str, DataSet] = {dataset.name: dataset for dataset in (*_RECORDED, LISTOPS, *PATHFINDER)}
