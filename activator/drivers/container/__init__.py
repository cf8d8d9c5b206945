"""The container driver: replicas are containers of a Docker or Podman engine on this machine."""

from .driver import ContainerDriver
from .engine import Engine, EngineError, EngineMissing
from .sockets import find_socket

__all__ = ["ContainerDriver", "Engine", "EngineError", "EngineMissing", "find_socket"]
