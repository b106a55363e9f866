"""The mixed model: Student's test where the design is whole, planted components, gaps, the boundary."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from unweave.core.errors import InputError
from unweave.stats.mixed import mixed_difference


def _design(raters: int, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First condition, rater and item of every rating, each rater all items; half of them of each condition."""
    rater, item = np.divmod(np.arange(raters * items), items)
    return item < items // 2, rater, item


def _drawn(raters, items, *, difference, std_rater, std_item, noise, seed):
    generator = np.random.default_rng(seed)
    first, rater, item = _design(raters, items)
    values = 4 + difference * first + generator.normal(0, std_rater, raters)[rater]
    return (
        values + generator.normal(0, std_item, items)[item] + generator.normal(0, noise, len(item)),
        first,
        rater,
        item,
    )


def test_whole_design_is_students_test_of_latent_means():
    values, first, rater, item = _drawn(3, 24, difference=0.7, std_rater=0.5, std_item=1, noise=0.8, seed=0)
    found = mixed_difference(values, first, rater, item)
    means = values.reshape(3, 24).mean(0)
    expected = stats.ttest_ind(means[:12], means[12:])
    assert (found.t, found.df) == pytest.approx((expected.statistic, 22), rel=1e-3)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert found.difference == pytest.approx(means[:12].mean() - means[12:].mean())
    assert found.p_normal < found.p
    assert found.converged
    assert found.boundary == ()


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_components_are_those_of_statsmodels(seed):
    """With gaps, and where its optimiser converges."""
    values, first, rater, item = _drawn(4, 20, difference=0.5, std_rater=0.7, std_item=1, noise=0.8, seed=seed)
    kept = np.random.default_rng(seed).uniform(size=len(values)) > 0.2
    values, first, rater, item = values[kept], first[kept], rater[kept], item[kept]
    found = mixed_difference(values, first, rater, item)
    designs = [np.eye(4)[rater], np.eye(20)[item]]
    names = [[[str(column) for column in range(design.shape[1])]] for design in designs]
    spec = VCSpec(["rater", "item"], names, [[design] for design in designs])
    x = np.column_stack([np.ones(len(values)), first])
    expected = MixedLM(values, x, groups=np.zeros(len(values)), exog_vc=spec).fit(reml=True)
    assert expected.converged
    assert found.difference == pytest.approx(expected.fe_params[1], rel=1e-3)
    assert found.error == pytest.approx(expected.bse_fe[1], rel=5e-3)  # theirs is from the joint Hessian
    components = [found.std_rater**2, found.std_item**2, found.std_residual**2]
    assert components == pytest.approx([*expected.vcomp, expected.scale], rel=1e-2)
    assert found.p_normal == pytest.approx(expected.pvalues[1], rel=2e-2)  # t² times as far


def test_planted_components_are_found():
    values, first, rater, item = _drawn(8, 120, difference=1.0, std_rater=0.6, std_item=1.2, noise=0.5, seed=1)
    found = mixed_difference(values, first, rater, item)
    assert found.difference == pytest.approx(1.0, abs=3 * found.error)
    assert found.std_item == pytest.approx(1.2, abs=0.2)
    assert found.std_residual == pytest.approx(0.5, abs=0.05)
    assert found.std_rater == pytest.approx(0.6, abs=0.35)  # eight raters


def test_gaps_are_weighed_not_filled():
    """A harsh rater who saw only the first condition: the model takes the harshness out, plain means do not."""
    values, first, rater, item = _drawn(4, 40, difference=0.0, std_rater=0.0, std_item=0.3, noise=0.2, seed=2)
    values = values - 2.0 * (rater == 0)
    kept = first | (rater != 0)
    found = mixed_difference(values[kept], first[kept], rater[kept], item[kept])
    plain = values[kept & first].mean() - values[kept & ~first].mean()
    assert plain < -0.3
    assert abs(found.difference) < 0.15


def test_a_component_without_variance_is_named():
    values, first, rater, item = _drawn(3, 20, difference=0.0, std_rater=0.0, std_item=1.0, noise=0.5, seed=3)
    values = values - values.reshape(3, 20).mean(1)[rater]  # raters' means made equal
    found = mixed_difference(values, first, rater, item)
    assert found.boundary == ("rater",)
    assert found.converged
    assert found.std_rater == 0.0
    table = values.reshape(3, 20)
    values = (table - table.mean(0)).ravel() + 0.3 * first  # items' means within a condition made equal too
    nothing = mixed_difference(values, first, rater, item)
    assert nothing.boundary == ("rater", "item")
    plain = stats.ttest_ind(values[first], values[~first])
    assert nothing.t == pytest.approx(plain.statistic)
    assert nothing.df == 18  # still of the items


@pytest.mark.parametrize(
    ("raters", "items", "said"), [(1, 8, "1 raters"), (3, 2, "1 and 1 items"), (2, 8, "by more than a constant")]
)
def test_what_cannot_be_fitted_is_refused(raters, items, said):
    first, rater, item = _design(raters, items)
    with pytest.raises(InputError, match=said):
        mixed_difference(item % 4 + 2 * rater, first, rater, item)


def test_an_item_belongs_to_one_condition():
    first, rater, item = _design(2, 8)
    with pytest.raises(InputError, match="in both"):
        mixed_difference(np.arange(16), first, rater, item % 5)
