"""How many threads work at once."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from places import CORE

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


INTERRUPTED = """
import queue, signal, sys
sys.path.insert(0, sys.argv[1])
import modelkit_assets as ma

# so that it is often between one wait and the next
ma._CHECK_S = 0.00001
ma._needs_more = lambda *about: False
armed = []

def work(job):
    try:
        job.wait(60)
    except ma._Stopped:
        pass

def stop(*about):
    if armed:
        armed.clear()
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, stop)
for count in range(3000):
    job = ma._Job(2)
    try:
        armed.append(count)
        # and again, as Python sees it late where another thread gets the signal
        signal.setitimer(signal.ITIMER_REAL, 0.0003 + count % 50 / 100_000, 0.01)
        job.run(work, [job] * 4)
    except KeyboardInterrupt:
        continue
    sys.exit("it was not interrupted")
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has none")
def test_an_interrupt_at_any_moment_ends_it():
    """It is never lost, nor another error, nor leaves a lock that is waited for."""
    command = [sys.executable, "-c", INTERRUPTED, str(CORE.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
