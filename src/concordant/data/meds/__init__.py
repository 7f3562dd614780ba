"""MEDS datasets of every version (https://github.com/Medical-Event-Data-Standard/meds)."""

from concordant.data.meds.quality import RecordCounts, quality_in_words, quality_table
from concordant.data.meds.records import RecordSet, count_events, data_quality, read_events
from concordant.data.meds.shards import COLUMNS, Shard, scan_shards, shard_paths
from concordant.data.meds.stream import RecordPart, stream_events

__all__ = [
    "COLUMNS",
    "RecordCounts",
    "RecordPart",
    "RecordSet",
    "Shard",
    "count_events",
    "data_quality",
    "quality_in_words",
    "quality_table",
    "read_events",
    "scan_shards",
    "shard_paths",
    "stream_events",
]
