#!/bin/sh
# What Ray Serve starts as its HAProxy. Its configuration asks for splice(), and with that HAProxy (2.8) does not notice that a
# client has left while its answer is computed, if the request's body came apart from its head, as most clients send it: the
# engines would work on to the last token. There is a flag against it, but no way to have Ray pass one.
exec "${BATON_HAPROXY:-haproxy}" -dS "$@"
