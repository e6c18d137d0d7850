"""From a trained network to bytes that run: the packed file, its plain meaning, and the exporters."""
