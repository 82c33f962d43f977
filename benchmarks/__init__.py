"""Speed against the memory roofline and against rivals: `python -m benchmarks.scan`, `python -m benchmarks.train`."""
