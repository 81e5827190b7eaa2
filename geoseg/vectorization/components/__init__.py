"""Connected components of a raster that is read block by block.

Each block of rows is converted to runs of equal pixels (`runs`) and labelled; components that
continue across block borders are merged (`labelling`). Components above the minimum area are
selected (`selection`) and grouped into windows that are traced separately (`trace_windows`).
"""
