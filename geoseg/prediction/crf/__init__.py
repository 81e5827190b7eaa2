"""A dense CRF: probabilities refined by the colours around each pixel."""
