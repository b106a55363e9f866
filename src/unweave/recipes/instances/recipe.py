"""Several trainings of one network: what do they share, and what of it is evidence?"""

from unweave.recipes.base import Run, recipe
from unweave.recipes.instances.attention import attention, attention_findings
from unweave.recipes.instances.dictionaries import latent_findings, match_latents, tell_latents
from unweave.recipes.instances.layers import compare_layers, layer_findings, tell_layers, tell_published
from unweave.recipes.instances.networks import Instances, prepare

DEFAULT = Instances()

# What the notebook computed: one pair, layer by layer; neither dictionaries nor maps.
PUBLISHED = Instances(instances=2, dictionaries=False, attention=False)


@recipe("instances", default=DEFAULT, published=PUBLISHED)
def instances(config: Instances, run: Run) -> None:
    """Do two trainings of one network learn the same thing, and do their dictionaries?"""
    material = prepare(config, run)
    accuracies = [network.accuracy for network in material.networks]
    run.record({"model/test_accuracy": sum(accuracies) / len(accuracies)})
    run.record({"model/test_accuracy_min": min(accuracies), "model/test_accuracy_max": max(accuracies)})
    compared = compare_layers(config, run, material)
    tell_published(config, run, material)
    tell_layers(config, run, compared)
    run.findings += layer_findings(compared)
    if config.dictionaries:
        latents = match_latents(config, run, material)
        tell_latents(config, run, material, latents)
        run.findings += latent_findings(run)
        if config.attention:
            attention(config, run, material, latents)
            run.findings += attention_findings(run, dealings=config.dealings)
