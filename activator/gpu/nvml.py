"""NVML as a source: the driver's own library, by nvidia-ml-py (the extra `gpu`).

It has no time-out of its own, and a GPU that fell off its bus may hold it for ever: it runs in a thread of its own, one
call at a time, that nobody waits for at the end. Where the library or the driver is missing there is no source; that is
looked at again, since a driver may be loaded later.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from activator.gpu import NotMeasured, Utilizations

_TIMEOUT: Final = 3.0  # seconds for a look at all GPUs


class Library(Protocol):
    """What is used of `pynvml`; every function raises NVMLError."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802


def find_library() -> Library:
    """Raises NotMeasured."""
    try:
        return cast("Library", importlib.import_module("pynvml"))
    except ImportError:
        raise NotMeasured("nvidia-ml-py is not installed: pip install 'wakegate[gpu]'") from None


class Nvml:
    """All GPUs of this machine. `library` is asked for until there is one."""

    name = "NVML"

    def __init__(self, library: Callable[[], Library] = find_library) -> None:
        self._find = library
        self._library: Library | None = None  # initialized
        self._asked = False  # and not answered yet

    async def read(self) -> Utilizations:
        """Raises NotMeasured."""
        if self._asked:
            raise NotMeasured("the driver does not answer")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Utilizations] = loop.create_future()
        self._asked = True
        threading.Thread(target=self._work, args=(loop, answer), name="nvml", daemon=True).start()
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await answer
        except TimeoutError:
            raise NotMeasured(f"the driver did not answer in {_TIMEOUT:.0f} s") from None

    async def close(self) -> None:
        """A thread that hangs is left alone."""

    def _work(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Utilizations]) -> None:
        found: Utilizations | NotMeasured
        try:
            found = self._look()
        except NotMeasured as error:
            found = error
        except Exception as error:  # whatever it is, nobody else would hear of it in this thread
            found = NotMeasured(f"the driver can't be asked: {error!r}")
        finally:
            self._asked = False
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(_settle, answer, found)

    def _look(self) -> Utilizations:
        """Raises NotMeasured."""
        library = self._library or self._find()
        try:
            if self._library is None:
                library.nvmlInit()
                self._library = library
            found = dict(_of_all(library))
        except library.NVMLError as error:
            self._let_go(library)
            raise NotMeasured(f"the driver can't be asked: {error}") from error
        if not found:
            raise NotMeasured("it tells of no GPU how busy it is; of one that is cut into instances only DCGM does")
        return found

    def _let_go(self, library: Library) -> None:
        """After an error the library is initialized anew: the driver may have been loaded again."""
        if self._library is not None:
            self._library = None
            with contextlib.suppress(library.NVMLError):
                library.nvmlShutdown()


def _of_all(library: Library) -> list[tuple[str, float]]:
    """By number and UUID; a GPU that can't be asked (lost, cut into instances) is left out."""
    found = []
    for number in range(library.nvmlDeviceGetCount()):
        with contextlib.suppress(library.NVMLError):
            handle = library.nvmlDeviceGetHandleByIndex(number)
            percent = float(library.nvmlDeviceGetUtilizationRates(handle).gpu)
            found += [(str(number), percent), (library.nvmlDeviceGetUUID(handle), percent)]
    return found


def _settle(answer: asyncio.Future[Utilizations], found: Utilizations | NotMeasured) -> None:
    if answer.done():
        return
    if isinstance(found, NotMeasured):
        answer.set_exception(found)
    else:
        answer.set_result(found)
