"""Your own photographs: python -m jaxft.train folder --data FOLDER."""

from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig

FOLDER = Config(
    data="photos",
    model=ModelConfig(arch="resnet18", weights="torchvision"),
    images=ImageConfig(image_size=224),
    optim=OptimConfig(lr=1e-3, head_lr_mult=10.0, momentum=0.9, weight_decay=1e-4),
    epochs=5,
    batch_size=32,
)
