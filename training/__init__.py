"""Training of the generator, the published way: ``ecea-train``.

Only training needs this package; filling scenes and exporting checkpoints do not.
"""
