"""Outputs, locks, journals, workers and progress of long-running jobs."""
