"""Preparing a data set: images in evenly sized shards, their statistics, schema, outliers and duplicates.

Public modules: contact_sheet, duplicates, near_duplicates, outliers, prepare, skew, statistics,
storage_format.
"""
