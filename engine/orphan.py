"""Engine processes end with the worker that started them, even when that one is killed and can tell nobody."""

import os
import threading
import time

_PERIOD_S = 0.25
_watching = threading.Event()


def exit_with_parent() -> None:
    """Watches this process's parent from a daemon thread and ends the process at once when the parent is gone.

    Polling instead of ``PR_SET_PDEATHSIG``: that signal fires when the parent's *thread* ends, and the thread that starts an
    engine is not the one that lives longest. Calling it again does nothing.
    """
    if _watching.is_set():
        return
    _watching.set()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PERIOD_S)
        os._exit(1)  # nothing to save: without its worker nobody can read this engine's blocks or outputs

    threading.Thread(target=watch, name="exit-with-parent", daemon=True).start()
