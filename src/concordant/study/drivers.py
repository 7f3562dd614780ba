"""The processes that drive a run: who they are, whether they live, and what each has in hand.

A driver leaves a sign of life, a number that it raises every few seconds. Another driver believes
it dead when that number has stood still for a time measured on its own clock, so that clocks that
differ or jump do not matter; on one machine it asks the operating system.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from concordant.core.errors import ConcordantError
from concordant.core.files import read_json

BEAT_SECONDS = 2.0
"""How often a driver gives a sign of life."""

STALE_SECONDS = 30.0
"""For how long a driver on another machine may stand still before its work is taken over."""


_PAUSE_SECONDS = 0.2

ALONE = "alone.lease"
"""Held by a driver that shares its run with no other."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A process that drives a run.

    Attributes:
        name: Its own name in the folder.
        host: Its machine.
        pid: Its process there.
        born: When the process started, in the machine's own count; tells it from a later process
            with the same number.
        since: When it began, in seconds since 1970.
        joins: Whether it shares the run with others.
        beat: Its latest sign of life.
    """

    name: str
    host: str
    pid: int
    born: str
    since: float
    joins: bool
    beat: int = 0

    @classmethod
    def here(cls, *, joins: bool) -> Self:
        """Return this process as a driver."""
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        born = _born(os.getpid())
        return cls(name, socket.gethostname(), os.getpid(), born, time.time(), joins)

    @property
    def is_local(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    def told(self) -> str:
        """Return who it is, and for how long, in words."""
        minutes = max(time.time() - self.since, 0.0) / 60
        return f"process {self.pid} on {self.host}, for {minutes:.0f} min"


@dataclass(frozen=True, slots=True)
class Lease:
    """What keeps the drivers of a run from doing the same work; passes between processes.

    Attributes:
        folder: Folder of the drivers.
        driver: Name of the one that takes the work.
    """

    folder: Path
    driver: str

    @contextmanager
    def of(self, work: str) -> Iterator[bool]:
        """Take a piece of work; yields False where another driver that lives has it."""
        path = self.folder / f"{work}.lease"
        mine = _taken(path, self.driver) or self._takes_over(path)
        try:
            yield mine
        finally:
            if mine:
                path.unlink(missing_ok=True)

    @contextmanager
    def turn(self, work: str) -> Iterator[None]:
        """Wait until no other driver does this work, and keep the others from it meanwhile."""
        while True:
            with self.of(work) as mine:
                if mine:
                    yield
                    return
            time.sleep(_PAUSE_SECONDS)

    def _takes_over(self, path: Path) -> bool:
        """Take what a dead driver had: its name is replaced by a rename that only one can make."""
        owner = _text(path)
        if owner is None:
            return _taken(path, self.driver)
        if is_alive(self.folder, owner):
            return False
        aside = path.with_suffix(f".{secrets.token_hex(8)}")
        try:
            path.rename(aside)
        except OSError:  # another was faster
            return False
        dead = _text(aside) == owner
        aside.unlink(missing_ok=True)
        return dead and _taken(path, self.driver)


@contextmanager
def driving(folder: Path, *, join: bool) -> Iterator[Lease]:
    """Drive a run, alone or beside others, with signs of life until the end.

    Raises:
        ConcordantError: Another driver is at work, and not both of them were to share it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    me = Driver.here(joins=join)
    _write(folder, me)
    lease = Lease(folder, me.name)
    try:
        with _signs_of_life(folder, me):
            _bury_the_dead(folder, me)
            if join:
                _refuse(folder, _text(folder / ALONE))
                yield lease
            else:
                with lease.of(ALONE.removesuffix(".lease")) as mine:
                    sharing = next((one.name for one in _others(folder, me) if one.joins), None)
                    _refuse(folder, sharing if mine else _text(folder / ALONE))
                    yield lease
    finally:
        (folder / f"{me.name}.driver").unlink(missing_ok=True)
        _remove_dead(folder)
        with contextlib.suppress(OSError):  # others are still there, or something was written
            for empty in (folder, folder.parent, folder.parent.parent):
                empty.rmdir()


def _refuse(folder: Path, name: str | None) -> None:
    other = None if name is None else _driver(folder / f"{name}.driver")
    if other is not None:
        raise ConcordantError(
            f"{folder.parent} is being run by {other.told()}. Wait until it has ended, stop it, or "
            "give --join to both, so that they share the work"
        )


def _bury_the_dead(folder: Path, me: Driver) -> None:
    """Remove drivers that are gone, and what they had in hand."""
    for other in _others(folder, me):
        while is_alive(folder, other.name) and not _beats(folder, other):
            time.sleep(BEAT_SECONDS / 4)
    _remove_dead(folder)


def _remove_dead(folder: Path) -> None:
    for path in folder.glob("*.driver"):
        if not is_alive(folder, path.stem):
            path.unlink(missing_ok=True)
    for path in folder.glob("*.lease"):
        owner = _text(path)
        if owner is not None and _driver(folder / f"{owner}.driver") is None:
            path.unlink(missing_ok=True)


def _beats(folder: Path, other: Driver) -> bool:
    """Return whether a driver is known to live: on this machine, or by a new sign of life."""
    now = _driver(folder / f"{other.name}.driver")
    return other.is_local or (now is not None and now.beat != other.beat)


def _others(folder: Path, me: Driver) -> list[Driver]:
    found = (_driver(path) for path in sorted(folder.glob("*.driver")))
    return [one for one in found if one is not None and one.name != me.name]


def is_alive(folder: Path, name: str) -> bool:
    """Return whether a driver lives; on another machine this may take as long as `STALE_SECONDS`.

    What was seen of it is remembered for the life of this process.
    """
    found = _driver(folder / f"{name}.driver")
    if found is None:
        return False
    if found.is_local:
        return _born(found.pid) == found.born
    return _SEEN.lives(found)


@dataclass
class _Seen:
    """When, on this process's own clock, a driver's sign of life was last seen to change."""

    clock: Callable[[], float] = time.monotonic
    beats: dict[str, tuple[int, float]] = field(default_factory=dict)

    def lives(self, driver: Driver) -> bool:
        """Return whether it has not stood still for too long since it was first looked at."""
        beat, since = self.beats.get(driver.name, (None, 0.0))
        if beat != driver.beat:
            self.beats[driver.name] = (driver.beat, self.clock())
            return True
        return self.clock() - since < STALE_SECONDS


_SEEN = _Seen()


@contextmanager
def _signs_of_life(folder: Path, me: Driver) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        count = 0
        while not ended.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(OSError):  # a full disk for a moment is no death
                _write(folder, me, count)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(folder: Path, driver: Driver, beat: int = 0) -> None:
    path = folder / f"{driver.name}.driver"
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(asdict(replace(driver, beat=beat))), encoding="utf-8")
    temporary.replace(path)


def _driver(path: Path) -> Driver | None:
    try:
        told: dict[str, Any] = read_json(path)
        return Driver(**told)
    except (OSError, ValueError, TypeError):
        return None


def _taken(path: Path, driver: str) -> bool:
    """Create a lease with its owner's name in one step, or return False where there is one."""
    aside = path.with_suffix(f".{secrets.token_hex(8)}")
    aside.write_text(driver, encoding="utf-8")
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: as good, but for the moment before the name
        return _created(path, driver)
    finally:
        aside.unlink(missing_ok=True)
    return True


def _created(path: Path, driver: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as lease:
            lease.write(driver)
    except FileExistsError:
        return False
    return True


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _born(pid: int) -> str:
    """Return when a process of this machine started, or "" where it is gone.

    Where the system does not tell, a process that is there counts as the one that was meant.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        with contextlib.suppress(OSError, IndexError):
            return stat.read_text().rpartition(")")[2].split()[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "" if Path("/proc/self/stat").exists() else "unknown"
