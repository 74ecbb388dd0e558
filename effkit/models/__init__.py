"""What is compressed: loading, saving, stored bytes, text."""

from effkit.hardware import preflight as preflight
