"""``baton doctor``: what is measured (``measured``), by whom (``examiner``, ``here``, ``there``), and what follows (``verdicts``)."""
