"""A whole cluster under a virtual clock: the production router and the simulated engine's scheduler, without Ray, sockets or waiting."""
