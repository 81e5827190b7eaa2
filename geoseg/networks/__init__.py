"""Networks, losses, model files, devices and exports."""
