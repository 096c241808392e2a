"""Undoing in reverse, trying all, and the first error being the one that counts."""

from __future__ import annotations

import pytest

from cni_calico.errors import CniError, as_cni_error
from datastore.undo import Undo, all_of, fail


def test_undo_runs_last_first_and_only_on_failure() -> None:
    """What was pushed runs in reverse when the body fails, and not at all when it does not."""
    ran: list[int] = []
    with Undo() as undo:
        undo.push(ran.append, 1)
    assert ran == []
    with pytest.raises(ZeroDivisionError), Undo() as undo:
        undo.push(ran.append, 1)
        undo.push(ran.append, 2)
        raise ZeroDivisionError
    assert ran == [2, 1]


def test_a_failing_undo_does_not_hide_why_it_ran() -> None:
    """The body's error is raised, a failure in taking back is told in the details, the rest is still taken back."""
    ran: list[int] = []
    with pytest.raises(CniError) as caught, Undo() as undo:
        undo.push(ran.append, 1)
        undo.push(fail, ValueError("disk full"))
        raise CniError(104, "the real cause", "as told")
    assert ran == [1]
    known = as_cni_error(caught.value)
    assert (known.code, known.msg) == (104, "the real cause")
    assert known.details == "as told; taking it back failed too: disk full"


def test_all_of() -> None:
    """Every step runs; the first error is raised, with the others as notes."""
    ran: list[int] = []
    with pytest.raises(ValueError, match="first") as caught:
        all_of(lambda: ran.append(1), lambda: fail(ValueError("first")), lambda: fail(KeyError("second")),
               lambda: ran.append(2))
    assert ran == [1, 2]
    assert "second" in as_cni_error(caught.value).details
    all_of()


def test_all_of_tells_each_failure_once() -> None:
    """A record that two steps need is damaged once."""
    with pytest.raises(ValueError, match="first") as caught:
        all_of(*(lambda said=said: fail(ValueError(said)) for said in ("first", "second", "first", "second")))
    assert caught.value.__notes__ == ["then also: second"]
