"""Publishing a dataset: every kind of file comes back bit by bit, every bad one is named, and nothing is half-published."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from assay import seal, shard
from assay.adapters.memory_blobs import BlobNet, MemoryBlobs
from assay.adapters.memory_keys import MemoryKeys
from assay.codec import encode
from assay.ids import Cid, PeerId
from assay.publish import manifest as manifests
from assay.publish import sealing, survey
from assay.publish.manifest import SHARES, BadManifest, Licence, Manifest, Owner
from assay.publish.readers import How
from assay.state import Tensors

KEYS = MemoryKeys(b"owner")
SERVICE = MemoryKeys(b"service")


class Seller:
    """An owner's folder, with its blobs and keys in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.blobs = folder, MemoryBlobs(BlobNet(), PeerId("owner"))
        self.told: list[sealing.Progress] = []

    def publish(self, root: Path, how: How, name: str = "set", each: int = 10, rotate: bool = False) -> Manifest:
        return self.seal(survey.survey(root, how), name, each, rotate)

    def seal(self, found: survey.Survey, name: str = "set", each: int = 10, rotate: bool = False) -> Manifest:
        wish = sealing.Wish(name, (Owner(account=KEYS.account, share=SHARES),), Licence(name="MIT"), "", each, rotate)
        service = sealing.Service(SERVICE.account, PeerId("service"), SERVICE.encryption_key)
        made, _ = asyncio.run(sealing.publish(found, wish, service, self.folder, self.blobs, KEYS, self.told.append))
        return made

    def read(self, made: Manifest) -> Tensors:
        """All records, as a worker that was given the keys reads them."""

        def key(key_id: Any) -> bytes:
            envelope = next(ref.sealed.envelope for ref in made.dataset.shards if ref.sealed.key_id == key_id)
            return SERVICE.unwrap(envelope, manifests.dataset_info(made.owner, manifests.shards_root(made.dataset)))

        records = shard.Records(made.dataset, lambda cid: asyncio.run(self.blobs.get(cid)), key)
        return records.read(range(made.dataset.records))


@pytest.fixture
def seller(tmp_path: Path) -> Seller:
    return Seller(tmp_path / "own")


def tensors(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(count, 3)).astype(np.float32), "y": rng.integers(0, 9, count)}


# ---- kinds -----------------------------------------------------------------------------------------------------------------


def test_tensors_of_every_form_come_back(seller: Seller, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    root, parts = tmp_path / "t", [tensors(12, 0), tensors(25, 1)]
    root.mkdir()
    np.savez(root / "a.npz", **parts[0])
    save_file(parts[1], root / "b.safetensors", metadata={"made": "elsewhere"})
    (root / ".hidden.npz").write_bytes(b"not looked at")
    made = seller.publish(root, How("tensors"))
    assert [ref.records for ref in made.dataset.shards] == [10, 2, 10, 10, 5]  # a file that fills a shard ends one
    out = seller.read(made)
    for name in ("x", "y"):
        assert np.array_equal(out[name], np.concatenate([part[name] for part in parts]))
    np.save(tmp_path / "lone.npy", np.arange(6, dtype=np.float64).reshape(3, 2))
    out = seller.read(seller.publish(tmp_path / "lone.npy", How("tensors"), "lone"))
    assert out["x"].dtype == np.float32
    assert out["x"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_texts_are_windows_of_their_bytes(seller: Seller, tmp_path: Path) -> None:
    text = "Wo die Ähre steht, da war der Acker." * 3
    (tmp_path / "a.txt").write_text(text)
    out = seller.read(seller.publish(tmp_path / "a.txt", How("text", context=8)))["tokens"]
    raw = text.encode()
    assert out.shape == ((len(raw) - 1) // 8, 9)
    assert bytes(out[0]) + b"".join(bytes(row[1:]) for row in out[1:]) == raw[: 8 * len(out) + 1]


def test_images_in_folders_leave_everything_but_their_pixels(seller: Seller, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra `data` is not installed")
    rng, root = np.random.default_rng(1), tmp_path / "pictures"
    pixels = rng.integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)
    for i, folder in enumerate(["dogs", "cats", "dogs"]):
        (root / folder).mkdir(parents=True, exist_ok=True)
        exif = image.Exif()
        exif[0x010E] = "taken at Jane's place"
        image.fromarray(pixels[i]).save(root / folder / f"{i}.png", exif=exif)
    assert survey.choose(root) == "images"
    how = How("images", classes=survey.classes(root))
    made = seller.publish(root, how)
    out = seller.read(made)
    assert made.labels == ("cats", "dogs")
    assert np.array_equal(out["image"], pixels[[1, 0, 2]])
    assert out["label"].tolist() == [0, 1, 1]
    assert not any(b"Jane" in data for data in seller.blobs._blobs.values())
    grey = seller.read(seller.publish(root, how._replace(channels=1, size=(4, 4)), "grey"))
    assert grey["image"].shape == (3, 4, 4, 1)
    image.fromarray(pixels[0, :4]).save(root / "cats" / "small.png")
    found = survey.survey(root, how)
    assert [file.name for file in found.bad] == ["dogs/0.png", "dogs/2.png"] or "small.png" in found.bad[0].name
    assert "image u8[" in found.bad[0].why


def test_tables_take_numbers_and_listed_texts(seller: Seller, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    from pyarrow import parquet

    (tmp_path / "a.csv").write_text("age,sex,t4,sick\n30,F,1.5,0\n44,M,,1\n")
    parquet.write_table(pa.table({"age": [50.5], "sex": ["F"], "t4": [2.0], "sick": [1]}), tmp_path / "b.parquet")
    how = How("table", label="sick", categories=(("sex", ("M", "F")),), missing=-1.0)
    made = seller.publish(tmp_path, how)
    out = seller.read(made)
    assert made.columns == ("age", "sex", "t4")
    assert out["features"].tolist() == [[30, 1, 1.5], [44, 0, -1], [50.5, 1, 2]]
    assert out["label"].tolist() == [0, 1, 1]
    one = seller.read(seller.publish(tmp_path, How("table", columns=("age", "sick")), "columns"))
    assert (one["age"].dtype, one["sick"].dtype) == (np.float32, np.int64)  # integers here, floats there
    for changed, why in [
        (how._replace(missing=None), "column 't4' is empty in row 1: --missing VALUE"),
        (how._replace(categories=()), "column 'sex' holds string, not numbers: list its values with --category sex=A,B"),
        (how._replace(categories=(("sex", ("F",)),)), "column 'sex' has a value that --category sex=… does not list in row 1"),
        (how._replace(columns=("height",)), "it has no column 'height'; it has age, sex, t4, sick"),
    ]:
        assert any(why in file.why for file in survey_of(tmp_path, changed))


def survey_of(root: Path, how: How) -> list[survey.File]:
    try:
        return list(survey.survey(root, how).bad)
    except survey.NoDataset as error:
        return [survey.File("", 0, 0, why=str(error))]


# ---- bad files -------------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/should-never-exist",)


def bad_files(folder: Path) -> dict[str, str]:
    """Files that must be named, with a part of why."""
    good = tensors(4)
    np.savez(folder / "objects.npz", x=np.array([Evil()], dtype=object))
    (folder / "pickle.npy").write_bytes(pickle.dumps(Evil()))
    np.savez(folder / "nan.npz", **{**good, "x": np.full((4, 3), np.nan, np.float32)})
    np.savez(folder / "uneven.npz", x=good["x"], y=good["y"][:3])
    np.savez(folder / "other.npz", x=good["x"].astype(np.uint8), y=good["y"])
    np.savez(folder / "complex.npz", x=good["x"].astype(np.complex64), y=good["y"])
    torn = (folder / "uneven.npz").read_bytes()
    (folder / "torn.npz").write_bytes(torn[:-40])
    (folder / "torn.safetensors").write_bytes(b"\xff" * 64)
    (folder / "empty.npz").write_bytes(b"")
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + (
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"))  # fmt: skip
    outside = folder.parent / "outside.npz"
    np.savez(outside, **tensors(2, 9))
    (folder / "link.npz").symlink_to(outside)
    return {
        "objects.npz": "no array that NumPy reads: Object arrays cannot be loaded", "pickle.npy": "no array that NumPy reads",
        "nan.npz": "'x' of record 0 is not a finite number", "uneven.npz": "same number of records",
        "other.npz": "where those before it hold x f32[3], y i64[]", "complex.npz": "dtype complex64", "torn.npz": "torn",
        "torn.safetensors": "no safetensors", "empty.npz": "torn", "bomb.npz": "its header claims float32[1099511627776]",
        "link.npz": "outside of what is published",
    }  # fmt: skip


def test_bad_files_are_named_with_the_reason(seller: Seller, tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    np.savez(root / "a.npz", **tensors(12))
    expected = bad_files(root)
    found = survey.survey(root, How("tensors"))
    told = {file.name: file.why for file in found.bad}
    assert set(told) == set(expected)
    for name, part in expected.items():
        assert part in told[name], (name, told[name])
    assert not Path("/tmp/should-never-exist").exists()
    made = seller.seal(found)
    assert np.array_equal(seller.read(made)["x"], tensors(12)["x"])
    assert (made.counts.used, made.counts.skipped) == (1, len(expected))
    for name, data in {"no.txt": b"\xff\xfe\x00 not text", "short.txt": b"abc"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(survey.NoDataset, match=r"no UTF-8 text: byte 0 is 0xff|not one window"):
            survey.survey(tmp_path / name, How("text"))


def test_several_kinds_want_a_decision(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 999)
    np.savez(tmp_path / "a.npz", **tensors(1))
    with pytest.raises(survey.NoDataset, match=r"several kinds \(tensors, text\).*--kind tensors"):
        survey.choose(tmp_path)
    assert survey.choose(tmp_path, "text") == "text"
    with pytest.raises(survey.NoDataset, match=r"no file that can be read \(\.csv, \.parquet\)"):
        survey.choose(tmp_path, "table")


# ---- nothing twice, nothing half -------------------------------------------------------------------------------------------


class Failing(MemoryBlobs):
    """A store whose disk is full after some blobs."""

    left = 3

    async def put(self, data: bytes) -> Cid:
        if self.left == 0:
            raise OSError("the disk is full")
        self.left -= 1
        return await super().put(data)


def test_an_interrupted_run_leaves_no_dataset_and_is_gone_on_with(seller: Seller, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **tensors(57))
    seller.blobs = Failing(BlobNet(), PeerId("owner"))
    with pytest.raises(OSError, match="full"):
        seller.publish(tmp_path / "a.npz", How("tensors"))
    assert sealing.records(seller.folder) == []
    with (seller.folder / "sealed.jsonl").open("ab") as file:
        file.write(b'\n{"content":"torn')  # as a power cut leaves it
    seller.blobs.left = 99
    made = seller.publish(tmp_path / "a.npz", How("tensors"))
    assert (seller.told[-1].shards, seller.told[-1].fresh) == (6, 3)
    assert np.array_equal(seller.read(made)["x"], tensors(57)["x"])
    (record,) = sealing.records(seller.folder)
    assert manifests.read(asyncio.run(seller.blobs.get(record.manifest))) == made


def test_the_same_content_is_sealed_once(seller: Seller, tmp_path: Path) -> None:
    first, second = tmp_path / "v1", tmp_path / "v2"
    for root in (first, second):
        root.mkdir()
        for i in range(3):
            np.savez(root / f"{i}.npz", **tensors(13, i))
    np.savez(second / "+new.npz", **tensors(7, 50))  # a new file before all others
    (second / "again.npz").write_bytes((second / "1.npz").read_bytes())
    one = seller.publish(first, How("tensors"), "v1")
    fresh = seller.told[-1].fresh
    found = survey.survey(second, How("tensors"))
    assert found.duplicates == (("again.npz", "1.npz"),)
    two = seller.seal(found, "v2")
    assert fresh == 6
    assert seller.told[-1].fresh == 1  # the new file's; the other shards are those of the first dataset
    assert {ref.sealed.cid for ref in one.dataset.shards} < {ref.sealed.cid for ref in two.dataset.shards}
    envelopes = [{ref.sealed.envelope for ref in made.dataset.shards} for made in (one, two)]
    assert not envelopes[0] & envelopes[1]
    assert np.array_equal(seller.read(two)["x"], np.concatenate([tensors(7, 50)["x"], *(tensors(13, i)["x"] for i in range(3))]))


def test_rotation_gives_every_shard_a_new_key(seller: Seller, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **tensors(30))
    old, new = (seller.publish(tmp_path / "a.npz", How("tensors"), rotate=rotate) for rotate in (False, True))
    for part in ("key_id", "cid"):
        assert not {getattr(ref.sealed, part) for ref in old.dataset.shards} & {getattr(ref.sealed, part) for ref in new.dataset.shards}
    assert manifests.shards_root(old.dataset) != manifests.shards_root(new.dataset)  # salts follow from keys: licences of the old are none of it
    assert np.array_equal(seller.read(old)["x"], seller.read(new)["x"])
    again = seller.publish(tmp_path / "a.npz", How("tensors"))
    assert [ref.sealed.cid for ref in again.dataset.shards] == [ref.sealed.cid for ref in new.dataset.shards]  # what follows keeps the new keys


def test_a_file_that_changes_meanwhile_is_noticed(seller: Seller, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **tensors(12))
    found = survey.survey(tmp_path / "a.npz", How("tensors"))
    np.savez(tmp_path / "a.npz", **tensors(13))
    with pytest.raises(survey.NoDataset, match=r"a\.npz has changed while it was being published"):
        seller.seal(found)
    assert sealing.records(seller.folder) == []


def test_what_has_been_looked_at_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", **tensors(12))
    looked: list[Path] = []
    read = survey.read
    monkeypatch.setattr(survey, "read", lambda path, how: looked.append(path) or read(path, how))
    for how, times in [(How("tensors"), 1), (How("tensors"), 1), (How("tensors", context=9), 2)]:
        memory = survey.Memory(tmp_path / "memory", tmp_path / "a.npz", how)
        assert survey.survey(tmp_path / "a.npz", how, memory).records == 12
        memory.close()
        assert len(looked) == times
    os.utime(tmp_path / "a.npz", ns=(1, 1))
    memory = survey.Memory(tmp_path / "memory", tmp_path / "a.npz", How("tensors"))
    survey.survey(tmp_path / "a.npz", How("tensors"), memory)
    memory.close()
    assert len(looked) == 3


# ---- the manifest ----------------------------------------------------------------------------------------------------------


def test_an_envelope_opens_for_its_dataset_alone(seller: Seller, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **tensors(12))
    np.savez(tmp_path / "b.npz", **tensors(12, 1))
    one, two = (seller.publish(tmp_path / f"{name}.npz", How("tensors"), name) for name in "ab")
    envelope = one.dataset.shards[0].sealed.envelope
    info = manifests.dataset_info(one.owner, manifests.shards_root(one.dataset))
    assert seal.key_id(SERVICE.unwrap(envelope, info)) == one.dataset.shards[0].sealed.key_id
    for wrong in (
        manifests.dataset_info(one.owner, manifests.shards_root(two.dataset)),
        manifests.dataset_info(SERVICE.account, manifests.shards_root(one.dataset)),
        b"assay/envelope/1" + bytes.fromhex(one.owner[2:]),
    ):
        with pytest.raises(ValueError, match="does not open"):
            SERVICE.unwrap(envelope, wrong)


def test_a_manifest_is_read_strictly(seller: Seller, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **tensors(12))
    made = seller.publish(tmp_path / "a.npz", How("tensors"))
    assert manifests.read(encode(made)) == made
    assert b"a.npz" not in encode(made)
    owner = made.owners[0]
    for changes, why in [
        ({"owners": ()}, "1 to 32 different owners"),
        ({"owners": (owner, owner)}, "different owners"),
        ({"owners": (msgspec.structs.replace(owner, share=SHARES - 1),)}, "shares are 9999"),
        ({"format": "assay-data/9"}, "reads assay-data/1"),
        ({"key_service_key": b"short"}, "32 bytes"),
        ({"dataset": msgspec.structs.replace(made.dataset, shards=())}, "no shards"),
        ({"licence": msgspec.structs.replace(made.licence, purposes=("war",))}, "no purpose"),
    ]:
        with pytest.raises(BadManifest, match=why):
            manifests.read(encode(msgspec.structs.replace(made, **changes)))
    for data in (b"", b"{}", encode(made)[:-1], encode(made) + b" "):
        with pytest.raises(BadManifest):
            manifests.read(data)


# ---- the command -----------------------------------------------------------------------------------------------------------


def test_the_command_publishes_lists_shows_and_verifies(tmp_path: Path) -> None:
    from assay.cli.app import app

    root, own = tmp_path / "set", tmp_path / "own"
    root.mkdir()
    np.savez(root / "a.npz", **tensors(30))
    (root / "torn.npz").write_bytes(b"PK")

    def call(*words: str, code: int = 0) -> list[dict[str, Any]]:
        done = CliRunner().invoke(app, ["data", *words, "--data", str(own), "--json"], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    publish = ("publish", str(root), "--price", "0.25", "--purpose", "research", "--shard-records", "8")
    told = call(*publish, code=1)
    assert told[-1]["error"] == "1 of 2 files cannot be used, so nothing was published"
    assert any(line.get("topic") == "bad" and line["file"] == "torn.npz" for line in told)
    assert call("list") == [{"datasets": []}]
    done = call(*publish, "--bad", "skip", "--owner", f"0x{'11' * 20}=30")[-1]
    assert (done["records"], done["shards"], done["fresh"]) == (30, 4, 4)
    (row,) = call("list")[0]["datasets"]
    assert (row["name"], row["price"], row["purposes"]) == ("set", 250_000, ["research"])
    shown = call("show", "set")[0]["manifest"]
    assert [owner["share"] for owner in shown["owners"]] == [7000, 3000]
    assert call("verify", "set") == [{"name": "set", "good": True, "records": 30, "wrong": []}]
    victim = next(path for path in (own / "blobs" / "blocks").rglob("bafk*") if path.name == shown["dataset"]["shards"][0]["sealed"]["cid"])
    victim.write_bytes(b"\0" + victim.read_bytes()[1:])
    (found,) = call("verify", "set", code=1)
    assert (found["records"], len(found["wrong"])) == (22, 1)
    assert call("publish", str(tmp_path / "nowhere"), code=2)[-1]["error"].startswith("there is no")
    assert call("publish", str(root), "--purpose", "war", code=2)
    assert call("publish", str(root), "--bad", "skip", "--owner", "0x11=5", code=2)
