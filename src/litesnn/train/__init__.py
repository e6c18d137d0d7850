"""Training of the derived network from scratch, and its evaluation."""
