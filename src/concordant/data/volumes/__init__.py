"""Scans to volumes in Hounsfield units; damage and ambiguity are refused with a short reason."""

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume
from concordant.data.volumes.folder import INDEX_SUFFIX
from concordant.data.volumes.scans import open_volume, read_volume, source_files

__all__ = [
    "INDEX_SUFFIX",
    "StoredVolume",
    "VolumeError",
    "open_volume",
    "read_volume",
    "source_files",
]
