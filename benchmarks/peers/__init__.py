"""The sides of the comparison, each driven through its own trainer's step behind one protocol."""

from benchmarks.peers.protocol import Coder, Driver, Kind, Run, Task, drivers, sparse_start

__all__ = ["Coder", "Driver", "Kind", "Run", "Task", "drivers", "sparse_start"]
