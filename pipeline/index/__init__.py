"""The index of a data set (one row per image), statistics of its pixels, and the order in which its rows are read.

Public modules: batch_draws, build_index, features, index, measure_images, pixel_sums, replica_shard, shuffle,
split_rows, storage, tfrecord.
"""
