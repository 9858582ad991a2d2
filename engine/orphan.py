"""Engine processes end with the worker that started them, even when that one is killed and can tell nobody."""

import os
import threading
import time

WORKER_PID = "BATON_WORKER_PID"
"""In the environment of a worker and of every process it starts: whose end is theirs."""

_PERIOD_S = 0.25
_watching = threading.Event()


def mark_worker() -> None:
    """This process is the worker."""
    os.environ[WORKER_PID] = str(os.getpid())


def exit_with_worker() -> None:
    """Ends this process at once when its parent or its worker is gone, which a daemon thread watches.

    Polling instead of ``PR_SET_PDEATHSIG``: that signal fires when the parent's *thread* ends, and the thread that starts an
    engine is not the one that lives longest. Calling it again, or in the worker itself, does nothing.
    """
    worker = int(os.environ.get(WORKER_PID, os.getppid()))
    if _watching.is_set() or worker == os.getpid():
        return
    _watching.set()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and _is_alive(worker):
            time.sleep(_PERIOD_S)
        os._exit(1)  # nothing to save: without its worker nobody can read this engine's blocks or outputs

    threading.Thread(target=watch, name="exit-with-worker", daemon=True).start()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
