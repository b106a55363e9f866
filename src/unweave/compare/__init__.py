"""Stage: activations of the same examples → how alike they are, beside what the measures give by themselves."""

from unweave.compare.comparison import Comparison, read_comparison
from unweave.compare.stage import Comparing, compare, compare_all

__all__ = ["Comparing", "Comparison", "compare", "compare_all", "read_comparison"]
