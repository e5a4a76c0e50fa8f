"""The chapter's own recipe on the chapter's own photographs: python -m jaxft.train hotdog.

The chapter back-propagates the sum of the losses over a batch of 128; jaxft the mean. Its learning rate of 5e-5 is
6.4e-3 here (times 128), its weight decay of 1e-3 is 7.8125e-6 (over 128). Training from scratch, the chapter's second
arm, takes ten times the rate for the whole network: --weights none --lr 6.4e-2 --head-lr-mult 1.

Source: d2l.ai, section 14.2 "Fine-Tuning".
"""

from jaxft.config import Config, ImageConfig, ModelConfig, OptimConfig

CHAPTER_BATCH = 128

HOTDOG = Config(
    data="http://d2l-data.s3-accelerate.amazonaws.com/hotdog.zip#sha1=fba480ffa8aa7e0febbb511d181409f899b9baa5",
    model=ModelConfig(arch="resnet18", weights="torchvision"),
    images=ImageConfig(image_size=224, eval_resize="squash"),
    optim=OptimConfig(lr=5e-5 * CHAPTER_BATCH, head_lr_mult=10.0, momentum=0.0, weight_decay=1e-3 / CHAPTER_BATCH),
    epochs=5,
    batch_size=CHAPTER_BATCH,
)
