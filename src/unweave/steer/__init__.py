"""Stage: move latents inside a model, and see what changes."""

from unweave.steer.ablations import Ablations, ablation_effects, load_ablations
from unweave.steer.context import Steering, steer
from unweave.steer.moved import moved_answers
from unweave.steer.moved_result import MovedAnswers, MovedEffect
from unweave.steer.response import Effect, Response
from unweave.steer.splicing import Splice, load_splice, splice
from unweave.steer.stage import dose_response

__all__ = [
    "Ablations",
    "Effect",
    "MovedAnswers",
    "MovedEffect",
    "Response",
    "Splice",
    "Steering",
    "ablation_effects",
    "dose_response",
    "load_ablations",
    "load_splice",
    "moved_answers",
    "splice",
    "steer",
]
