"""Compression of a spiking network that somebody else wrote: a torch module is given, its architecture stays."""
