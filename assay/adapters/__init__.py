"""The outside behind ports: chain, blobs, peers, keys, journal, engine.

eth_keyfile imports py_ecc's BLS12-381 for EIP-2335 keystores, of which there are none here; its tables are computed when it is
imported, which would be a fourth of every node's start. So it is imported when something of it is used.

libp2p imports httpx, with rich and pygments behind it, to ask a certificate authority for names that nodes here do not have: five megabytes of
every node. It is imported when it is used, too.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

CURVE_ORDER = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
"""Of BLS12-381 (RFC 9380, section 8.8); eth_keyfile wants it at once."""


class _Later:
    """Stands for `<module>.<name>` until an attribute of it is wanted."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, attribute: str) -> Any:
        for module in LATER:
            if isinstance(sys.modules.get(module), _LaterModule):
                del sys.modules[module]
        return getattr(getattr(importlib.import_module(self._module), self._name), attribute)


class _LaterModule(ModuleType):
    curve_order = CURVE_ORDER

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(self.__name__, name)


LATER = ("py_ecc.bls", "py_ecc.bls12_381")
for _name in LATER:
    sys.modules.setdefault(_name, _LaterModule(_name))


class _WhenUsed(ModuleType):
    """Stands for a module until an attribute of it is wanted, and for whoever has imported it before that, afterwards."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__version__"):  # who only looks what lies where wants nothing of it
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


sys.modules.setdefault("httpx", _WhenUsed("httpx"))
