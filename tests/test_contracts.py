"""The private names of TensorFlow, Keras and tf_keras that `backend` depends on, and what happens when one changes."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path
from types import ModuleType

import keras
import pytest
import tensorflow as tf

import tfprune_init
from tfprune_init.backend import compat, contracts, instance_methods
from tfprune_init.backend.contracts import CONTRACTS, KNOWN_VERSIONS, Contract, check, find_private, main, require
from tfprune_init.backend.thread_overrides import override_for_thread
from tfprune_init.errors import BackendError, PruningError

PACKAGE = Path(tfprune_init.__file__).parent


class Thing:
    """Stands in for a class of Keras."""

    __module__ = "standin"

    def __init__(self) -> None:
        self._state = 0

    def _walk(self, depth: int, order: str = "first") -> None:
        """Be there."""


def _reduce(value: float) -> float:
    return _scale(value)


def _scale(value: float) -> float:
    return value


@pytest.fixture(autouse=True)
def standin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("standin")
    vars(module).update(Thing=Thing, _reduce=_reduce, _scale=_scale, __version__="9.9.9")
    monkeypatch.setitem(sys.modules, "standin", module)
    return module


def test_all_hold() -> None:
    assert [(contract.key, contract.find_breach()) for contract in CONTRACTS if contract.find_breach()] == []


def test_each_has_a_key_of_its_own() -> None:
    assert len({contract.key for contract in CONTRACTS}) == len(CONTRACTS)
    assert {contract.package for contract in CONTRACTS} == set(KNOWN_VERSIONS)


def test_keys_in_the_code_are_in_the_table() -> None:
    """A key that is wrong would show only where it is used."""
    known = {contract.key for contract in CONTRACTS}
    for path in (PACKAGE / "backend").glob("*.py"):
        used = re.findall(r'"((?:keras|tf_keras|tensorflow) [A-Za-z_.0-9]+\.[A-Za-z_]+)"', path.read_text())
        assert set(used) <= known, path.name


GOOD = [
    Contract("standin:Thing", "_walk"),
    Contract("standin:Thing", "_walk", ("depth",)),
    Contract("standin:Thing", "_walk", ("depth", "order")),
    Contract("standin:Thing", "_state", set_in="__init__"),
    Contract("standin", "_scale", ("value",), read_in="standin:_reduce"),
]


@pytest.mark.parametrize("contract", GOOD, ids=lambda contract: contract.expected)
def test_what_is_as_expected_passes(contract: Contract) -> None:
    check(contract)


BROKEN = {
    "module gone": (Contract("standin.inner:Thing", "_walk"), "its place is gone .*standin.inner"),
    "class gone": (Contract("standin:Other", "_walk"), "its place is gone .*Other"),
    "name gone": (Contract("standin:Thing", "_roam"), "it is gone"),
    "parameter renamed": (Contract("standin:Thing", "_walk", ("levels",)), r"it takes \(depth, order\)"),
    "parameters swapped": (Contract("standin:Thing", "_walk", ("order", "depth")), r"it takes \(depth, order\)"),
    "parameter more": (Contract("standin:Thing", "_walk", ()), r"it takes \(depth, order\)"),
    "attribute renamed": (Contract("standin:Thing", "_status", set_in="__init__"), "__init__ does not use it"),
    "method gone": (Contract("standin:Thing", "_state", set_in="build"), "Thing.build is gone"),
    "not looked up": (Contract("standin", "_reduce", read_in="standin:_scale"), "standin:_scale does not use it"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_changed_is_named(kind: str) -> None:
    contract, breach = BROKEN[kind]
    with pytest.raises(BackendError, match=breach) as caught:
        check(contract)
    assert isinstance(caught.value, PruningError)
    said = str(caught.value)
    assert contract.name in said
    assert contract.owner in said
    assert "Received: standin 9.9.9; known to hold: standin none." in said


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing was checked so far."""
    monkeypatch.setattr(contracts, "_checked", set())
    return monkeypatch


def test_first_use_is_refused_where_keras_lost_a_name(unchecked: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    unchecked.delattr(keras.layers.Layer, "_flatten_layers")
    with pytest.raises(BackendError, match=f"_flatten_layers .* it is gone.*keras {keras.__version__}; known to hold"):
        compat.get_sublayers(model)
    unchecked.undo()
    assert compat.get_sublayers(model)


def test_first_use_is_refused_where_a_signature_changed(unchecked: pytest.MonkeyPatch) -> None:
    owner, name = find_private("tensorflow BaseResourceVariable._restore_from_tensors")
    unchecked.setattr(contracts, "_checked", set())
    unchecked.setattr(owner, name, lambda self, tensors, options: None)
    variable = tf.Variable(1.0)
    with pytest.raises(BackendError, match=r"_restore_from_tensors .* it takes \(tensors, options\)"):
        instance_methods.guard_values(variable, lambda value: value)
    assert not instance_methods.is_guarded(variable)


def test_an_override_is_refused_where_nobody_would_call_it(unchecked: pytest.MonkeyPatch) -> None:
    """A call site that imported the function by its name would go on with the original, and nobody would know."""
    owner, _ = find_private("keras loss.scale_loss_for_distribution")
    unchecked.setattr(contracts, "_checked", set())
    unchecked.setattr(owner, "reduce_values", _scale)
    with pytest.raises(BackendError, match="reduce_values does not use it"):
        override_for_thread("keras loss.scale_loss_for_distribution", lambda original, value: value)


def test_each_is_checked_once(unchecked: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    unchecked.setattr(contracts, "check", lambda contract: looked.append(contract.key))
    require("keras Layer._flatten_layers", "keras Loss._dtype")
    require("keras Loss._dtype")
    assert looked == ["keras Layer._flatten_layers", "keras Loss._dtype"]


def test_table_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(GOOD) == 0
    assert "5 of 5 contracts hold" in capsys.readouterr().out
    assert main([*GOOD, BROKEN["name gone"][0]]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"FAILS +standin Thing\._roam +it is gone", printed)
    assert f"keras {keras.__version__}" in printed
    assert "5 of 6 contracts hold" in printed


def test_the_next_minor_version_is_not_installed_unseen() -> None:
    """What is required ends before the first minor version that nobody has tried."""
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.with_name("setup.cfg"))
    required = setup["options"]["install_requires"].split()
    for package, known in KNOWN_VERSIONS.items():
        major, minor = map(int, known.split(".")[:2])
        line = next(line for line in required if re.match(rf"{package}[<>=]", line))
        assert line.endswith(f",<{major}.{minor + 1}"), line
