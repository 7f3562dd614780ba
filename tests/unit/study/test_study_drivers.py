"""Drivers of a run: one alone, several together, and what a dead one leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from concordant.core.errors import ConcordantError
from concordant.study import drivers
from concordant.study.drivers import Driver, Lease, driving, is_alive


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "small" / ".drivers"


def written(folder: Path, **changes: object) -> str:
    """Write a driver of another machine and return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"name": "far-1-a", "host": "far", "pid": 1, "born": "7", "since": time.time() - 120.0}
    told |= {"joins": False, "beat": 0, **changes}
    (folder / f"{told['name']}.driver").write_text(json.dumps(told))
    return str(told["name"])


def another(folder: Path, *, join: bool) -> subprocess.Popen[str]:
    """Start a driver in a process of its own, and wait until it drives."""
    code = (
        "import sys, time, pathlib\nfrom concordant.study.drivers import driving\n"
        f"with driving(pathlib.Path({str(folder)!r}), join={join}):\n"
        "    print('drives', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "drives\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_driver_leaves_nothing_behind(folder):
    with driving(folder, join=False) as lease:
        assert is_alive(folder, lease.driver)
        assert (folder / drivers.ALONE).read_text() == lease.driver
    assert not folder.exists()


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
def test_a_second_driver_is_refused_unless_both_share(folder, first, second):
    process = another(folder, join=first)
    try:
        with (
            pytest.raises(ConcordantError, match=rf"process {process.pid} on .*--join to both"),
            driving(folder, join=second),
        ):
            pass
        assert process.poll() is None
    finally:
        ended(process)


def test_drivers_that_share_run_together(folder):
    process = another(folder, join=True)
    try:
        with driving(folder, join=True) as lease:
            assert len(list(folder.glob("*.driver"))) == 2
            assert is_alive(folder, lease.driver)
    finally:
        ended(process)


@pytest.mark.parametrize("join", [True, False])
def test_what_a_killed_driver_had_is_free_at_once(folder, join):
    process = another(folder, join=True)
    (other,) = (path.stem for path in folder.glob("*.driver"))
    (folder / "fit-3.lease").write_text(other)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    started = time.monotonic()
    with driving(folder, join=join) as lease:
        assert time.monotonic() - started < 1
        assert not is_alive(folder, other)
        with lease.of("fit-3") as mine:
            assert mine
    assert not folder.exists()


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(folder):
    here = Driver.here(joins=False)
    name = written(folder, host=here.host, pid=os.getpid(), born="another time")
    assert not is_alive(folder, name)
    name = written(folder, host=here.host, pid=os.getpid(), born=here.born)
    assert is_alive(folder, name)


def test_a_driver_on_another_machine_lives_by_its_signs_not_by_its_clock(folder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(drivers, "_SEEN", drivers._Seen(clock=lambda: now[0]))
    name = written(folder, since=9e12)  # its clock is ages ahead
    assert is_alive(folder, name)
    now[0] = drivers.STALE_SECONDS - 1
    assert is_alive(folder, name)
    written(folder, since=-9e12, beat=1)
    assert is_alive(folder, name)
    now[0] += drivers.STALE_SECONDS - 1
    assert is_alive(folder, name)
    now[0] += 2
    assert not is_alive(folder, name)


def test_who_comes_later_waits_for_a_sign_of_a_driver_far_away(folder, monkeypatch):
    monkeypatch.setattr(drivers, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(drivers, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(drivers, "_SEEN", drivers._Seen())
    written(folder)
    (folder / drivers.ALONE).write_text("far-1-a")
    with driving(folder, join=False):  # dead, after it has been watched for a while
        assert not (folder / "far-1-a.driver").exists()
    written(folder, beat=1)
    (folder / drivers.ALONE).write_text("far-1-a")
    beats = threading.Timer(0.15, lambda: written(folder, beat=2))
    beats.start()
    with (
        pytest.raises(ConcordantError, match="process 1 on far, for 2 min"),
        driving(folder, join=False),
    ):
        pass
    beats.join()


def test_a_piece_of_work_is_had_by_one_of_many(folder):
    with driving(folder, join=True) as lease:
        taken, barrier = [], threading.Barrier(8)

        def take(number: int) -> None:
            barrier.wait()
            with Lease(folder, lease.driver).of("fit-1") as mine:
                taken.append(mine)
                time.sleep(0.2)

        threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == [False] * 7 + [True]
        with lease.of("fit-1") as mine:
            assert mine


def test_a_file_system_without_links_does_as_well(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with driving(folder, join=True) as lease:
        with lease.of("fit-1") as mine, lease.of("fit-1") as again:
            assert (mine, again) == (True, False)
        with lease.of("fit-1") as mine:
            assert mine


def test_a_turn_is_waited_for(folder):
    with driving(folder, join=True) as lease:
        order = []
        with lease.turn("tables"):
            waiting = threading.Thread(target=lambda: _in_turn(lease, order))
            waiting.start()
            time.sleep(0.3)
            order.append("first")
        waiting.join()
    assert order == ["first", "second"]


def _in_turn(lease: Lease, order: list[str]) -> None:
    with lease.turn("tables"):
        order.append("second")
