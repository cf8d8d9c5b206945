"""The process driver: replicas are processes of this machine, built from a repository's Procfile."""

from .cloning import Limits
from .driver import PROCESS_UIDS, ProcessDriver
from .users import UsersError, check_reachable

__all__ = ["PROCESS_UIDS", "Limits", "ProcessDriver", "UsersError", "check_reachable"]
