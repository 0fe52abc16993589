"""Processes that take turns: each runs one variant and nothing else, and only one computes at a time.

Both ends of the pipe are here. Run as a script this file is the worker; it imports nothing that its variant does not
need, so that the memory of the process is the variant's. Between its turns a worker is stopped with all its processes:
so busy-waiting threads and data loaders neither disturb the others nor work in time that is not counted.
"""

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class Missing(ModuleNotFoundError):
    """A library that the variant needs is not installed: ``name``."""


class Failed(Exception):
    """The variant cannot be run; the message says why."""


class Turns:
    """The worker's end: waits for its turn, and takes the time.

    Args:
        connection: To the other end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wanted = 0
        self._times: list[float] = []
        self._start = 0.0

    def begin(self, **facts: Any) -> None:
        """Says that the variant is ready, with ``facts`` for the other end, and waits for the first turn."""
        self._connection.send(('ready', facts))
        self._wait()

    def tick(self) -> None:
        """Ends an iteration; the next one begins when this returns."""
        self._times.append(time.perf_counter() - self._start)
        if len(self._times) == self._wanted:
            self._connection.send(('times', self._times))
            self._wait()
        self._start = time.perf_counter()

    def loop(self, step: Callable[[], Any], **facts: Any) -> None:
        """Calls ``step`` as often as the other end wants, after three calls to warm up."""
        for _ in range(3):
            step()
        self.begin(**facts)
        while True:
            step()
            self.tick()

    def _wait(self) -> None:
        self._wanted = self._connection.recv()  # raises EOFError when it is over
        self._times = []
        self._start = time.perf_counter()


class Worker:
    """The commanding end of a process that runs one variant.

    Args:
        variant: ``module:function``; the function takes a :class:`Turns` and ``options``, and calls ``begin`` and then
            ``tick`` for ever. The module is installed, or one of the files beside this one.
        options: For the function; pickled.
        threads: Threads that the process computes with.
        log: Where its output goes.
    """

    def __init__(self, variant: str, options: Mapping[str, Any], threads: int, log: Path) -> None:
        self._connection, theirs = Pipe()
        limits = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'OPENCV_FOR_THREADS_NUM')
        # All else as users have it. (OMP_WAIT_POLICY=PASSIVE would slow PyTorch's eager rows by a third and more.)
        environment = {**os.environ, **dict.fromkeys(limits, str(threads))}
        with theirs, log.open('ab') as output:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
            )
        self._connection.send((variant, dict(options)))

    def ready(self) -> dict[str, Any]:
        """Waits until the variant can run, and stops it there; returns the facts that it gave to :meth:`Turns.begin`.

        Raises :class:`Missing` if it needs a library that is not installed, :class:`Failed` if it could not be built.
        """
        facts: dict[str, Any] = self._receive()
        self._stop()
        return facts

    def turn(self, iterations: int) -> list[float]:
        """Lets it do some iterations; returns their seconds. Raises :class:`Failed` if it broke down."""
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # it has ended: the reason is found below
            self._connection.send(iterations)
        times: list[float] = self._receive()
        self._stop()
        return times

    def peak_bytes(self) -> int | None:
        """Most memory that the process has had resident, with what its children have now; None where it cannot be read.

        Pages that it shares with its children are divided between them.
        """
        found = 0
        for folder in Path('/proc').glob('[0-9]*'):
            with suppress(OSError):
                if os.getpgid(int(folder.name)) != self._process.pid:
                    continue
                leads = int(folder.name) == self._process.pid
                name, text = ('VmHWM', folder / 'status') if leads else ('Pss', folder / 'smaps_rollup')
                match = re.search(rf'^{name}:\s+(\d+) kB', text.read_text(), re.MULTILINE)
                found += 1024 * int(match[1]) if match else 0
        return found or None

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        with suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        # Only a group that has stopped already is ended by the system if this process is killed.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def _receive(self) -> Any:
        try:
            kind, content = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            status = self._process.wait()
            why = ': killed, as by a system that is short of memory' if status == -signal.SIGKILL else ''
            raise Failed(f'the process ended with status {status}{why}') from error
        if kind == 'missing':
            raise Missing(f'{content} is not installed', name=content)
        if kind == 'failed':
            raise Failed(content)
        return content


def _work(connection: Connection) -> None:
    """The worker's whole life."""
    # A group of its own in the session of its parent: if that one is killed, the system ends a stopped group.
    os.setpgrp()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is how it does that; nohup would have it ignored
    sys.path.append(str(Path(__file__).parents[1]))  # so that this folder is the package speed, too
    variant, options = connection.recv()
    module, _, function = variant.partition(':')
    try:
        getattr(import_module(module), function)(Turns(connection), **options)
    except EOFError:
        pass
    except ModuleNotFoundError as error:
        connection.send(('missing', error.name))
    except Exception as error:  # whatever a library may raise: the other end reports it
        traceback.print_exc()
        connection.send(('failed', f'{type(error).__name__}: {error}'))


if __name__ == '__main__':
    _work(Connection(int(sys.argv[1])))
