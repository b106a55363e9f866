"""Blind rating studies: what is drawn, sealed, rated and scored."""

from unweave.study.folder import Study
from unweave.study.ratings import Rating, Unsealing
from unweave.study.scoring import score, score_study
from unweave.study.seal import KeyEntry
from unweave.study.stage import Studying, make_study

__all__ = ["KeyEntry", "Rating", "Study", "Studying", "Unsealing", "make_study", "score", "score_study"]
