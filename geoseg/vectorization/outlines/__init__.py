"""Outlines of objects.

Rings are traced along pixel edges (`rings`), moved to where the probability crosses the threshold
and simplified (`tracing`), and made right-angled (`wall_graph`, `right_angles`). The outlines of a
component stay inside its zone, so that components never overlap (`zones`). `shaping` runs these
steps for the components of a window.
"""
