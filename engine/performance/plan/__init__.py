"""Which engines, how many, in which roles: candidates by the performance model. Pure; a simulation has the last word."""
