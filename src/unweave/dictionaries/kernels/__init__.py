"""The operations of the sparse training step: plain torch, compiled loops for CPUs, Triton for GPUs."""

from unweave.dictionaries.kernels.base import Entries, Groups, Kernels, Moving, Revive, Rule
from unweave.dictionaries.kernels.choose import choose_kernels

__all__ = ["Entries", "Groups", "Kernels", "Moving", "Revive", "Rule", "choose_kernels"]
