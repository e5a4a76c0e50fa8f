"""How the demo's pretrained weights were made: python -m jaxft.train demo-source."""

from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig

DEMO_SOURCE = Config(
    data="demo-source",
    model=ModelConfig(arch="resnet18", width=16, weights="none"),
    images=ImageConfig(image_size=64),
    optim=OptimConfig(lr=2e-2, head_lr_mult=1.0, momentum=0.9, weight_decay=5e-4),
    epochs=16,
    batch_size=64,
)
