"""The container driver: replicas are containers of a Docker or Podman engine on this machine."""

from .credentials import Credentials
from .driver import ContainerDriver
from .engine import Engine, EngineError, EngineMissing
from .sockets import find_socket

__all__ = ["ContainerDriver", "Credentials", "Engine", "EngineError", "EngineMissing", "find_socket"]
