"""The board by hand: costs, gains, the front, the best, and the words about it."""

import pytest
from matplotlib.text import Text

from uronet_jax.arena import leaderboard
from uronet_jax.reports import arena_page, figures

BARE, A, B, C = "None", "A", "B", "C"


def row(name, clean, noises, others, unseen, grey, white, flags=(), load=("x",)):
    """Returns a row of a board; shares in percent, intervals of 5 points."""

    def cell(key, value):
        return {key: value / 100, "low": (value - 5) / 100, "high": (value + 5) / 100}

    corruptions = cell("mean", others) | {"without_noises": others / 100}
    corruptions |= {f"without_noises_{x}": others / 100 for x in ("low", "high")}
    corruptions |= {"noise": 0.1, "blur": 0.2, "lines": 0.3}
    return {
        "card": {"name": name, "kind": "test", "load": dict.fromkeys(load, "x")}
        | {"authors": "", "trained_on": "", "link": ""},
        "status": "done",
        "errors": {},
        "flags": list(flags),
        "cells": {
            "clean": cell("accuracy", clean),
            "noises": cell("mean", noises),
            "corruptions": corruptions,
            "unseen": cell("mean", unseen),
            **{f"grey_{x}": cell("accuracy", grey) for x in ("pgd", "autoattack")},
            **{f"white_{x}": cell("accuracy", white) for x in ("pgd", "autoattack")},
        },
    }


@pytest.fixture
def rows():
    return [
        row(BARE, 90, 50, 70, 60, 0, 0, load=()),
        row(A, 88, 80, 76, 60, 30, 0),
        row(B, 88, 76, 70, 61, 33, 0),
        row(C, 60, 56, 50, 55, 55, 40),
    ]


def test_costs_gains_and_the_front(rows):
    bare = leaderboard.bare_row(rows)
    assert bare["card"]["name"] == BARE
    # Points on clean images, and the mean of 30, 6 and 0 points.
    assert leaderboard.trade(rows[1], bare) == pytest.approx((0.02, 0.12))
    assert leaderboard.trade(rows[2], bare) == pytest.approx((0.02, 0.09))
    assert leaderboard.pareto(rows) == [BARE, A]
    del rows[2]["cells"]["unseen"]
    assert leaderboard.trade(rows[2], bare) is None
    assert leaderboard.pareto(rows[1:]) == []


def test_the_best_for_somebody(rows):
    best = leaderboard.best_for(rows, ["noises"])
    assert (best.name, best.value, best.bare) == (A, 0.8, 0.5)
    assert best.tied == [B]  # 76 % is in 75 to 85.
    assert leaderboard.best_for(rows, ["grey_pgd", "white_pgd"]).name == C
    assert leaderboard.best_for(rows, ["noises"], most_cost=0.01).name == BARE
    rows[1]["flags"] = ["masks gradients"]
    assert leaderboard.best_for(rows, ["noises"]).name == B
    assert leaderboard.best_for(rows, ["detector_aware"]) is None


def test_flagged_rows_stand_aside(rows):
    rows[1]["flags"] = ["masks gradients"]
    # B was beaten by A alone.
    assert leaderboard.pareto(rows) == [BARE, B]
    best = leaderboard.best_for(rows, ["noises"])
    assert (best.name, best.tied) == (B, [])  # A has more.
    text = leaderboard.verdict(rows)
    assert "stand aside" in text and "A (gain" not in text and ": A," not in text
    rows[2]["flags"] = ["masks gradients"]
    assert leaderboard.best_for(rows, ["noises"]).name == C
    assert leaderboard.best_for(rows[1:3], ["noises"]) is None


def test_nothing_is_better_that_is_as_good(rows):
    for row in rows:
        row["cells"]["white_pgd"]["accuracy"] = 0.0
    for order in (rows, rows[::-1]):
        text = leaderboard.verdict(order)
        assert "know the whole defence, nothing here is better" in text


def test_how_a_row_stands(rows):
    assert leaderboard.standing(rows, A) == f"{A}: judged, number 1 of 4 by gain"
    assert "number 3 of 4" in leaderboard.standing(rows, BARE)
    assert "no gain without" in leaderboard.standing(rows[1:], A)
    rows[1]["errors"] = {"load": "out of paper"}
    assert leaderboard.standing(rows, A) == f"{A}: failed (load): out of paper"


def test_the_verdict_of_a_bare_row_that_lacks_a_column(rows):
    del rows[0]["cells"]["white_pgd"]
    text = leaderboard.verdict(rows)
    assert "Against attackers who know the whole defence: C, 40.0%." in text


def test_the_verdict_is_made_of_the_numbers(rows):
    text = leaderboard.verdict(rows)
    assert text.startswith(
        "Beaten by no other in both clean accuracy and mean gain, in points beside the "
        "classifier alone, of 4 rows: None (gain +0.0, clean +0.0) and A (gain +12.0, "
        "clean -2.0)."
    )
    assert (
        "Against noise like that of the six: A, 80.0% where the classifier alone has "
        "50.0% (B cannot be told from it)."
    ) in text
    # The families that were judged, of those that are no noise.
    assert "Against blur and lines: A, 76.0%" in text
    assert "who know the whole defence: C, 40.0% where" in text
    assert "sensor, which nobody trained on: B, 61.0%" in text
    assert "(which cannot be told from the classifier alone)" in text


def test_tables_are_sorted_and_the_chart_is_drawn(rows, tmp_path):
    content = {
        "rows": rows,
        "refused": [],
        "num_images": 9,
        "config": {"data": {"name": "birds"}, "defences": []},
    }
    text = arena_page.arena_board(content)
    natural, attackers = text.split("## ")[1:3]
    names = [x.split(" | ")[0].strip("| *") for x in natural.splitlines() if "| " in x]
    assert names[2:] == [A, B, BARE, C]
    names = [
        x.split(" | ")[0].strip("| *") for x in attackers.splitlines() if "| " in x
    ]
    assert names[2] == C
    assert "| **A** | 2.0 | 12.0 | 88.0 (83-93) |" in natural
    points = arena_page.trade_points(content)
    assert points == {"test": {BARE: [90, 0], A: [88, 12], B: [88, 9], C: [60, -6.33]}}
    rows[0]["card"]["kind"] = "classifier alone"
    assert list(arena_page.trade_points(content)) == ["test", "classifier alone"]
    path = tmp_path / "chart.png"
    figures.clean_against_gain(path, points, "birds", description="of these")
    assert figures.description_of(path) == "of these"


def test_no_names_of_the_chart_overlap(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: drawn.append(figure))
    # Three on the line of no gain, two that touch, a cluster, and two that are equal.
    near = {"a long name": [79.5, -0.3], "another one": [89.5, -0.5], "None": [91, 0]}
    near |= {"touching": [71.5, -4.0], "touched": [72.5, -4.5], "far": [26, -42]}
    cluster = {f"number {i}": [88 + i / 4, 14 + i / 2] for i in range(6)}
    groups = {"one": near, "other": cluster, "third": {"same as far": [26, -42]}}
    figures.clean_against_gain(tmp_path / "chart.png", groups, "birds")
    (figure,) = drawn
    figure.draw_without_rendering()
    (axes,) = figure.axes
    texts = {x.get_text(): Text.get_window_extent(x) for x in axes.texts}
    assert len(texts) == 12 and "far = same as far" in texts
    boxes = [*texts.values()]
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert axes.get_window_extent().containsx(box.x0)
        assert axes.get_window_extent().containsx(box.x1)
    for x, y in [*near.values(), *cluster.values()]:
        where = axes.transData.transform((x, y))
        assert not any(box.contains(*where) for box in boxes)


def test_the_page_explains_what_it_shows_and_names_what_is_missing(rows):
    cards = [{"name": name} for name in (BARE, A, "D", B, "E")]
    content = {
        **{"rows": rows, "refused": [], "num_images": 9},
        "config": {"data": {"name": "birds"}, "defences": cards},
    }
    for text in (arena_page.arena_board(content), arena_page.arena_html(content)):
        # C is of somebody else.
        assert "3 of the config" in text
        assert "5 defences were judged; missing are: D; E." in text
    text = arena_page.arena_board(content)
    assert "*Grey box*" in text and "*White box, PGD*" in text and "Bold:" in text
    for absent in ("*Time*", "eps", "*Detector-aware*", "†", "±"):
        assert absent not in text
    rows[1]["flags"] = ["masks gradients"]
    rows[2]["cells"]["noises"]["seed_std"] = 0.01
    rows[2]["cells"]["cost"] = {"relative_time": 1.5}
    text = arena_page.arena_board(content)
    for present in ("*Time*", "A row with † has flags", "after ± the deviation"):
        assert present in text
    for each in rows:
        del each["cells"]["grey_pgd"], each["cells"]["grey_autoattack"]
        del each["cells"]["unseen"]
    text = arena_page.arena_board(content)
    assert "*Grey box*" not in text and "Bold:" not in text
    content["config"]["defences"] = cards[:2]
    assert "missing are" not in arena_page.arena_board(content)
