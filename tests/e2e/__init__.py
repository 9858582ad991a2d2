"""A package, unlike the other folders, so that its Baton ends with the last test in here: idle, it would take a tenth of two cores."""
