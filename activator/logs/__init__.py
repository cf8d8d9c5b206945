"""The lines of replicas and builds: collected from raw files, kept per service, read newest first.

Laws kept here: everything waiting is bounded and everything dropped is counted (law 7); control may be killed at any
line without a line lost or doubled, because each kept line carries where in the raw file it ended (law 4).
"""

from .collector import Collector, ReplicaLogs, Source
from .line import LogLine, Stream
from .raw import last_lines
from .reader import LogPage, Query
from .store import LogLimits, LogStore

__all__ = [
    "Collector",
    "LogLimits",
    "LogLine",
    "LogPage",
    "LogStore",
    "Query",
    "ReplicaLogs",
    "Source",
    "Stream",
    "last_lines",
]
