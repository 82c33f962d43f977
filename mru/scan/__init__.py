from mru.scan.engine import scan

__all__ = ["scan"]
