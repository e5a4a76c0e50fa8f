import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.paths import by_name, count_by_label, label_tree

TREE = {"layer1_0": {"conv1": {"kernel": np.zeros((3, 2))}}, "fc": {"bias": np.zeros(5)}}


def test_names():
    assert list(by_name(TREE)) == ["fc/bias", "layer1_0/conv1/kernel"]


def test_the_first_rule_that_matches_counts():
    labels = label_tree(TREE, [("fc/.*", "head"), (".*", "body")])
    assert by_name(labels) == {"fc/bias": "head", "layer1_0/conv1/kernel": "body"}
    assert count_by_label(TREE, labels) == {"head": 5, "body": 6}


def test_every_parameter_needs_a_rule():
    with pytest.raises(UserError, match=r"No rule matches 'layer1_0/conv1/kernel'"):
        label_tree(TREE, [("fc/.*", "head")])


def test_every_rule_needs_a_parameter():
    with pytest.raises(UserError, match=r"Rules matched nothing: stm/\.\*"):
        label_tree(TREE, [("stm/.*", "frozen"), (".*", "body")])
