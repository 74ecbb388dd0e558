"""What a model would take, and cost, on a device: from what is published of it, or from its calibration."""
