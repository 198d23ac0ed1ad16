"""Export of a trained model as a SavedModel that takes encoded images, also from TFX's Trainer component.

Public modules: export, tfx.
"""
