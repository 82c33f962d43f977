"""How a scan runs: the front door, where its arrays lie, and one file for each way to compute it."""
