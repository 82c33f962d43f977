"""Pictures: of how a run learned, of what its model can, and of what happens inside. The project draws here only.

Every function takes arrays or plain data and returns a `matplotlib.figure.Figure`; `style.save` writes one to a folder.
No figure is known to pyplot, so none has to be closed, and a notebook shows one that a cell ends with, once it has said
`%matplotlib inline`. matplotlib comes with the extra `train`, so `import mru` does not import this package.
"""

from mru.plots import classification, curves, states, style

__all__ = ["classification", "curves", "states", "style"]
