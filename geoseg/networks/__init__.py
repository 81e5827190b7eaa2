"""Networks, losses, model files and exports."""
