"""Recipes that nobody has to write: made from the data, the budget and the time that there is.

:mod:`litesnn.planning.maker` decides, :mod:`litesnn.planning.macro` knows which networks come into question,
:mod:`litesnn.planning.timing` measures what their steps take, and :mod:`litesnn.planning.mirror` whether images may be
mirrored.
"""
