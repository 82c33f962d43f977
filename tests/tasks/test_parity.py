import dataclasses

import numpy as np

import tasks

Parity = tasks.get("parity")


def test_targets_say_whether_the_ones_so_far_are_odd():
    batch = Parity(length=70).examples("train", np.arange(8))
    assert set(np.unique(batch["inputs"])) == {0, 1}
    for bits, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
        odd = False
        for bit, target in zip(bits, targets):
            odd ^= bit == 1
            assert target == odd


def test_bits_are_fair_and_the_modulus_is_no_option():
    bits = Parity().examples("test", np.arange(1000))["inputs"]
    assert abs(bits.mean() - 0.5) < 2.5 / np.sqrt(bits.size)
    assert {field.name for field in dataclasses.fields(Parity)} == {"seed", "retention", "held_out", "length"}
    assert (Parity().vocabulary, Parity().outputs, Parity().chance) == (2, 2, 0.5)
