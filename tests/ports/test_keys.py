"""One suite over a node's keys, real and simulated, and what only files can suffer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from assay import record_keys, seal
from assay.adapters import keys as real
from assay.adapters.memory_keys import MemoryKeys
from assay.ids import Address, Digest, address
from assay.job import envelope_info
from assay.ports import Keys
from assay.record_keys import RecordKeys

KEY = bytes(range(32))


@pytest.fixture(params=["files", "memory"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Keys, Keys]:
    if request.param == "memory":
        return MemoryKeys(b"one"), MemoryKeys(b"two")
    return real.create(tmp_path / "one"), real.create(tmp_path / "two")


def test_only_the_recipient_unwraps_and_only_for_the_same_purpose(pair: tuple[Keys, Keys]) -> None:
    one, two = pair
    wrapped = one.wrap(KEY, two.encryption_key, b"purpose")
    assert len(wrapped) == 80
    assert two.unwrap(wrapped, b"purpose") == KEY
    assert KEY not in wrapped
    with pytest.raises(ValueError, match="does not open"):
        one.unwrap(wrapped, b"purpose")
    with pytest.raises(ValueError, match="does not open"):
        two.unwrap(wrapped)
    for bad in (b"", wrapped[:-1], bytes([wrapped[0] ^ 1]) + wrapped[1:], wrapped[:40] + bytes([wrapped[40] ^ 1]) + wrapped[41:]):
        with pytest.raises(ValueError, match="does not open"):
            two.unwrap(bad, b"purpose")
    with pytest.raises(ValueError, match="key"):
        one.wrap(KEY, b"short")


def test_an_envelope_copied_into_anothers_job_does_not_open(pair: tuple[Keys, Keys]) -> None:
    client, service = pair
    thief = Address("0x" + "77" * 20)
    envelope = client.wrap(KEY, service.encryption_key, envelope_info(client.account))
    assert service.unwrap(envelope, envelope_info(client.account)) == KEY
    with pytest.raises(ValueError, match="does not open"):
        service.unwrap(envelope, envelope_info(thief))


def test_ring(pair: tuple[Keys, Keys]) -> None:
    one, two = pair
    key_id = one.store(KEY)
    assert key_id == seal.key_id(KEY)
    assert one.load(key_id) == KEY
    assert one.store(KEY) == key_id
    with pytest.raises(KeyError):
        two.load(key_id)
    with pytest.raises(KeyError):
        one.load(Digest(bytes(32)))


def test_keys_of_records_are_kept_beside_each_other_and_a_shards_own_key_is_worth_more(pair: tuple[Keys, Keys]) -> None:
    one, two = pair
    key_id = seal.key_id(KEY)
    one.store_records(key_id, record_keys.select(KEY, (5, 1)))
    one.store_records(key_id, RecordKeys({5: b"5" * 32, 7: b"7" * 32}))
    assert one.shard_key(key_id) == RecordKeys({1: record_keys.derive(KEY, 1), 5: b"5" * 32, 7: b"7" * 32})
    for missing in (lambda: one.load(key_id), lambda: two.shard_key(key_id), lambda: one.shard_key(Digest(bytes(32)))):
        with pytest.raises(KeyError):
            missing()
    one.store(KEY)
    assert one.shard_key(key_id) == KEY
    bundle = record_keys.encode(record_keys.select(KEY, range(100)))
    wrapped = one.wrap(bundle, two.encryption_key)
    assert len(wrapped) == len(bundle) + 48
    assert two.unwrap(wrapped) == bundle


def test_accounts_are_well_formed_and_differ(pair: tuple[Keys, Keys]) -> None:
    one, two = pair
    assert address(one.account) == one.account != two.account
    assert len(one.encryption_key) == 32
    assert one.encryption_key != two.encryption_key


def test_simulated_keys_follow_from_their_seed() -> None:
    assert MemoryKeys(b"a").account == MemoryKeys(b"a").account
    assert MemoryKeys(b"a").wrap(KEY, bytes(32)) == MemoryKeys(b"a").wrap(KEY, bytes(32))
    assert MemoryKeys(b"a").encryption_key != MemoryKeys(b"b").encryption_key


# ---- files ---------------------------------------------------------------------------------------------------------------


def test_the_same_node_comes_back(tmp_path: Path) -> None:
    made = real.create(tmp_path)
    key_id = made.store(KEY)
    made.store_records(Digest(bytes(32)), record_keys.select(KEY, (1, 2)))
    wrapped = made.wrap(KEY, made.encryption_key)
    made.close()
    back = real.open_keys(tmp_path)
    assert (back.account, back.encryption_key, back.peer_seed) == (made.account, made.encryption_key, made.peer_seed)
    assert back.signer.address.lower() == back.account
    assert back.load(key_id) == KEY
    assert back.shard_key(Digest(bytes(32))) == record_keys.select(KEY, (1, 2))
    assert back.unwrap(wrapped) == KEY
    assert len(back.peer_seed) == 32
    assert len({back.peer_seed, back.encryption_key, bytes(back.signer.key)}) == 3


def test_files_are_private_and_hold_no_secret_in_the_clear(tmp_path: Path) -> None:
    keys = real.create(tmp_path)
    keys.store(KEY)
    keys.store_records(Digest(bytes(32)), record_keys.select(KEY, (1, 2)))
    home = tmp_path / "keys"
    assert home.stat().st_mode & 0o777 == 0o700
    assert {f.name: f.stat().st_mode & 0o777 for f in home.iterdir()} == dict.fromkeys((f.name for f in home.iterdir()), 0o600)
    hidden = [KEY, record_keys.derive(KEY, 1), bytes(keys.signer.key), keys.signer.key.hex().encode(), keys.peer_seed, keys._private]
    for file in home.iterdir():
        assert not any(secret in file.read_bytes() for secret in hidden), file.name


def test_nothing_secret_in_text(tmp_path: Path) -> None:
    keys = real.create(tmp_path)
    secrets = [bytes(keys.signer.key).hex(), keys.peer_seed.hex(), keys._private.hex()]
    for text in (repr(keys), str(keys), repr(MemoryKeys(b"x"))):
        assert not any(secret in text for secret in secrets)
    assert keys.account in repr(keys)


def test_an_existing_account_is_not_overwritten(tmp_path: Path) -> None:
    account = real.create(tmp_path).account
    with pytest.raises(real.KeyTrouble, match="holds an account already"):
        real.create(tmp_path)
    assert real.open_keys(tmp_path).account == account


def test_a_known_account_is_taken_over_and_its_keyfile_is_standard(tmp_path: Path) -> None:
    from eth_account import Account

    keys = real.create(tmp_path, private_key=bytes([1]) * 32)
    assert keys.account == Account.from_key(bytes([1]) * 32).address.lower()
    keyfile = json.loads((tmp_path / "keys" / "account.json").read_text())
    assert (keyfile["version"], keyfile["crypto"]["kdf"]) == (3, "pbkdf2")
    assert bytes(Account.decrypt(keyfile, (tmp_path / "keys" / "password").read_text())) == bytes([1]) * 32


def test_where_the_password_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "SLOW_ITERATIONS", 1000)
    account = real.create(tmp_path, password="correct horse").account
    assert not (tmp_path / "keys" / "password").exists()
    with pytest.raises(real.KeyTrouble, match="needs its password: set ASSAY_PASSWORD"):
        real.open_keys(tmp_path)
    with pytest.raises(real.KeyTrouble, match="does not open with this password"):
        real.open_keys(tmp_path, password="wrong")
    assert real.open_keys(tmp_path, prompt=lambda text: "correct horse" if "Password" in text else "").account == account
    monkeypatch.setenv("ASSAY_PASSWORD", "correct horse")
    assert real.open_keys(tmp_path).account == account


def test_what_others_may_read_is_not_trusted(tmp_path: Path) -> None:
    real.create(tmp_path)
    os.chmod(tmp_path / "keys" / "password", 0o644)
    with pytest.raises(real.KeyTrouble, match=r"others may read .*password .mode 644.*chmod 600"):
        real.open_keys(tmp_path)
    os.chmod(tmp_path / "keys", 0o755)
    with pytest.raises(real.KeyTrouble, match="chmod 700"):
        real.open_keys(tmp_path)


def test_no_account_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(real.KeyTrouble, match="assay keys new --data"):
        real.open_keys(tmp_path)


def test_damage_is_said(tmp_path: Path) -> None:
    one = real.create(tmp_path / "one")
    two = real.create(tmp_path / "two")
    key_id = one.store(KEY)
    one._ring.execute("update ring set sealed = ?", (bytes(60),))
    with pytest.raises(KeyError, match="is damaged"):
        one.load(key_id)
    sealed = tmp_path / "one" / "keys" / "node.sealed"
    good = sealed.read_bytes()
    sealed.write_bytes((tmp_path / "two" / "keys" / "node.sealed").read_bytes())
    with pytest.raises(real.KeyTrouble, match="belongs to another account"):
        real.open_keys(tmp_path / "one")
    sealed.write_bytes(good[:-1])
    with pytest.raises(real.KeyTrouble, match=r"node\.sealed is damaged"):
        real.open_keys(tmp_path / "one")
    sealed.write_bytes(good)
    (tmp_path / "one" / "keys" / "account.json").write_text("{")
    with pytest.raises(real.KeyTrouble, match=r"account\.json is damaged"):
        real.open_keys(tmp_path / "one")
    assert two.account != one.account


@pytest.mark.parametrize("left", [["password"], ["password", "account.json"]])
def test_a_kill_while_the_keys_are_made_leaves_a_node_that_opens(tmp_path: Path, left: list[str]) -> None:
    real.create(tmp_path).close()
    for file in (tmp_path / "keys").iterdir():
        if file.name not in left:
            file.unlink()
    keys = real.open_keys(tmp_path) if "account.json" in left else real.create(tmp_path)
    assert keys.load(keys.store(KEY)) == KEY
    assert real.open_keys(tmp_path).peer_seed == keys.peer_seed
