"""The door: the command line, one small file per verb. It imports every other package; nothing imports it."""

__version__ = "0.1.0"
