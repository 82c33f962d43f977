"""What a train loop is built from, each file one job. It knows no task of its own: `Task` is what it asks of one."""

from mru.training.task import ENDLESS, SPLITS, MissingData, ModelInputs, Task

__all__ = ["ENDLESS", "SPLITS", "MissingData", "ModelInputs", "Task"]
