"""Objects: components split into single buildings.

Small holes are filled (`holes`), touching buildings are separated by a watershed from seeds or at
narrow necks (`separation`), and objects below the minimum area are dropped (`buildings`).
"""
