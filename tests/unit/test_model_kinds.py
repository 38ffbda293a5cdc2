"""Kinds that run models, with real weights and with tiny models of every family."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest

from accelerator_autopilot.inference.kinds import registry
from accelerator_autopilot.inference.kinds.base import RunContext
from accelerator_autopilot.inference.settings import ModelSettings
from accelerator_autopilot.inference.worker.application.scratch_folders import ScratchFolders
from tests.support.kinds import Caller
from tests.support.tiny_models import save_tiny_causal, save_tiny_classifier, save_tiny_seq2seq, save_tiny_vision

call = Caller()


class TestClassify:
    def test_texts_get_the_label_that_they_are_about(self) -> None:
        out = call(
            "classify",
            texts=["The striker scored twice in the final.", "Shares fell after the earnings report."],
            labels=["sports", "finance", "cooking"],
        )
        assert [r.label for r in out.results] == ["sports", "finance"]
        assert sum(out.results[0].scores.values()) == pytest.approx(1)

    def test_a_configured_classifier_has_its_own_labels(self, tmp_path: Path) -> None:
        own = Caller(classify_model=str(save_tiny_classifier(tmp_path)))
        out = own("classify", texts=["one two", "three"])
        assert out.method == "classifier"
        assert set(out.results[0].scores) == {"LABEL_0", "LABEL_1", "LABEL_2"}

    def test_weights_that_are_a_pickle_are_refused_unless_the_operator_allows_them(self, tmp_path: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        folder = save_tiny_classifier(tmp_path)
        state = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
        torch.save(state, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(Exception, match="safetensors"):
            Caller(classify_model=str(folder))("classify", texts=["one"])
        out = Caller(classify_model=str(folder), pickled_weights=True)("classify", texts=["one"])
        assert out.method == "classifier"

    def test_jobs_of_a_batch_get_what_they_would_get_alone(self, tmp_path: Path) -> None:
        own = Caller(classify_model=str(save_tiny_classifier(tmp_path)))
        jobs: list[dict[str, Any]] = [
            {"texts": ["one two", "three"]},
            {"texts": ["The striker scored."], "labels": ["sports", "finance"]},
            {"texts": ["alone"], "labels": ["only"]},
            {"texts": ["three"]},
            {"texts": ["Shares fell.", "He scored."], "labels": {"money": "finance", "play": "sports"}},
        ]
        found = own.together("classify", jobs)
        assert "must have at least two" in str(found[2])
        for index in (0, 1, 3, 4):
            alone = own("classify", **jobs[index])
            assert [r.label for r in found[index].results] == [r.label for r in alone.results]
            assert [r.score for r in found[index].results] == pytest.approx([r.score for r in alone.results], abs=1e-4)

    def test_a_batch_is_one_call_of_the_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from accelerator_autopilot.inference.adapters.classifiers import TextClassifier

        calls = []
        scores = TextClassifier.scores
        monkeypatch.setattr(TextClassifier, "scores", lambda self, t: calls.append(len(t)) or scores(self, t))
        own = Caller(classify_model=str(save_tiny_classifier(tmp_path)))
        own.together("classify", [{"texts": ["one"]}] * 5)
        assert calls == [5]

    def test_without_labels_and_classifier_it_says_what_to_give(self) -> None:
        with pytest.raises(Exception, match="labels"):
            call("classify", texts=["x"])


class TestGeneration:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return str(save_tiny_causal(tmp_path_factory.mktemp("causal")))

    def test_pieces_add_up_to_the_text(self, model: str) -> None:
        own = Caller(generate_model=model)
        out = own("generate", prompt="one two three", max_tokens=12)
        assert "".join(p["text"] for p in own.told) == out.text
        assert [p["offset"] for p in own.told] == [
            sum(len(q["text"]) for q in own.told[:i]) for i in range(len(own.told))
        ]
        assert 0 < out.completion_tokens <= 12
        assert out.prompt_tokens == 3

    def test_greedy_is_the_models_own_generate(self, model: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = tokenizer("two one", return_tensors="pt")
        ids.pop("token_type_ids", None)
        bare = AutoModelForCausalLM.from_pretrained(model).generate(
            **ids, max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        expected = tokenizer.decode(bare[0][2:], skip_special_tokens=True)
        assert Caller(generate_model=model)("generate", prompt="two one", max_tokens=8).text == expected

    def test_many_at_once_give_what_each_gives_alone(self, model: str) -> None:
        own = Caller(generate_model=model)
        kind = registry()["generate"]
        prompts = ["one", "two three", "three one two", "Summary :"]
        with ScratchFolders(None) as scratch:
            futures = [
                kind.start(
                    kind.input.model_validate({"prompt": p, "max_tokens": 9}),
                    RunContext(models=own.models, scratch=scratch, attempts=[1]),
                )
                for p in prompts
            ]
            together = [f.result(timeout=60).text for f in futures]
        assert together == [own("generate", prompt=p, max_tokens=9).text for p in prompts]

    def test_a_stop_text_ends_it_and_is_not_told(self, model: str) -> None:
        free = Caller(generate_model=model)("generate", prompt="one", max_tokens=12).text
        stop = free.split()[3]
        own = Caller(generate_model=model)
        out = own("generate", prompt="one", max_tokens=12, stop=[stop])
        assert out.finish_reason == "stop"
        assert out.text == free[: free.index(stop)]
        assert stop not in "".join(p["text"] for p in own.told)

    def test_a_conversation_has_a_next_turn(self, model: str) -> None:
        out = Caller(generate_model=model)("chat", messages=[{"role": "user", "content": "one two"}], max_tokens=4)
        assert out.completion_tokens <= 4

    def test_a_prompt_longer_than_the_context_names_it(self, model: str) -> None:
        with pytest.raises(Exception, match="prompt='300 tokens': must be shorter than 256"):
            Caller(generate_model=model)("generate", prompt="one " * 300)

    def test_cancelling_ends_it(self, model: str) -> None:
        own = Caller(generate_model=model)
        own.cancelled = True
        assert own("generate", prompt="one two", max_tokens=200).finish_reason == "cancelled"

    def test_without_a_model_it_names_the_setting(self) -> None:
        with pytest.raises(Exception, match="AUTOPILOT_GENERATE_MODEL"):
            call("generate", prompt="x")

    def test_a_model_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(Exception, match=r"generate_model=.*nowhere.*: is neither a model folder"):
            Caller(generate_model=str(tmp_path / "nowhere"))("generate", prompt="x")

    def test_a_model_that_its_library_refuses_is_no_fault_of_the_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from accelerator_autopilot.inference.adapters import transformers_generator
        from accelerator_autopilot.inference.errors import ModelLoadError

        def refuse(*_: Any, **__: Any) -> None:
            raise TypeError("got an unexpected keyword argument 'page_size'")

        monkeypatch.setattr(transformers_generator.AutoConfig, "from_pretrained", refuse)
        with pytest.raises(ModelLoadError) as caught:
            Caller(generate_model="some-other-name")("generate", prompt="x")
        assert caught.value.retryable

    def test_a_folder_that_cannot_be_read_says_why(self, tmp_path: Path) -> None:
        folder = save_tiny_causal(tmp_path)
        (folder / "model.safetensors").write_bytes(b"half")
        with pytest.raises(Exception, match=r"generate_model=.*whose model cannot be read: \w+: "):
            Caller(generate_model=str(folder))("generate", prompt="x")


class TestSummarize:
    def test_a_model_maps_and_reduces(self, tmp_path: Path) -> None:
        own = Caller(summarize_model=str(save_tiny_seq2seq(tmp_path)))
        out = own("summarize", text="one two three. " * 200)
        assert out.method == "generative"

    def test_other_scripts_have_sentences_too(self) -> None:
        text = "这是关于人工智能的第一句话它很长而且有内容。这是关于天气的第二句话今天下雨了很冷。第三句讨论股票市场。"
        out = call("summarize", text=text, max_sentences=1)
        assert out.sentences[0] in text
        assert len(out.sentences[0]) < len(text) / 2


class TestClassifyImage:
    def test_images_of_an_archive_get_labels(self, tmp_path: Path) -> None:
        from PIL import Image

        own = Caller(image_model=str(save_tiny_vision(tmp_path)))
        out = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(out, format="PNG")
        image = base64.b64encode(out.getvalue()).decode()
        found = own("classify-image", files=[{"name": "red.png", "base64": image}], top=2)
        assert found.images[0].name == "red.png"
        assert len(found.images[0].scores) == 2
        with pytest.raises(Exception, match=r"bad\.png.*is not a readable PNG"):
            own("classify-image", files=[{"name": "bad.png", "text": "no"}])

    def test_a_bad_file_costs_no_other_its_label(self, tmp_path: Path) -> None:
        from PIL import Image

        own = Caller(image_model=str(save_tiny_vision(tmp_path)))
        files = []
        for name, form in (("a.png", "PNG"), ("b.eps", "EPS"), ("c.jpg", "JPEG"), ("d.webp", "WEBP"), ("e.gif", "GIF")):
            out = io.BytesIO()
            Image.new("RGB", (40, 30), "red").save(out, format=form)
            data = out.getvalue()
            files.append({"name": name, "base64": base64.b64encode(data).decode()})
            files.append({"name": f"cut-{name}", "base64": base64.b64encode(data[: len(data) // 3]).decode()})
        found = own("classify-image", files=files, top=1)
        assert [image.name for image in found.images] == [file["name"] for file in files]
        assert {i.name for i in found.images if i.label} == {"a.png", "c.jpg", "d.webp", "e.gif"}
        assert all("is not a readable" in i.error for i in found.images if not i.label)

    def test_images_of_all_jobs_are_scored_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from PIL import Image

        from accelerator_autopilot.inference.adapters.classifiers import ImageClassifier

        calls = []
        scores = ImageClassifier.scores
        monkeypatch.setattr(ImageClassifier, "scores", lambda self, i: calls.append(len(i)) or scores(self, i))
        own = Caller(image_model=str(save_tiny_vision(tmp_path)))
        files = []
        for colour in ("red", "blue"):
            out = io.BytesIO()
            Image.new("RGB", (40, 30), colour).save(out, format="PNG")
            files.append({"name": f"{colour}.png", "base64": base64.b64encode(out.getvalue()).decode()})
        bad = {"name": "bad.png", "text": "no"}
        jobs = [{"files": files}, {"files": [bad]}, {"files": [bad, files[1]]}, {"files": []}]
        first, unreadable, mixed, empty = own.together("classify-image", jobs)
        assert calls == [3]
        assert [i.name for i in first.images] == ["red.png", "blue.png"]
        assert mixed.images[1].scores == pytest.approx(first.images[1].scores, abs=1e-5)
        assert "is not a readable" in str(unreadable)
        assert "contains no image" in str(empty)

    def test_pixels_held_at_once_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from PIL import Image

        from accelerator_autopilot.inference.adapters.classifiers import ImageClassifier
        from accelerator_autopilot.inference.kinds import classify_image

        monkeypatch.setattr(classify_image, "MAX_PIXELS", 3000)
        seen = []
        scores = ImageClassifier.scores
        monkeypatch.setattr(
            ImageClassifier, "scores", lambda self, images: seen.append(len(images)) or scores(self, images)
        )
        own = Caller(image_model=str(save_tiny_vision(tmp_path)))
        out = io.BytesIO()
        Image.new("RGB", (40, 30)).save(out, format="PNG")
        data = base64.b64encode(out.getvalue()).decode()
        found = own("classify-image", files=[{"name": f"{n}.png", "base64": data} for n in range(5)])
        assert (len(found.images), seen) == (5, [2, 2, 1])

    def test_without_a_model_it_names_the_setting(self) -> None:
        with pytest.raises(Exception, match="AUTOPILOT_IMAGE_MODEL"):
            call("classify-image", files=[{"name": "a.png", "text": "x"}])


class TestOnnx:
    def test_onnx_runtime_gives_what_torch_gives(self, tmp_path: Path) -> None:
        import numpy as np

        from accelerator_autopilot.inference.model_loading import encoder
        from tests.support.tiny_models import export_encoder

        texts = ["one two", "three", "one two three one"]
        torch_folder, onnx_folder = export_encoder(tmp_path)
        by_torch = encoder(ModelSettings(embed_model=str(torch_folder))).encode(texts)
        by_onnx = encoder(ModelSettings(embed_model=str(onnx_folder))).encode(texts)
        np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)
