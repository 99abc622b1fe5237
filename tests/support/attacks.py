"""Which cases of a test are run at once, and which by `-m attack` alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def parametrize(names: Any, values: Iterable[Any], ids: Iterable[str] = ()) -> Any:
    """Do as pytest's does, with all cases but the first marked as attacks.

    So each promise is tried quickly each time, and in all its cases by `.ci/run`.
    """
    cases = list(values)
    if isinstance(names, str) and "," not in names:
        cases = [one if hasattr(one, "marks") else pytest.param(one) for one in cases]
    cases = mark_all_but_the_first(cases)
    return pytest.mark.parametrize(names, cases, ids=list(ids) or None)


def mark_all_but_the_first(cases: Iterable[Any]) -> list[Any]:
    """Return a test's cases, of which all but the first are attacks."""
    first, *others = cases
    return [first, *map(_mark, others)]


def _mark(case: Any) -> Any:
    if not hasattr(case, "marks"):
        case = pytest.param(*case) if isinstance(case, tuple) else pytest.param(case)
    marks = [*case.marks, pytest.mark.attack]
    return pytest.param(*case.values, marks=marks, id=case.id)
