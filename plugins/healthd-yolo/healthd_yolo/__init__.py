"""YOLO cameras and models for healthd.

Importing this package loads neither OpenVINO nor torch: an engine is imported when the first model needs it.
"""

__version__ = "0.1.0"
