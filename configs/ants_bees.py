"""Ants and bees, the set of PyTorch's transfer-learning tutorial: python -m jaxft.train ants-bees."""

import dataclasses

from configs.folder import FOLDER

ANTS_BEES = dataclasses.replace(FOLDER, data="https://download.pytorch.org/tutorial/hymenoptera_data.zip")
