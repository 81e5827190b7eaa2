"""How training comes by its batches: ground put together, what is drawn of it, who cuts it out.

`ground` lays tiles out in `blocks`, which windows are cut from; `sampling` says which come in which
step; `loaders` has them ready when the device asks.
"""
