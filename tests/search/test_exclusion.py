"""The best network that is not known already, held against trying every network."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaedge.errors import Infeasible
from qaedge.search.exclusion import best_outside
from qaedge.search.knapsack import Constraint, Options, Problem, optimum
from qaedge.search.margin import Margin, keeps, within
from qaedge.search.problem import choice

METRIC = "latency@a"


def drawn(seed, borders=False):
    random = np.random.default_rng(seed)
    blocks = tuple(
        Options(
            str(i),
            random.integers(0, 9, n).astype(float),
            {METRIC: random.integers(1, 9, n).astype(float)},
            {"peak": random.integers(1, 9, n).astype(float)},
        )
        for i, n in enumerate(random.integers(1, 5, 4))
    )
    costs = tuple(
        {METRIC: random.integers(0, 4, (len(a.losses), len(b.losses))).astype(float)} if borders else {}
        for a, b in itertools.pairwise(blocks)
    )
    limit = float(random.uniform(0.7, 1.3) * sum(b.costs[METRIC].mean() for b in blocks))
    variances = tuple(random.uniform(0, 2, len(b.losses)) for b in blocks)
    problem = Problem(blocks, {}, (Constraint(METRIC, limit),), costs)
    return problem, {METRIC: Margin(1.0, 0.1, variances, 0.05)}, random


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), borders=st.booleans(), share=st.sampled_from([0.0, 0.2, 0.9]))
def test_the_best_of_those_that_are_not_known(seed, borders, share):
    problem, margins, random = drawn(seed, borders)
    every = [
        choice(problem, np.array(indices))
        for indices in itertools.product(*(range(len(b.losses)) for b in problem.blocks))
    ]
    feasible = sorted((c for c in every if keeps(problem, METRIC, margins[METRIC], c)), key=lambda c: c.loss)
    # The best are the ones that were measured: that is when it matters.
    known = {c.indices for c in feasible[: int(share * len(feasible))]} | {
        c.indices for c in every if random.random() < 0.1
    }
    left = [c.loss for c in feasible if c.indices not in known]

    def solve(part, its, allowed):
        return within(part, its, optimum)

    if not left:
        with pytest.raises(Infeasible):
            best_outside(problem, margins, known, solve)
        return
    found = best_outside(problem, margins, known, solve)
    assert found.choice.indices not in known and keeps(problem, METRIC, margins[METRIC], found.choice)
    assert found.choice.loss == pytest.approx(min(left)) or found.gap > 0
    assert found.choice == choice(problem, np.array(found.choice.indices)), "costs are those of the whole problem"
