"""Reading of images: their bytes from disk or memory, decoding of a batch, and the cache of decoded images.

Public modules: augmenter, byte_source, cache, crop_plan, decoder, reader, serving, small_images, tf_data_options.
"""
