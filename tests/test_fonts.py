from matplotlib.font_manager import findfont

from jaxft.fonts import charmap, families_for, letters_of


def test_letters_are_looked_for_in_every_font():
    assert families_for("ants") == ["DejaVu Sans"]
    assert not any(name.startswith("Last Resort") for name in families_for("蚂🐜\ue123"))
    only_elsewhere = set(map(chr, charmap(findfont("STIXSizeOneSym")))) - set(letters_of("DejaVu Sans"))
    assert len(families_for(min(only_elsewhere))) > 1
