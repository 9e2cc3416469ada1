"""Encoders compete fold by fold: who wins, what the choice rests on, reports and warm starts."""

import functools
import math
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import lower_bound
from mine_jax.estimate import Pair, competition, estimation, lower_bounds, split
from mine_jax.mine import MineConfig, Samples


class Quadratic(nn.Module):
    """T = xᵀMz − qᵀz², which is enough for Gaussian pairs, and quickly compiled."""

    @nn.compact
    def __call__(self, x, z):
        """From (n, d) and (n, e) to (n,)."""
        maps = self.param("maps", nn.initializers.normal(0.1), (x.shape[1], z.shape[1]))
        squares = self.param("squares", nn.initializers.zeros, z.shape[1:])
        return jnp.sum(x @ maps * z, axis=1) - z**2 @ squares


CONFIG = MineConfig(
    network=Quadratic(),
    batch_size=64,
    learning_rate=0.05,
    weight_decay=0.0,
    check_every=10,
    patience=3,
    max_steps=120,
    ema_decay=0.9,
    validation_shuffles=16,
)
KEY = jax.random.key(0)
N, FOLDS, RHO = 600, 5, 0.8
TRUTH = -3 / 2 * math.log(1 - RHO**2)
TRIALS = (20, 60)
ROWS = split(jax.random.split(KEY)[0], N, CONFIG)

pytestmark = pytest.mark.usefixtures("compile_fast", "short_trials")


@pytest.fixture
def short_trials(monkeypatch):
    monkeypatch.setattr(competition, "TRIALS", TRIALS)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def sides():
    x = normal(0, N, 3)
    return x, RHO * x + np.float32(math.sqrt(1 - RHO**2)) * normal(1, N, 3)


@functools.cache
def encoded(quality, seed=2, width=3):
    """Samples of x with noise, from none (1) to nothing else (0), padded with columns of noise."""
    x, _ = sides()
    noise = normal(seed, N, 3)
    columns = quality * x + math.sqrt(1 - quality**2) * noise
    return np.concatenate([columns, normal(seed + 1, N, width - 3)], axis=1).astype(np.float32)


def pair(encoder, quality, seed=2, **options):
    return Pair(Samples(encoded(quality, seed)), Samples(sides()[1]), encoder=encoder, **options)


def four():
    """Encoders by their quality; the useless one starts with an advantage of its name."""
    return [pair("a useless", 0.0), pair("good", 1.0), pair("fair", 0.8), pair("poor", 0.4)]


def of_some_folds(encoder, folds, width=3, **options):
    """An encoder that is good in some of the folds and useless in the others."""
    columns = [Samples(encoded(float(fold in folds), 5, width)) for fold in range(FOLDS)]
    return Pair(tuple(columns), Samples(sides()[1]), encoder=encoder, **options)


@functools.cache
def mixed():
    """An estimate whose folds chose different encoders, and its pairs."""
    pairs = [of_some_folds("even", {0, 2, 4}), of_some_folds("odd", {1, 3})]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(competition, "TRIALS", TRIALS)
        return lower_bounds({"z": pairs}, key=KEY, config=CONFIG)["z"], pairs


@pytest.fixture
def calls(monkeypatch):
    """Records of the calls of `continue_fit`: progress before and after, and active networks."""
    seen, real = [], competition.continue_fit

    def continue_fit(keys, progress, task, until, active, on_check):
        after = real(keys, progress, task, until, active, on_check)
        seen.append((progress, after, active))
        return after

    monkeypatch.setattr(competition, "continue_fit", continue_fit)
    return seen


close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def assert_same(estimate, other):
    assert estimate.encoders == other.encoders
    jax.tree.map(close, estimate.history, other.history)
    jax.tree.map(close, estimate.state, other.state)
    close(estimate.influence, other.influence)
    assert (estimate.steps, estimate.converged) == (other.steps, other.converged)


# --- Winners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_good_encoder_wins_in_every_fold(seed):
    estimate = lower_bounds({"z": four()}, key=jax.random.key(seed), config=CONFIG)["z"]
    assert estimate.encoders == ("good",) * FOLDS
    assert abs(estimate.nats - TRUTH) < 4 * estimate.stderr + 0.1
    assert not isinstance(estimate.state, dict)


def test_encoders_of_other_widths_and_networks_compete():
    """Networks of other shapes are fitted apart, and their reports are joined."""
    pairs = [
        of_some_folds("narrow", {0, 3}),
        of_some_folds("wide", {1}, width=150),
        of_some_folds("shared", {2, 4}, overrides=(("shared", True),)),
    ]
    fields = {"network": "separable", "hidden": 8, "depth": 1, "canonical_pairs": 0}
    config = replace(CONFIG, **fields, squares=False, learning_rate=0.02)
    estimate = lower_bounds({"z": pairs}, key=KEY, config=config)["z"]
    assert estimate.encoders == ("narrow", "wide", "shared", "narrow", "shared")
    assert 0.5 * TRUTH < estimate.nats < TRUTH + 3 * estimate.stderr
    assert {
        name: (state.params["x_encoder"]["columns"].shape, "z_encoder" in state.params)
        for name, state in estimate.state.items()
    } == {"narrow": ((5, 3, 8), True), "wide": ((5, 150, 8), True), "shared": ((5, 3, 8), False)}
    steps = estimate.history.steps
    np.testing.assert_array_equal(steps, 10 * np.arange(len(steps)))
    assert estimate.history.validation_nats.shape == (len(steps), FOLDS)
    assert np.isfinite(estimate.history.validation_nats).all()


def test_names_do_not_depend_on_one_another():
    """Whether they have encoders to choose from, or not, or fewer."""
    pairs = {"four": four(), "one": pair("given", 0.9), "two": four()[:2]}
    together = lower_bounds(pairs, key=KEY, config=CONFIG)
    assert list(together) == list(pairs)
    for name, each in pairs.items():
        alone = lower_bounds({name: each}, key=KEY, config=CONFIG)[name]
        assert_same(together[name], alone)
    # One pair is what it would be in a list.
    listed = lower_bounds({"one": [pair("given", 0.9)]}, key=KEY, config=CONFIG)["one"]
    assert_same(listed, together["one"])


def test_winner_of_known_encoders_is_fitted_without_competition(calls):
    known = {"z": ("good", "poor", "good", "poor", "good")}
    estimate = lower_bounds({"z": four()}, key=KEY, config=CONFIG, encoders=known)["z"]
    assert estimate.encoders == known["z"]
    assert len(calls) == 1
    lone = [lower_bounds({"z": each}, key=KEY, config=CONFIG)["z"] for each in four()]
    for fold, place in enumerate((1, 3, 1, 3, 1)):
        close(estimate.influence[fold], lone[place].influence[fold])


# --- What the choice rests on ---------------------------------------------------------------------


def test_fold_does_not_depend_on_the_pairing_of_its_test_rows():
    fold = 1
    order = np.arange(N)
    order[ROWS.test[fold]] = np.roll(ROWS.test[fold], 1)
    # Close encoders, so that the choice is not clear.
    pairs = [pair(name, 0.95, seed) for name, seed in zip("abcd", (7, 17, 27, 37), strict=True)]
    shuffled = [each._replace(z=Samples(sides()[1][order])) for each in pairs]
    before, after = (
        lower_bounds({"z": each}, key=KEY, config=CONFIG)["z"] for each in (pairs, shuffled)
    )
    assert before.encoders[fold] == after.encoders[fold]
    histories = [each.history.validation_nats[:, fold] for each in (before, after)]
    checks = min(map(len, histories))
    np.testing.assert_array_equal(histories[0][:checks], histories[1][:checks])
    states = [
        each.state[each.encoders[fold]] if isinstance(each.state, dict) else each.state
        for each in (before, after)
    ]
    networks = [jax.tree.map(lambda leaf: np.asarray(leaf)[fold], state) for state in states]
    jax.tree.map(np.testing.assert_array_equal, *networks)
    # The same rows train the other folds, and their values as test samples are chance.
    assert before.nats > after.nats
    assert not np.allclose(before.history.validation_nats[2:4, 0], histories[1][2:4])


@pytest.mark.parametrize("normalize", [False, True])
def test_normalized_scores_have_infonce_on_training_samples(normalize, monkeypatch):
    def evaluate_values(state, active, *more):
        return np.full(len(active), 1.0), np.full(len(active), 2.0)  # Donsker-Varadhan, InfoNCE

    monkeypatch.setattr(competition, "evaluate_values", evaluate_values)
    config = replace(CONFIG, normalize=normalize, form="donsker_varadhan")
    pairs = {"z": [pair("good", 1.0)]}
    assert lower_bounds(pairs, key=KEY, config=config)["z"].train_nats == 1.0 + normalize


def test_ties_are_decided_by_order():
    pairs = [pair(name, 0.9) for name in ("second", "first", "third", "fourth")]
    estimate = lower_bounds({"z": pairs}, key=KEY, config=CONFIG)["z"]
    assert estimate.encoders == ("second",) * FOLDS


# --- Trials and reports ---------------------------------------------------------------------------


def test_losers_are_not_trained_after_their_trial(calls):
    estimate = lower_bounds({"z": four()}, key=KEY, config=CONFIG)["z"]
    assert [active.sum() for *_, active in calls] == [20, 10, 5]
    assert [len(after.validation_nats) - 1 for _, after, _ in calls[:2]] == [2, 6]
    assert estimate.steps == calls[-1][1].steps.max()
    for before, after, active in calls:
        np.testing.assert_array_equal((after.steps > before.steps)[~active], False)
        for field in ("state", "best", "best_nats", "waited", "drops"):
            leaves = (jax.tree.leaves(getattr(each, field)) for each in (before, after))
            for old, new in zip(*leaves, strict=True):
                np.testing.assert_array_equal(np.asarray(old)[~active], np.asarray(new)[~active])


def test_winner_is_trained_as_without_competition():
    """Trials are pauses."""
    estimate = lower_bounds({"z": four()}, key=KEY, config=CONFIG)["z"]
    alone = lower_bounds({"z": four()[1]}, key=KEY, config=CONFIG)["z"]
    assert estimate.encoders == alone.encoders == ("good",) * FOLDS
    assert_same(estimate, alone)


def test_reports_of_trials_are_joined():
    texts = []
    estimate = lower_bounds(
        {"z": four()}, key=KEY, config=CONFIG, on_progress=lambda *each: texts.append(each)
    )["z"]
    checks = len(estimate.history.steps)
    np.testing.assert_array_equal(estimate.history.steps, 10 * np.arange(checks))
    assert [steps for steps, *_ in texts] == list(estimate.history.steps[1:])
    assert {limit for _, limit, _ in texts} == {CONFIG.max_steps}
    assert [text.count("z ") for *_, text in texts[:7]] == [4, 4, 2, 2, 2, 2, 1]
    assert "z good " in texts[-1][-1]
    best = estimate.history.validation_nats.max(axis=0)
    assert estimate.validation_nats == pytest.approx(best.mean(), abs=0.1)  # on shuffles
    assert np.isnan(estimate.history.batch_nats[0]).all()
    assert np.isfinite(estimate.history.batch_nats[1:]).all()


@pytest.mark.parametrize(
    ("check_every", "max_steps", "checks"), [(10, 15, [2]), (30, 100, [1, 2, 4])]
)
def test_trials_are_whole_checks_and_count_as_steps(calls, check_every, max_steps, checks):
    config = replace(CONFIG, check_every=check_every, max_steps=max_steps, patience=99)
    estimate = lower_bounds({"z": four()}, key=KEY, config=config)["z"]
    ends = dict.fromkeys(len(after.validation_nats) - 1 for _, after, _ in calls)
    assert list(ends) == checks
    assert estimate.encoders == ("good",) * FOLDS
    assert estimate.steps == estimate.history.steps[-1] == checks[-1] * check_every
    assert not estimate.converged
    assert any(f"limit of {max_steps} steps" in text for text in estimate.warnings)


def test_competition_of_known_shapes_compiles_nothing(compilations):
    lower_bounds({"z": four()}, key=KEY, config=CONFIG)
    key = jax.random.key(1)  # which may compile
    with compilations() as seen:
        lower_bounds({"z": four()}, key=key, config=CONFIG)
    assert seen == []


# --- Warm starts ----------------------------------------------------------------------------------


def offer(monkeypatch, pairs):
    """Make `lower_bound` let these encoders compete for each name."""
    monkeypatch.setattr(
        estimation, "candidate_pairs", lambda x, z, *_, **__: {name: list(pairs) for name in z}
    )


def test_folds_that_differ_have_their_states_by_encoder():
    estimate, _ = mixed()
    assert estimate.encoders == ("even", "odd", "even", "odd", "even")
    assert set(estimate.state) == {"even", "odd"}
    assert abs(estimate.nats - TRUTH) < 4 * estimate.stderr + 0.1


def test_warm_start_continues_the_encoders_of_each_fold(monkeypatch, calls):
    estimate, pairs = mixed()
    offer(monkeypatch, pairs)
    calls.clear()  # of `mixed`, where this test is the first
    warm = lower_bound(*sides(), key=KEY, config=CONFIG, init=estimate)
    assert len(calls) == 1
    assert warm.encoders == estimate.encoders
    best = estimate.history.validation_nats.max(axis=0)
    assert np.all(warm.history.validation_nats[0] >= best - 1e-4)
    for fold, encoder in enumerate(warm.encoders):
        assert warm.state[encoder].steps[fold] >= estimate.state[encoder].steps[fold]
    named = lower_bound(sides()[0], {"a": sides()[1]}, key=KEY, config=CONFIG, init={"a": estimate})
    assert_same(named["a"], warm)


def test_warm_start_from_a_state_alone(monkeypatch, calls):
    """Encoders of its shapes compete from it; it does not say which one it is of."""
    estimate, pairs = mixed()
    offer(monkeypatch, pairs)
    state = estimate.state["even"]
    warm = lower_bound(*sides(), key=KEY, config=CONFIG, init=state)
    assert warm.encoders == estimate.encoders
    start = warm.history.validation_nats[0, ::2]
    assert np.all(start >= estimate.history.validation_nats.max(axis=0)[::2] - 1e-4)
    wide = pairs[0]._replace(x=Samples(encoded(1.0, width=5)), encoder="wide")
    offer(monkeypatch, [wide, pairs[0]])
    calls.clear()
    warm = lower_bound(*sides(), key=KEY, config=CONFIG, init=state)
    assert len(calls) == 1
    assert warm.encoders == ("even",) * FOLDS


def test_warm_start_that_does_not_say_its_encoders_raises(monkeypatch):
    estimate, pairs = mixed()
    offer(monkeypatch, pairs)
    message = r"init has states of the encoders \['even', 'odd'\].*give the Estimate in place"
    with pytest.raises(ValueError, match=message):
        lower_bound(*sides(), key=KEY, config=CONFIG, init=estimate.state)
    z = {"a": sides()[1]}
    with pytest.raises(ValueError, match=message):
        lower_bound(sides()[0], z, key=KEY, config=CONFIG, init={"a": estimate.state})
    # Of other samples.
    offer(monkeypatch, pairs[:1])
    with pytest.raises(ValueError, match=message):
        lower_bound(*sides(), key=KEY, config=CONFIG, init=estimate)
    with pytest.raises(ValueError, match=r"states of \['even', 'odd'\] for z, but none of 'a'"):
        lower_bounds({"z": pair("a", 1.0)}, key=KEY, config=CONFIG, init={"z": estimate.state})
