"""Write a shard, see `storage.shards`: whole or not at all, and not again if it is there."""

import hashlib
import heapq
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from audio.parallel import in_parallel
from audio.reading import BadAudio, read_samples
from corpora.utterance import Utterance
from storage.feature_store import IMAGES, FeatureStore
from storage.shards import CERTIFICATE, END, INDEX, META, VERSION, Shard, image_sums, read_index
from system.errors import InputError, RunError
from system.files import atomic_write, make_folder
from system.output import progress_bar

CHUNK = 64  # recordings in memory
FLAC_RATE = 655_350  # Hz, the highest of FLAC
SHOWN = 10  # bad recordings in a message


class Row(NamedTuple):
    """One sample of a shard."""

    key: str  # of the sample
    hash: str  # of the audio
    utterance: Utterance


class Content(NamedTuple):
    """What shards are written for; of all shards of a set the same.

    Args:
        format: flac, wav or images.
        certificate: Of the splits.
        store: Computes the images.
    """

    format: str
    certificate: Mapping[str, Any]
    store: FeatureStore

    def facts(self, shard: Shard, rows: Sequence[Row]) -> dict[str, Any]:
        """Return all that decides the bytes of a shard."""
        images = self.format == "images"
        named = [[key, u.id, u.speaker, u.label] for key, _, u in rows]
        return {
            "version": VERSION,
            **shard._asdict(),
            "format": self.format,
            "certificate": self.certificate["id"],
            "protocol": self.certificate["protocol"],
            "features": self.store.folder.name if images else None,
            "record": list(self.store.record) if images else None,
            "rows": hashlib.sha256(json.dumps(named).encode()).hexdigest(),
        }

    def members(self, row: Row) -> dict[str, bytes]:
        """Return the files of a sample by their ending.

        Raises:
            BadAudio: The recording cannot be used.
        """
        utterance = row.utterance
        facts = {"utterance": utterance.id, "speaker": utterance.speaker, "label": utterance.label}
        described = {"json": json.dumps(facts, ensure_ascii=False).encode()}
        if self.format == "images":
            images = self.store.compute((row.hash, utterance.audio))
            return described | {
                f"{name}.npy": _npy(image) for name, image in zip(IMAGES, images, strict=True)
            }
        ending, content = encode_audio(*read_samples(utterance.audio, row.hash), self.format)
        return described | {ending: content}


def write_shard(
    folder: Path, shard: Shard, rows: Sequence[Row], content: Content, workers: int
) -> bool:
    """Write a shard; return False where it is there already.

    Args:
        folder: Folder of the shards; made if missing.
        shard: Which of how many.
        rows: Its samples.
        content: What each sample holds.
        workers: Number of threads; 0 or 1 uses the caller's alone.

    Raises:
        InputError: Recordings cannot be used, or the folder holds other shards.
        RunError: It cannot be written.
    """
    path, facts = folder / shard.file, content.facts(shard, rows)
    if path.exists():
        there = read_index(path)
        differ = [key for key in facts if there.get(key) != facts[key]]
        if not differ:
            return False
        raise InputError(
            f"{path} is there with other content ({', '.join(differ)}): write to another folder "
            "(--to), or remove it"
        )
    names = [file.name for file in folder.glob("shard-*.tar")]
    if others := [name for name in names if not name.endswith(f"-of-{shard.total:05d}.tar")]:
        raise InputError(
            f"{folder} holds shards of another number, e.g. {others[0]}: choose another --to"
        )
    make_folder(folder)
    bad: dict[str, str] = {}
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            _write_tar(file, facts, content, _samples(rows, content, workers, bad, shard))
        if bad:
            names = [f"{source} {reason}" for source, reason in bad.items()]
            more = f"\n  and {len(names) - SHOWN} more" * (len(names) > SHOWN)
            raise InputError(
                f"{len(bad)} recordings cannot be used, {path} was not written:\n  "
                + "\n  ".join(names[:SHOWN])
                + more
            )
    return True


def rows_of_shard(
    utterances: Sequence[Utterance], hashes: Mapping[Any, str], shard: Shard
) -> list[Row]:
    """Return the samples of a shard, in the order of their hashes, which is no order of speakers.

    Speakers go to shards from the largest on, each to the emptiest: equal for equal utterances.

    Args:
        utterances: All utterances of the corpus.
        hashes: Audio hash of each file or segment.
        shard: Which of how many.

    Raises:
        InputError: There are more shards than speakers.
    """
    sizes = Counter(utterance.speaker for utterance in utterances)
    if shard.total > len(sizes):
        raise InputError(
            f"--shard {shard.number}/{shard.total}: a speaker is in one shard, and there are "
            f"{len(sizes)} speakers: write at most {len(sizes)} shards"
        )
    filled = [(0, number) for number in range(1, shard.total + 1)]  # utterances, shard
    home: dict[str, int] = {}
    for speaker, n in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        size, home[speaker] = heapq.heappop(filled)
        heapq.heappush(filled, (size + n, home[speaker]))
    rows: list[Row] = []
    seen: Counter[str] = Counter()
    own = [utterance for utterance in utterances if home[utterance.speaker] == shard.number]
    for utterance in sorted(own, key=lambda u: (hashes[u.audio], u.id)):
        key = hashes[utterance.audio]
        again = f"-{seen[key]}" * (seen[key] > 0)  # equal recordings are samples of their own
        rows.append(Row(key + again, key, utterance))
        seen[key] += 1
    return rows


def encode_audio(samples: NDArray[np.float32], rate: int, wanted: str) -> tuple[str, bytes]:
    """Return mono samples as a file without loss: its ending and its bytes.

    Args:
        samples: (T,) samples.
        rate: Sampling rate, Hz.
        wanted: flac or wav. What is no whole number of 24 bits is WAV of float32 in either case.
    """
    bits = next((n for n in (16, 24) if _is_whole(samples, n)), None)
    if bits is None or rate > FLAC_RATE:
        wanted = "wav"
    subtype = "FLOAT" if bits is None else f"PCM_{bits}"
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=wanted.upper())
    return wanted, file.getvalue()


def _is_whole(samples: NDArray[np.float32], bits: int) -> bool:
    scaled = samples.astype(np.float64) * 2 ** (bits - 1)
    in_range = scaled.min() >= -(2 ** (bits - 1)) and scaled.max() < 2 ** (bits - 1)
    return bool(in_range and (scaled == np.rint(scaled)).all())


def _npy(image: NDArray) -> bytes:
    file = io.BytesIO()
    np.save(file, image, allow_pickle=False)
    return file.getvalue()


def _samples(
    rows: Sequence[Row], content: Content, workers: int, bad: dict[str, str], shard: Shard
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and files of each sample; add recordings that cannot be used to `bad`."""
    with progress_bar(len(rows), f"shard {shard.number} of {shard.total}", "file") as bar:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for row, members in in_parallel(content.members, chunk, workers):
                bar.update()
                if isinstance(members, BadAudio):
                    bad[str(row.utterance.audio)] = str(members)
                else:
                    yield row.key, members


def _write_tar(
    file: IO[bytes],
    facts: Mapping[str, Any],
    content: Content,
    samples: Iterator[tuple[str, dict[str, bytes]]],
) -> None:
    """Write certificate, samples, index and the place of the index."""
    import webdataset  # loads a second of modules

    writer = webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o644)
    places: dict[str, tuple[int, int, list[int]]] = {}
    with writer:
        tar = writer.tarstream
        _add(tar, CERTIFICATE, dict(content.certificate))
        for key, members in samples:
            offset = tar.offset
            writer.write({"__key__": key, **members})
            for ending in sorted(members):  # the order in which webdataset writes
                offset += tarfile.BLOCKSIZE  # its header
                size = len(members[ending])
                if ending != "json":
                    is_image = content.format == "images"
                    sums = image_sums(members[ending], content.store.record) if is_image else []
                    places[f"{key}.{ending}"] = (offset, size, sums)
                offset += -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if offset != tar.offset:
                raise RunError("webdataset wrote another layout than that of webdataset 1.0")
        index = _add(tar, INDEX, {**facts, "members": places})
        _add(tar, END, {"index": index})


def _add(tar: tarfile.TarFile, name: str, value: Any) -> tuple[int, int]:
    """Add JSON that webdataset skips; return its place."""
    text = json.dumps(value).encode()
    info = tarfile.TarInfo(f"{META}/{name}")
    info.size = len(text)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(info, io.BytesIO(text))
    return offset, len(text)
