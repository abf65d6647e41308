"""The search for settings as functions of finished trials: known answers, no repeats, nothing but memory."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from tailorbird.customize.tuning import Search, Trial, share_done
from tailorbird.techniques.ranges import Range, choice, whole

SPACE = {"learning_rate": Range("log", 1e-4, 1e-2), "epochs": whole(1, 4), "rank": choice(8, 16, 32)}
START = {"learning_rate": 1e-3, "epochs": 2, "rank": 16}


def searched(count: int, value: Any, seed: int = 0, trials: tuple[Trial, ...] = ()) -> list[Trial]:
    """`count` trials after those given, each with its value."""
    search, found = Search(SPACE, seed), list(trials)
    for _ in range(count):
        settings = search.suggest(found, START)
        assert settings is not None
        found.append(Trial(len(found), settings, "done", value(settings)))
    return found


def bowl(settings: dict[str, Any]) -> float:
    """Best at a learning rate of 3e-3; the rank matters a little, epochs not at all."""
    return (math.log10(settings["learning_rate"]) - math.log10(3e-3)) ** 2 + 0.001 * settings["rank"] / 8


def test_the_first_trial_is_the_contestant_s_own_settings() -> None:
    assert Search(SPACE, 0).suggest([], {**START, "clip": 1.0}) == START


def test_suggestions_lie_in_their_ranges_and_none_comes_twice() -> None:
    found = searched(20, bowl)
    for trial in found:
        assert all(SPACE[name].holds(value) for name, value in trial.settings.items()), trial
        assert trial.settings["learning_rate"] == float(f"{trial.settings['learning_rate']:.3g}")
    assert len({str(t.settings) for t in found}) == 20


def test_six_trials_are_three_and_three_more() -> None:
    """S3: a search that is continued suggests what an undisturbed one does, and never the same again."""
    whole_search = searched(6, bowl)
    first = searched(3, bowl)
    assert searched(3, bowl, trials=tuple(first)) == whole_search


def test_another_seed_searches_elsewhere_from_the_same_start() -> None:
    a, b = searched(4, bowl, seed=0), searched(4, bowl, seed=1)
    assert a[0].settings == b[0].settings
    assert [t.settings for t in a[1:]] != [t.settings for t in b[1:]]


def test_it_finds_the_bottom_of_a_bowl() -> None:
    found = searched(25, bowl)
    best = Search(SPACE, 0).best(found)
    assert best is not None
    assert best.settings["learning_rate"] == pytest.approx(3e-3, rel=0.5)
    later = [bowl(t.settings) for t in found[12:]]
    early = [bowl(t.settings) for t in found[1:5]]
    assert sum(later) / len(later) < sum(early) / len(early)


def test_a_small_space_is_searched_to_its_end() -> None:
    space = {"rank": choice(8, 16, 32)}
    search, trials = Search(space, 0), []
    while (settings := search.suggest(trials, {"rank": 16})) is not None:
        trials.append(Trial(len(trials), settings, "done", 1.0 / settings["rank"]))
    assert sorted(t.settings["rank"] for t in trials) == [8, 16, 32]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({"rank": choice(8, 16, 32, 64), "batch_rows": choice(8, 16, 32)}, 12),
        ({"epochs": whole(1, 6), "rank": choice(8, 16, 32, 64)}, 24),
        ({"learning_rate": choice(1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)}, 6),
        ({"beta": Range("linear", 0.9990, 0.9999)}, 12),
        ({"learning_rate": Range("log", 1e-3, 1.001e-3)}, 12),
    ],
)
def test_a_search_goes_on_while_anything_is_untried(space: dict[str, Range], count: int, seed: int) -> None:
    """The estimator suggests what it likes again and again; what is asked for is made all the same."""
    search, trials = Search(space, seed), list[Trial]()
    start = {name: (r.values() or (r.low,))[0] for name, r in space.items()}
    for number in range(count):
        settings = search.suggest(trials, start)
        assert settings is not None, number
        assert all(space[name].holds(value) for name, value in settings.items())
        trials.append(Trial(number, settings, "done", 1.0 + (number * 7919) % 13))
    assert len({str(sorted(t.settings.items())) for t in trials}) == count


def test_settings_outside_of_what_is_searched_are_a_trial_all_the_same() -> None:
    search = Search(SPACE, 0)
    start = {"learning_rate": 1.0, "epochs": 2, "rank": 4}
    trials = [Trial(0, start, "done", 1.0)]
    assert search.suggest(trials, start) is not None
    assert search.best(trials) == trials[0]


def test_failed_trials_are_never_the_best_and_never_stop_the_search() -> None:
    search = Search(SPACE, 0)
    trials = [Trial(0, START, "failed", note="not finite")]
    for _ in range(5):
        settings = search.suggest(trials, START)
        assert settings is not None
        trials.append(Trial(len(trials), settings, "failed", note="not finite"))
    assert search.best(trials) is None
    assert search.importance(trials) == {}


def test_of_equal_trials_the_first_is_best_and_a_score_is_better_when_higher() -> None:
    trials = [Trial(n, {**START, "rank": 8}, "done", value) for n, value in enumerate([0.5, 0.7, 0.7, 0.4])]
    assert Search(SPACE, 0).best(trials) == trials[3]
    assert Search(SPACE, 0, lower=False).best(trials) == trials[1]


LOOKS = {  # best loss so far at 33, 67 and 100 percent
    0: ((33, 1.0), (67, 0.8), (100, 0.7)),
    1: ((33, 0.9), (67, 0.7), (100, 0.6)),
    2: ((33, 1.2), (67, 1.1), (100, 1.0)),
}
FINISHED = [Trial(n, {**START, "epochs": n + 1}, "done", looks[-1][1], looks) for n, looks in LOOKS.items()]


@pytest.mark.parametrize(
    ("looks", "given_up"),
    [
        ([(33, 0.99)], False),  # the median at 33 is 1.0
        ([(33, 1.01)], True),
        ([(33, 1.01), (67, 0.75)], False),  # the median at 67 is 0.8
        ([(25, 5.0)], False),  # nobody had been looked at by 25
        ([(50, 1.01)], True),  # compared with what the others had reached at 33: they were no farther
        ([(10, 5.0)], False),
    ],
)
def test_a_training_worse_than_the_median_at_its_point_is_given_up(looks: list[Any], given_up: bool) -> None:
    assert Search(SPACE, 0).gives_up(FINISHED, looks) is given_up


def test_nothing_is_given_up_before_three_trials_finished() -> None:
    assert not Search(SPACE, 0).gives_up(FINISHED[:2], [(67, 99.0)])
    pruned = Trial(2, START, "pruned", None, ((33, 2.0),))
    assert not Search(SPACE, 0).gives_up([*FINISHED[:2], pruned], [(67, 99.0)])


def test_trials_that_were_given_up_tell_the_search_where_not_to_look() -> None:
    trials = [
        *FINISHED,
        *(Trial(3 + n, {**START, "learning_rate": 9e-3}, "pruned", None, ((33, 9.0),)) for n in (0, 1)),
    ]
    assert Search(SPACE, 0).suggest(trials, START) is not None


def test_importance_names_the_setting_that_mattered() -> None:
    found = searched(12, bowl)
    shares = Search(SPACE, 0).importance(found)
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == Search(SPACE, 0).importance(found)


def test_too_few_trials_have_no_importance() -> None:
    assert Search(SPACE, 0).importance(searched(4, bowl)) == {}
    assert Search(SPACE, 0).importance(searched(8, lambda settings: 1.0)) == {}


@pytest.mark.parametrize(("step", "steps", "percent"), [(1, 3, 33), (3, 3, 100), (1, 1000, 1), (0, 0, 1), (9, 3, 100)])
def test_percent_of_a_training(step: int, steps: int, percent: int) -> None:
    assert share_done(step, steps) == percent


def test_no_storage_of_optuna_is_touched() -> None:
    """Its journal and data bases do not survive a kill, and pickle: none of them is even imported."""
    code = (
        "import sys, pickle\n"
        "def refuse(*a, **k): raise RuntimeError('pickle')\n"
        "pickle.dump = pickle.dumps = pickle.load = pickle.loads = refuse\n"
        "from tailorbird.customize.tuning import Search, Trial\n"
        "from tailorbird.techniques.ranges import Range\n"
        "search, trials = Search({'x': Range('linear', 0.0, 1.0)}, 0), []\n"
        "for n in range(7):\n"
        "    settings = search.suggest(trials, {'x': 0.5})\n"
        "    trials.append(Trial(n, settings, 'done', settings['x'] ** 2))\n"
        "search.gives_up(trials, [(50, 1.0)])\n"
        "bad = {'sqlalchemy', 'alembic', 'redis', 'grpc', 'torch'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "search.importance(trials)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
