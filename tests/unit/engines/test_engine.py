"""The local engine: outcomes as they come, crashes survived, threads limited, interrupts clean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from concordant.core.errors import ConfigError, VolumeError
from concordant.engines import (
    ENGINES,
    Engine,
    LocalEngine,
    Outcome,
    RayEngine,
    make_engine,
    run_tasks,
)
from concordant.engines.local import default_workers, open_pool
from concordant.engines.worker import THREAD_VARIABLES


def square(number: int) -> int:
    return number * number


def odd_ones_fail(number: int) -> int:
    if number % 2:
        raise VolumeError("no voxel", f"scan-{number}.nii.gz")
    return number


def die_on_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_on_one(number: int) -> int:
    if number == 1:
        os._exit(7)
    return number


def threads(_: int) -> tuple[dict[str, str | None], int, int]:
    import torch

    return (
        {name: os.environ.get(name) for name in (*THREAD_VARIABLES, "NUMBA_NUM_THREADS")},
        torch.get_num_threads(),
        os.getpid(),
    )


def process_of(_: int) -> int:
    return os.getpid()


def die_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def linger(attempts: Path) -> None:
    with attempts.open("a") as stream:
        stream.write("x")
    time.sleep(60)


def lambda_of(number: int) -> object:
    return (lambda: number) if number == 1 else number


def is_imported(module: str) -> bool:
    return module in sys.modules


class CannotBeRead:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_refuse, ("no",))


def _refuse(reason: str) -> None:
    raise RuntimeError(reason)


def give_unreadable(number: int) -> object:
    return CannotBeRead() if number == 0 else number


@pytest.mark.parametrize("workers", [1, 2])
def test_outcomes_come_in_the_order_of_the_tasks(workers):
    seen: list[Outcome[int]] = []
    outcomes = run_tasks(square, range(5), engine=LocalEngine(workers), on_done=seen.append)
    assert [outcome.value for outcome in outcomes] == [0, 1, 4, 9, 16]
    assert sorted(seen, key=lambda outcome: outcome.index) == list(outcomes)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_task_gives_no_outcome(workers):
    assert run_tasks(square, [], engine=LocalEngine(workers)) == ()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_raises_is_a_failure_and_the_others_go_on(workers):
    outcomes = run_tasks(odd_ones_fail, range(4), engine=LocalEngine(workers))
    assert [outcome.value for outcome in outcomes] == [0, None, 2, None]
    failure = outcomes[3].failure
    assert failure is not None
    assert (failure.kind, failure.message, failure.expected) == (
        "VolumeError",
        "scan-3.nii.gz: no voxel",
        True,
    )
    assert "odd_ones_fail" in failure.details


def test_a_programming_error_is_not_an_expected_failure():
    (outcome,) = run_tasks(square, ["not a number"])
    assert outcome.failure is not None
    assert not outcome.failure.expected


def test_a_killed_worker_is_reported_for_its_own_task_only():
    outcomes = run_tasks(die_on_two, range(6), engine=LocalEngine(2))
    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4, 5]
    failure = outcomes[2].failure
    assert failure is not None
    assert failure.kind == "WorkerCrash"
    assert "SIGKILL" in failure.message


def test_a_worker_that_exits_is_reported_with_its_code():
    outcomes = run_tasks(leave_on_one, range(3), engine=LocalEngine(2))
    assert [outcome.value for outcome in outcomes] == [0, None, 2]
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.message == "the worker process exited with code 7"


@pytest.mark.parametrize("function", [lambda_of, give_unreadable])
def test_a_result_that_cannot_travel_is_a_failure_of_its_task(function):
    outcomes = run_tasks(function, [0, 1, 2], engine=LocalEngine(2))
    assert [outcome.failure is None for outcome in outcomes].count(False) == 1
    assert outcomes[2].value == 2


def test_a_task_that_cannot_travel_is_a_failure_of_its_task():
    outcomes = run_tasks(square, [3, lambda: 4, 5], engine=LocalEngine(2))
    assert [outcome.value for outcome in outcomes] == [9, None, 25]


def test_each_worker_has_one_thread_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    outcomes = run_tasks(threads, range(2), engine=LocalEngine(2))
    assert dict(os.environ) == before
    for outcome in outcomes:
        assert outcome.value is not None
        variables, torch_threads, process = outcome.value
        assert set(variables.values()) == {"1"}
        assert torch_threads == 1
        assert process != os.getpid()


def test_workers_import_the_modules_that_register_components():
    module = "xml.dom.pulldom"  # nothing else imports it
    assert [
        outcome.value for outcome in run_tasks(is_imported, [module, module], engine=LocalEngine(2))
    ] == [
        False,
        False,
    ]
    assert [
        outcome.value
        for outcome in run_tasks(
            is_imported, [module, module], engine=LocalEngine(2), imports=[module]
        )
    ] == [True, True]


def test_a_module_that_cannot_be_imported_is_a_failure_with_its_name():
    outcomes = run_tasks(square, [1, 2], engine=LocalEngine(2), imports=["no_such_module"])
    assert all(
        outcome.failure is not None and "no_such_module" in outcome.failure.message
        for outcome in outcomes
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("locl",), r"unknown engine 'locl'\. Did you mean 'local'\?"),
        (("rya",), r"unknown engine 'rya'\. Did you mean 'ray'\?"),
        (("local", 0), "workers = 0: expected at least 1"),
        (("ray", -1), "cpus = -1: expected at least 1"),
        (("local", 2, "auto"), "address 'auto' is for the engine 'ray', not 'local'"),
    ],
)
def test_an_engine_that_is_not_one_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        make_engine(*given)


def test_an_engine_is_made_as_the_command_line_names_it():
    assert make_engine("local", 3) == LocalEngine(3, isolated=True)
    assert make_engine("local") == LocalEngine(default_workers(), isolated=True)
    assert make_engine("ray", 4, "auto") == RayEngine("auto", 4)
    assert make_engine("ray") == RayEngine(None, 1)


def test_another_engine_can_be_registered(monkeypatch):
    class Backwards(Engine):
        is_remote = False
        processes = 0

        @classmethod
        def of(cls, workers, address):
            return cls()

        def run(self, function, tasks, *, imports=(), gpu=False):
            return (Outcome(index, function(tasks[index])) for index in reversed(range(len(tasks))))

    monkeypatch.setitem(ENGINES, "backwards", Backwards)
    seen: list[int] = []
    outcomes = run_tasks(
        square,
        [1, 2, 3],
        engine=make_engine("backwards"),
        on_done=lambda outcome: seen.append(outcome.index),
    )
    assert [outcome.value for outcome in outcomes] == [1, 4, 9]
    assert seen == [2, 1, 0]


def test_one_worker_may_be_a_process_of_its_own():
    (outcome,) = run_tasks(leave_on_one, [1], engine=LocalEngine(1, isolated=True))
    assert outcome.failure is not None
    assert outcome.failure.kind == "WorkerCrash"
    (outcome,) = run_tasks(process_of, [0])
    assert outcome.value == os.getpid()


def test_tasks_are_taken_a_few_ahead_and_outcomes_come_one_by_one():
    taken = []

    def tasks():
        for number in range(50):
            taken.append(number)
            yield number

    running = LocalEngine(2).run(square, tasks())
    assert next(running).value in (0, 1, 4, 9)
    assert len(taken) <= 4
    running.close()
    assert len(taken) <= 4


def test_a_task_whose_process_dies_may_be_tried_again(tmp_path):
    with open_pool(1, attempts=2) as pool:
        assert pool.submit(die_once, tmp_path / "died").result().value == "alive"
        assert pool.submit(leave_on_one, 1).result().failure.kind == "WorkerCrash"
        assert pool.submit(square, 3).result().value == 9


def test_a_closed_pool_tries_nothing_again(tmp_path):
    with open_pool(1, attempts=2) as pool:
        waiting = pool.submit(linger, tmp_path / "attempts")
        assert wait_until((tmp_path / "attempts").exists)
    outcome = waiting.result()
    assert outcome.failure is not None
    assert outcome.failure.kind == "WorkerCrash"
    assert (tmp_path / "attempts").read_text() == "x"


def test_a_process_that_is_killed_while_it_has_nothing_to_do_costs_no_task():
    with open_pool(1) as pool:
        first = pool.submit(process_of, 0).result().value
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{first}/stat").exists() and time.monotonic() < deadline:
            if ") Z " in Path(f"/proc/{first}/stat").read_text():
                break
            time.sleep(0.01)
        second = pool.submit(process_of, 0).result()
        assert second.failure is None
        assert second.value != first


def test_the_overhead_of_a_task_is_small():
    run_tasks(square, range(2), engine=LocalEngine(2))
    began = time.monotonic()
    run_tasks(square, range(400), engine=LocalEngine(2))
    assert (time.monotonic() - began) / 400 < 0.05


def test_there_is_at_least_one_processor():
    assert default_workers() >= 1


SCRIPT = """
import sys, time
from pathlib import Path
from concordant.engines import LocalEngine, run_tasks

def linger(folder):
    mark = Path(folder) / f"half-written-{time.monotonic_ns()}"
    mark.touch()
    try:
        time.sleep(60)
    finally:
        mark.unlink()

if __name__ == "__main__":
    run_tasks(linger, [sys.argv[1]] * 3, engine=LocalEngine(2))
"""


def test_an_interrupt_stops_the_workers_and_lets_them_clean_up(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    folder = tmp_path / "work"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, folder], start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(folder.iterdir())) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert errors.count(b"KeyboardInterrupt") == 1  # the parent's; the workers stay silent
    assert list(folder.iterdir()) == []


SLOW_TO_LEAVE = """
import atexit, sys, time
from pathlib import Path
from concordant.engines.worker import Worker

def leave(mark):
    mark.touch()
    time.sleep(0.5)  # as torch, it has something to put away

def answer(mark):
    atexit.register(leave, mark)

if __name__ == "__main__":
    mark = Path(sys.argv[1])
    worker = Worker()
    worker.ask(answer, mark, 0)
    worker._pipe.close()
    while not mark.exists():
        time.sleep(0.01)
    worker.process.terminate()
    worker.process.join()
    sys.exit(worker.process.exitcode)
"""


def test_a_worker_that_is_stopped_while_it_leaves_says_nothing(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SLOW_TO_LEAVE)
    finished = subprocess.run(
        [sys.executable, script, tmp_path / "mark"], capture_output=True, timeout=30, check=True
    )
    assert finished.stderr == b""


LINGER = """
import os, sys, time
from pathlib import Path
from concordant.engines import LocalEngine, run_tasks

def linger(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    run_tasks(linger, [sys.argv[1]] * 2, engine=LocalEngine(2))
"""


def is_running(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path):
    script, folder = tmp_path / "script.py", tmp_path / "work"
    script.write_text(LINGER)
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, script, folder])
    assert wait_until(lambda: len(list(folder.iterdir())) == 2)
    parent.kill()
    parent.wait()
    workers = [int(path.name) for path in folder.iterdir()]
    assert wait_until(lambda: not any(map(is_running, workers)))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
