"""Traces, simplifies and squares outlines."""
