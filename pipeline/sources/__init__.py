"""Data sources: a name, a TFDS directory or a folder of images becomes a prepared TFDS data set.

Public modules: cache_dir, cache_entries, examples, fingerprint, folder_store, image_folder, prepare_once,
resolve, shapes, split_names.
"""
