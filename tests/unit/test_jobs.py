"""How many threads work at once."""

import threading
import time

import pytest

import modelkit_assets as ma


def test_where_each_waits_for_the_store_there_are_as_many_as_suit_it():
    meeting = threading.Barrier(64)
    assert ma._Job(64).run(lambda _: meeting.wait(30), range(64))


@pytest.mark.parametrize(
    "seconds, items, most", [(0.0001, 3000, 1), (0.2, 16, ma._FEW_WORKERS)]
)
def test_where_the_processor_is_busy_there_are_few(monkeypatch, seconds, items, most):
    """One for small items, and a few for those that take long."""
    monkeypatch.setattr(time, "process_time", time.monotonic)
    monkeypatch.setattr(ma, "_CHECK_S", 0.1)  # a busy machine is no failure
    threads = set()

    def work(_):
        threads.add(threading.get_ident())
        time.sleep(seconds)

    ma._Job(64).run(work, range(items))
    assert len(threads) == most


@pytest.mark.parametrize("workers", [1, 3, 5])
def test_there_are_never_more_than_suit_it(workers):
    running, most, counting = 0, 0, threading.Lock()

    def work(index):
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with counting:
            running -= 1
        return index

    assert ma._Job(workers).run(work, range(100)) == list(range(100))
    assert most == workers
