"""What geoseg's processes tell each other by the environment."""

# Tells the workers of one machine apart, from 0, so that each takes a GPU of its own.
WORKER_VARIABLE = "GEOSEG_WORKER"
