"""Dense CRF: refines probabilities by the colours around each pixel."""
