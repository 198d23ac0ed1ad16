"""The input pipeline on tf.data: from images on disk to batches in memory. It knows nothing of networks.

Public modules: build, config, dataset, errors, options, service.
"""
