"""What a file is by its first bytes, to say why it cannot be opened as NetCDF."""

from pathlib import Path

_TAR_MARK = slice(257, 262)
_SIGNATURES = (
    (b"CDF\x01", "NetCDF-3", ""),
    (b"CDF\x02", "NetCDF-3", ""),
    (b"CDF\x05", "NetCDF-3", ""),
    (b"\x89HDF\r\n\x1a\n", "HDF5 (NetCDF-4)", ""),
    (b"\x0e\x03\x13\x01", "HDF4", "convert it, `ncks -4` or `h4tonccf`"),
    (b"GRIB", "GRIB", "convert it, `cdo -f nc4 copy` or `grib_to_netcdf`"),
    (b"PK\x03\x04", "a zip archive", "unzip it"),
    (b"PK\x05\x06", "an empty zip archive", "download it again"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip it"),
    (b"BZh", "compressed with bzip2", "bunzip2 it"),
    (b"\xfd7zXZ", "compressed with xz", "unxz it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unzstd it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"RDX", "R data", "use layout climate4r, whose files end in .rda"),
    (b"version https://git-lfs", "a pointer of Git LFS", "get the file itself, `git lfs pull`"),
)
"""First bytes, what they say the file is, and what to do with it."""
CONVERTIBLE = {what for _, what, fix in _SIGNATURES if fix}
"""Formats that may hold input after the conversion that is named."""
NETCDF = ("NetCDF-3", "HDF5 (NetCDF-4)")


def format_of(path: Path) -> tuple[str, str]:
    """What a file is, and what to do with it; ("", "") if its first bytes say nothing.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        first = file.read(512)
    for signature, what, fix in _SIGNATURES:
        if first.startswith(signature):
            return what, fix
    again = "download it again"
    if not first:
        return "empty (0 bytes)", again
    if first[_TAR_MARK] == b"ustar":
        return "a tar archive", "unpack it"
    if not any(first):
        return "not filled: it begins with zeros", again
    text = first.decode("latin-1").strip().lower()
    if text.startswith(("<!doctype html", "<html", "<head", "<?xml")):
        return "a web page", f"{again}: it holds the answer of a server, most likely an error or a log-in"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in first):
        return "text", again
    return "", ""


def why_not_netcdf(path: Path, error: Exception) -> str:
    """Why a file cannot be opened as NetCDF, and the fix: the reading error, else what its first bytes say."""
    code = getattr(error, "errno", None) or 0
    if code > 0:  # the library's own codes are negative
        return f"cannot be read ({getattr(error, 'strerror', None) or error}); correct its permissions, or remove it"
    try:
        what, fix = format_of(path)
    except OSError as unreadable:
        return f"cannot be read ({unreadable.strerror}); correct its permissions, or remove it"
    if what in NETCDF:
        reason = " ".join(str(error).split())[:200]
        return f"cannot be opened: it begins as {what}, but is truncated or damaged ({reason}); download it again"
    if what:
        return f"is {what}, not NetCDF; {fix}"
    return "is not NetCDF, by its first bytes; download it again, or remove it"
