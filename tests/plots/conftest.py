"""Fixtures of the tests of pictures."""

import pytest
from matplotlib.text import Text

from mru.plots import style


@pytest.fixture
def legible():
    """Draws a figure, with matplotlib's own settings as a notebook has them: can every text be read?"""

    def check(figure, most=(style.PAGE, 8)):
        figure.draw_without_rendering()
        width, height = figure.get_size_inches()
        assert width <= most[0]
        assert height <= most[1]
        texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
        assert texts
        for text in texts:
            assert text.get_fontsize() >= 7, text.get_text()
            assert "^" not in text.get_text(), "an exponent is smaller"
        return [text.get_text() for text in texts]

    return check
