"""Opens icechunk repositories: the branch `main`, in a folder, S3 or Google Cloud Storage."""

from collections.abc import Mapping, Set
from typing import Any
from urllib.parse import urlsplit

from climax_hpc.config.network import NetworkConfig
from climax_hpc.data_prep.stores.client import check_extra, has_plain_endpoint
from climax_hpc.data_prep.stores.urls import display, split
from climax_hpc.errors import UserError

_S3_NAMES = {
    "access_key_id": "access_key_id", "secret_access_key": "secret_access_key", "session_token": "session_token",
    "token": "session_token", "region": "region", "endpoint": "endpoint_url",
    "endpoint_url": "endpoint_url", "skip_signature": "anonymous",
    "allow_http": "allow_http",
}  # fmt: skip
"""Options as obstore names them -> as icechunk does."""
_ANONYMOUS = {"skip_signature", "aws_skip_signature", "google_skip_signature"}


def open_snapshot(url: str, snapshot: str, network: NetworkConfig) -> tuple[str, Any]:
    """The id of a snapshot, that of the branch `main` where `snapshot` is empty, and its zarr store.

    Raises:
        UserError: icechunk is missing, or does not read from this kind of URL.
        Exception: what icechunk raises.
    """
    check_extra("icechunk")
    import icechunk

    icechunk.set_logs_filter("error")  # it warns of concurrent commits to folders, and nothing is written here
    storage = _storage(url, network)
    config = icechunk.Repository.fetch_config(storage)
    containers = (config.virtual_chunk_containers if config else None) or {}
    repository = icechunk.Repository.open(
        storage, authorize_virtual_chunk_access={prefix: _access(prefix, url, network) for prefix in containers}
    )
    session = repository.readonly_session(snapshot_id=snapshot) if snapshot else repository.readonly_session("main")
    return session.snapshot_id, session.store


def _storage(url: str, network: NetworkConfig) -> Any:
    import icechunk

    root, key = split(url)
    scheme, bucket = urlsplit(root).scheme, urlsplit(root).netloc
    given = network.storage_options or {}
    if scheme == "file":
        return icechunk.local_filesystem_storage(f"/{key}")
    if scheme == "s3":
        options: dict[str, Any] = _s3_options(given)
        if "endpoint_url" in options:
            options |= {"allow_http": has_plain_endpoint(given), "force_path_style": True}
        known = {"access_key_id", "anonymous"} & options.keys()
        return icechunk.s3_storage(bucket=bucket, prefix=key, from_env=None if known else True, **options)
    if scheme == "gs":
        _refuse_unknown(given.keys() - _ANONYMOUS)
        anonymous = _is_anonymous(given)
        return icechunk.gcs_storage(bucket=bucket, prefix=key, anonymous=anonymous, from_env=not anonymous)
    raise UserError(
        f"input: {display(url)} is an icechunk repository, which is read from a folder, s3:// or gs://, not {scheme}; "
        "copy it, or give the URL of its bucket"
    )


def _refuse_unknown(keys: Set[str]) -> None:
    if keys:
        raise UserError(f"storage_options: not known for icechunk: {', '.join(sorted(keys))}; leave them out")


def _is_anonymous(given: Mapping[str, Any]) -> bool:
    return any(given.get(key) for key in _ANONYMOUS)


def _s3_options(given: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key.removeprefix("aws_"): value for key, value in given.items()}
    _refuse_unknown(plain.keys() - _S3_NAMES)
    return {_S3_NAMES[key]: value for key, value in plain.items()}


def _access(prefix: str, url: str, network: NetworkConfig) -> Any:
    """Credentials for the files that virtual chunks lie in.

    Raises:
        UserError: a repository on the network refers to local files.
    """
    import icechunk

    if prefix.startswith("file:") and not url.startswith("file:"):
        raise UserError(f"input: {display(url)} refers to local files ({prefix}); only repositories on disk may do so")
    given = network.storage_options or {}
    if prefix.startswith("s3:"):
        keys = ("access_key_id", "secret_access_key", "session_token")
        named: dict[str, Any] = {key: str(value) for key, value in _s3_options(given).items() if key in keys}
        if _is_anonymous(given):
            return icechunk.s3_credentials(anonymous=True)
        return icechunk.s3_credentials(**named) if named else icechunk.s3_credentials(from_env=True)
    if prefix.startswith("gs:"):
        anonymous = _is_anonymous(given)
        return icechunk.gcs_credentials(anonymous=True) if anonymous else icechunk.gcs_credentials(from_env=True)
    return None
