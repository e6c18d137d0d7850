"""Data sets in, tensors out: where inputs come from, how they are split, how they are augmented."""
