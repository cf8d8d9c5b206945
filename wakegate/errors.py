"""What stops `wakegate serve` before it serves: said in one line, with what to do about it."""

from __future__ import annotations


class ServeError(Exception):
    """`serve` can't start (or go on); the text names the cause and the fix. Exit status 1."""
