# SPDX-License-Identifier: Apache-2.0
"""Who asks an archive: from the environment, or ``~/.netrc``; it is never written and never printed."""

from __future__ import annotations

import os

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from monai_salm.errors import UsageError

USER, PASSWORD, TOKEN = (f"MONAI_SALM_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
"""Names in the environment."""

HOW = f"set {USER} and {PASSWORD}, or {TOKEN}, or write ~/.netrc"


class _Bearer(AuthBase):
    """A token; as an object of its own, so that an entry in ``~/.netrc`` does not take its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def credentials() -> AuthBase | None:
    """Give what the environment says of who asks; None where it says nothing, so that ``~/.netrc`` counts.

    Raises:
        UsageError: it says it twice, or a half of it.
    """
    user, password, token = (os.environ.get(name, "") for name in (USER, PASSWORD, TOKEN))
    if token and (user or password):
        raise UsageError(f"{TOKEN} and {USER} or {PASSWORD} are both set; unset one of them")
    if bool(user) != bool(password):
        missing, there = (PASSWORD, USER) if user else (USER, PASSWORD)
        raise UsageError(f"{there} is set and {missing} is not; set both, or none")
    if token:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UsageError(f"{TOKEN} is no token: letters, digits and marks of ASCII in one word; set it again")
        return _Bearer(token)
    return HTTPBasicAuth(user.encode(), password.encode()) if user else None
