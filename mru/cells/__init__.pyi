# Written by `pytest tests/cells/test_stub.py` from the files of this folder, for type checkers and editors.

from mru.cells._base import REGISTRY as REGISTRY
from mru.cells._base import Cell as Cell
from mru.cells._base import Ramp as Ramp
from mru.cells._base import Scheduled as Scheduled
from mru.cells._base import StateParam as StateParam
from mru.cells._recurrent import RecurrentCell as RecurrentCell
from mru.cells._scan import ScanCell as ScanCell
from mru.cells.alpha_cmru import AlphaCMRU as AlphaCMRU
from mru.cells.bidirectional import Bidirectional as Bidirectional
from mru.cells.bmru import BMRU as BMRU
from mru.cells.brc import BRC as BRC
from mru.cells.cmru import CMRU as CMRU
from mru.cells.diagonal_gru import DiagonalGRU as DiagonalGRU
from mru.cells.diagonal_lstm import DiagonalLSTM as DiagonalLSTM
from mru.cells.dmu import DMU as DMU
from mru.cells.fq_bmru import FQBMRU as FQBMRU
from mru.cells.gru import GRU as GRU
from mru.cells.lru import LRU as LRU
from mru.cells.lstm import LSTM as LSTM
from mru.cells.mingru import MinGRU as MinGRU
from mru.cells.miru1 import MiRU1 as MiRU1
from mru.cells.miru2 import MiRU2 as MiRU2
from mru.cells.nbrc import NBRC as NBRC
from mru.cells.pmru import PMRU as PMRU
from mru.cells.rnn import RNN as RNN
from mru.cells.rnn_cell import RNNCell as RNNCell
from mru.cells.s5 import S5 as S5
from mru.cells.s5 import BidirectionalS5 as BidirectionalS5
from mru.operators.base import State as State

def get(name: str) -> type[Cell]: ...
def names() -> list[str]: ...
