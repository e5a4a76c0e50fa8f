"""Fine-tune torchvision's ImageNet ResNets on your own photographs, in pure-functional JAX."""

__version__ = "0.1.0"
