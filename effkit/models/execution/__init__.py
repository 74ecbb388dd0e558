"""How a linear layer with packed weights multiplies: the engines, and which of them a module runs on and why."""
