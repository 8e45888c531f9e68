import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.learn.belief import MISFIT, NETWORK, NOISE, REST, SCALE, WAY, Belief, believe
from graftage.learn.entries import Entrant

NET, LARGER, OTHER, OTHER_LARGER = FIELD = (
    Entrant("net", "net", 1.0),
    Entrant("net@288", "net", 1.6, gap=-0.01, way="larger"),
    Entrant("other", "other", 2.0, prior=-0.02),
    Entrant("other@288", "other", 3.2, prior=-0.02, gap=-0.01, way="larger"),
)


def scored(levels: list[float | None], m: int, *, seed: int = 0, spread: float = 0.1) -> list[list[np.ndarray]]:
    """One round of m pictures: scores of an error rate of these levels; None for one that was not measured."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, spread, m)
    return [[] if level is None else [SCALE * (level + hard + rng.normal(0, spread, m))] for level in levels]


def test_the_posterior_is_that_of_a_normal_distribution_conditioned_on_the_means() -> None:
    """Written out anew, the unknown level an entrant of its own with an all but endless variance."""
    scores = scored([0.3, 0.25, 0.34, None], 80)
    found = believe(FIELD, scores, [80])
    E, wide = len(FIELD), 1e3
    C = np.full((E, E), wide)
    for i, a in enumerate(FIELD):
        for j, b in enumerate(FIELD):
            C[i, j] += NETWORK**2 * (a.network == b.network) + WAY**2 * (a.way == b.way != "") + REST**2 * (i == j)
    seen = [0, 1, 2]
    noise = np.eye(3) * (found.noise / 80 + MISFIT**2)
    y = np.array([s[0].mean() / SCALE for s in scores[:3]]) - [e.foreseen for e in FIELD[:3]]
    gain = C[:, seen] @ np.linalg.inv(C[np.ix_(seen, seen)] + noise)
    assert found.mean == pytest.approx([e.foreseen for e in FIELD] + gain @ y, abs=1e-4)
    assert found.covariance == pytest.approx(C - gain @ C[seen], abs=1e-4)


def test_noise_is_that_of_the_differences_on_the_same_pictures() -> None:
    usual, weight = NOISE
    found = believe(FIELD, scored([0.3, 0.3, 0.3, 0.3], 4000, spread=0.1), [4000]).noise
    assert found == pytest.approx((usual * weight + 0.01 * 16000) / (weight + 16000), rel=0.05)


def test_before_anything_is_measured_the_prior_is_believed() -> None:
    found = believe(FIELD, [[]] * 4, [50])
    assert found.mean == pytest.approx([e.foreseen for e in FIELD])
    assert FIELD[found.leader] is OTHER_LARGER


def test_what_helped_one_network_is_expected_to_help_another() -> None:
    helped, hurt = (believe(FIELD, scored([0.3, level, 0.3, None], 500), [500]).mean for level in (0.2, 0.4))
    assert helped[3] - helped[2] < -0.02 < 0.005 < hurt[3] - hurt[2]


def test_a_network_that_does_badly_is_expected_to_do_so_however_it_is_used() -> None:
    mean = believe(FIELD, scored([0.3, None, 0.5, None], 500), [500]).mean
    assert mean[1] < 0.33 < 0.42 < mean[3]


@pytest.mark.parametrize("harder", [0.0, 0.2])
def test_that_fewer_pictures_make_all_worse_does_not_count_against_those_left_behind(harder: float) -> None:
    first = scored([0.3 + harder, 0.3 + harder, 0.32 + harder, None], 200)
    scores = [[*a, *b] for a, b in zip(first, scored([0.3, None, 0.32, None], 400, seed=1), strict=True)]
    mean = believe(FIELD, scores, [200, 400]).mean
    assert mean[1] == pytest.approx(mean[0] - 0.005, abs=0.015)


@settings(deadline=None, max_examples=30)
@given(gap=st.floats(0.0, 0.2), noise=st.floats(1e-4, 0.2), m=st.integers(10, 1000))
def test_a_look_is_worth_what_it_is_expected_to_better_the_best(gap: float, noise: float, m: int) -> None:
    """Of two independent entrants the rival's error is known, so the best falls below it only if the news are good."""
    belief = Belief(np.array([0.3, 0.3 + gap]), np.diag([1e-12, 0.03**2]), noise)
    step = 0.03**2 / np.sqrt(0.03**2 + noise / m + MISFIT**2)  # standard deviation of the mean that will be believed
    news = 0.3 + gap + step * np.random.default_rng(0).standard_normal(400_000)
    wanted = np.maximum(0.3 - news, 0).mean()
    assert belief.worth(1, 0, m) == pytest.approx(wanted, abs=2e-4)
    assert belief.worth(1, 0, m) <= belief.worth(1, 0, 2 * m) + 1e-12
    assert belief.worth(1, m, 2 * m) <= belief.worth(1, 0, 2 * m) + 1e-12


def test_chances_add_up_and_agree_with_each_other() -> None:
    belief = believe(FIELD[::2], scored([0.3, 0.32], 60), [60])
    chances = belief.best(200_000, np.random.default_rng(0))
    assert chances.sum() == pytest.approx(1)
    assert chances[0] == pytest.approx(belief.better(0, 1), abs=0.005)
    assert belief.better(0, 1) + belief.better(1, 0) == pytest.approx(1)
