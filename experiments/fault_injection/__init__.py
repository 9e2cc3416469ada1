"""Faults made on purpose, and what came back: one module for each kind, which returns a table."""

from .table import Table, table_from_file

__all__ = ["Table", "table_from_file"]
