"""Separates components into single buildings."""
