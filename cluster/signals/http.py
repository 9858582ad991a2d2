"""Asking other processes over HTTP, on the loop of whoever asks."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

_MOST_BYTES = 64 * 1024 * 1024
"""Of one answer. A router that knows a thousand workers tells two megabytes of them."""


class Http:
    """Opens connections as they are needed, and keeps them. Raises ``OSError``, and ``TimeoutError``, which is one."""

    def __init__(self, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = dict(headers or {})
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> str:
        """The body of an answer with status 200."""
        return await self._ask("GET", url, None, headers)

    async def post(self, url: str, form: Mapping[str, str]) -> str:
        """Likewise. For what is too long for an address."""
        return await self._ask("POST", url, form)

    async def close(self) -> None:
        """May be used again."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, method: str, url: str, form: Mapping[str, str] | None, headers: Mapping[str, str] | None = None) -> str:
        if self._session is None:
            # Not the proxies of the environment: what is asked is inside of the cluster.
            self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers, trust_env=False)
        try:
            async with self._session.request(method, url, data=form, headers=headers, allow_redirects=False) as answer:
                body = await answer.content.read(_MOST_BYTES)
                while more := await answer.content.read(_MOST_BYTES):
                    body += more
                    if len(body) > _MOST_BYTES:
                        raise OSError("an answer without end")
                text = body.decode("utf-8", "replace")
                if answer.status != 200:
                    raise OSError(f"{answer.status} {answer.reason}: {text[:200].strip()}")
                return text
        except aiohttp.ClientError as error:
            raise OSError(str(error) or type(error).__name__) from error
