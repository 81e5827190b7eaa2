"""Data loading: mosaic, sampling, batching.

`mosaic` assembles the tiles of a split in the blocks of `block_store`, from which windows are cut;
`sampling` chooses the tiles of each step; `loaders` prepares batches ahead of the device.
"""
