"""Your own photographs: python -m jaxft.train folder --data FOLDER.

The recipe of PyTorch's transfer-learning tutorial, with the chapter's faster head. A ResNet18 at 128 pixels reached
0.860 ± 0.006 on ants and bees (244 photographs) and 0.817 ± 0.003 on hot dogs (200), five seeds each
(`benchmarks/recipes.py`, the conditions in benchmarks/RESULTS.md). None of its variants was better throughout:
`--freeze layer2` as good in half the time, but not with a ResNet50 (loss +0.027 ± 0.009, two seeds); `--freeze
backbone` more accurate (+0.016 ± 0.015, +0.032 ± 0.008) at twice the loss; head first, layer-wise rates, moving
averages and label smoothing no better, BatchNorm on stored statistics worse. So its values stay; `--recipe auto`
looks for better ones on the photographs themselves (+0.018 ± 0.014, +0.024 ± 0.006).
"""

from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig

FOLDER = Config(
    data="photos",
    model=ModelConfig(arch="resnet18", weights="torchvision"),
    images=ImageConfig(image_size=224),
    optim=OptimConfig(lr=1e-3, head_lr_mult=10.0, momentum=0.9, weight_decay=1e-4),
    epochs=5,
    batch_size=32,
)
