"""Settings of input on the network: options of the store, retries, time limits, connections."""

from dataclasses import dataclass, field, fields

from climax_hpc.errors import UserError
from climax_hpc.utils.bounds import bounded

StoreOption = str | bool | int


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """How stores at URLs are read; paths on disk are not affected."""

    storage_options: dict[str, StoreOption] | None = field(default=None, repr=False)
    """Options of the store at a URL, as obstore names them, for example {endpoint: "https://…", region: eu-west-1} or
    {skip_signature: true} for public buckets; for http, {authorization: "Bearer …"}. Credentials are better left in the
    environment (AWS_*, GOOGLE_*). They are never printed or recorded."""
    network_retry_seconds: float = bounded(600.0, 604_800, 0.1)
    """Time limit of one read from a store at a URL, with all its retries [s]; the waits between them grow."""
    network_timeout_seconds: float = bounded(30.0, 86_400, 0.01)
    """Longest silence of a server before a request is given up and repeated [s]."""
    network_connections: int = bounded(32, 1024)
    """Requests to stores at URLs at the same time, per rank."""
    network_cache_mb: int = bounded(1024, 1_000_000)
    """Memory for chunks as they are stored, read ahead or needed again, per rank [MB]; at least the chunks that one
    time step of all variables touches, or they are downloaded several times."""

    def __post_init__(self) -> None:
        for key in ("network_retry_seconds", "network_timeout_seconds", "network_connections", "network_cache_mb"):
            if getattr(self, key) <= 0:
                raise UserError(f"{key} = {getattr(self, key):g}: must be above 0")


def network_of(config: NetworkConfig) -> NetworkConfig:
    """The settings of the network alone."""
    return NetworkConfig(**{key.name: getattr(config, key.name) for key in fields(NetworkConfig)})
