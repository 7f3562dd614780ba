"""What scans a folder holds and what each is worth: found, measured, compared, pictured."""

from concordant.data.quality.catalogue import Scan, find_scans
from concordant.data.quality.measure import REFUSED, USABLE, ScanQuality, measure, quality_table
from concordant.data.quality.montage import montage

__all__ = [
    "REFUSED",
    "USABLE",
    "Scan",
    "ScanQuality",
    "find_scans",
    "measure",
    "montage",
    "quality_table",
]
