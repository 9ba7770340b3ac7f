"""One client per server or bucket: obstore's, without its own retries, which `Reader` makes."""

import base64
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote, urlsplit

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.stores.urls import display, split
from climax_hpc.errors import UserError

_ENDPOINTS = ("endpoint", "endpoint_url", "aws_endpoint", "aws_endpoint_url")


def check_extra(package: str = "obstore") -> None:
    """Check that the packages for stores are installed.

    Raises:
        UserError: says how to install them.
    """
    try:
        absent = find_spec(package) is None
    except ValueError:  # what a stand-in for a missing module raises
        absent = True
    if absent:
        raise UserError(f"input: stores at URLs need {package}; pip install 'climax_hpc[stores]'")


def client_of(url: str, network: NetworkConfig) -> tuple[Any, str]:
    """The client of a URL, and the key of the URL in it.

    Raises:
        UserError: obstore is missing; an option is unknown.
    """
    check_extra()
    root, key = split(url)
    return _client(root, json.dumps(network.storage_options or {}, sort_keys=True)), key


def has_plain_endpoint(options: Mapping[str, Any]) -> bool:
    """True if the options name the address of a server without TLS, under any of obstore's names of that key."""
    return any(str(options.get(key, "")).lower().startswith("http://") for key in _ENDPOINTS)


@cache
def _client(root: str, options: str) -> Any:
    from obstore.store import GCSStore, HTTPStore, LocalStore, S3Store

    parts = urlsplit(root)
    given = json.loads(options)
    client: Any = {"timeout": "30 days", "connect_timeout": "20 s"}  # `Reader` watches the progress
    retry: Any = {"max_retries": 0}
    try:
        if parts.scheme == "file":
            return LocalStore(prefix="/")
        if parts.scheme in ("http", "https"):
            headers = _headers(parts.netloc, given)
            client |= {"allow_http": parts.scheme == "http"} | ({"default_headers": headers} if headers else {})
            plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
            return HTTPStore.from_url(plain, client_options=client, retry_config=retry)
        client["allow_http"] = has_plain_endpoint(given) or bool(given.pop("allow_http", False))
        kind: Any = S3Store if parts.scheme == "s3" else GCSStore
        return kind(parts.netloc, **given, client_options=client, retry_config=retry)
    except UserError:
        raise
    except Exception as error:  # unknown keys, values that cannot be parsed
        keys = ", ".join(sorted(given)) or "none"
        raise UserError(
            f"storage_options: not accepted for {display(root)} ({type(error).__name__}; given keys: {keys}); use "
            "obstore's names, for example endpoint, region, skip_signature"
        ) from None


def _headers(netloc: str, given: dict[str, Any]) -> dict[str, str]:
    """Headers that authenticate: user and password of the URL, or `authorization` of the options."""
    user, at, _ = netloc.rpartition("@")
    unknown = sorted(given.keys() - {"authorization"})
    if unknown:
        raise UserError(f"storage_options: http takes authorization only, not {', '.join(unknown)}; leave it out")
    if "authorization" in given:
        return {"Authorization": str(given["authorization"])}
    return {"Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if at else {}
