"""The public functions of geoseg, one module per verb."""
