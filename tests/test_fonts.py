import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont

from jaxft.fonts import charmap, families_for, letters_of, save_figure


def test_letters_are_looked_for_in_every_font():
    assert families_for("ants") == ["DejaVu Sans"]
    assert not any(name.startswith("Last Resort") for name in families_for("蚂🐜\ue123"))
    only_elsewhere = set(map(chr, charmap(findfont("STIXSizeOneSym")))) - set(letters_of("DejaVu Sans"))
    assert len(families_for(min(only_elsewhere))) > 1


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    save_figure(Figure(), path, 20)
    before = path.read_bytes()

    def fills_the_disk(self, scratch, **_):
        scratch.write_bytes(before[:10])
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fills_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_figure(Figure(), path, 20)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
