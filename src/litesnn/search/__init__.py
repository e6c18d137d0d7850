"""The joint search, the derivation of a genotype from it, and the baselines it is compared with."""
