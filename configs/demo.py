"""The built-in demo: hot dog or not, a drawn world, no network: python -m jaxft.train."""

from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig

DEMO = Config(
    data="demo",
    model=ModelConfig(arch="resnet18", width=16, weights="demo"),
    images=ImageConfig(image_size=64),
    optim=OptimConfig(lr=2e-3, head_lr_mult=10.0, momentum=0.9, weight_decay=1e-4),
    epochs=15,
    batch_size=32,
)
