"""OpenAI's API through OpenAI's own client, and the gateway's other doors to the queue."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest
from nats.aio.client import Client

from accelerator_autopilot.client import AutopilotClient
from accelerator_autopilot.contracts.messages.jobs import PoolStatus
from accelerator_autopilot.gateway.app import create_app as create_gateway
from accelerator_autopilot.gateway.settings import GatewaySettings
from accelerator_autopilot.runtime.api_keys import digest
from accelerator_autopilot.transport.clock import utc_now
from tests.conftest import NatsServer
from tests.support.tiny_models import save_tiny_causal
from tests.support.waiting import eventually
from tests.support.worker import worker_process

pytestmark = [pytest.mark.nats, pytest.mark.timeout(90)]

EMBED = "all-MiniLM-L6-v2"
KINDS = {"AUTOPILOT_POOL_KINDS": '["echo", "generate", "chat", "embed"]'}


@asynccontextmanager
async def gateway(nats_server: NatsServer, folder: Path, **settings: int) -> AsyncIterator[httpx.AsyncClient]:
    keys = folder / "keys.json"
    keys.write_text(
        json.dumps({digest("o"): {"role": "operator", "user": "ada"}, digest("b"): "operator", digest("v"): "viewer"})
    )
    app = create_gateway(GatewaySettings(nats_url=nats_server.url, api_keys_file=keys, **settings))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        headers = {"X-API-Key": "o"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http:
            yield http


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_causal(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def api(
    nats_server: NatsServer, nc: Client, client: AutopilotClient, tmp_path: Path, model: str
) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client on a gateway with one worker behind it."""
    pool = PoolStatus(
        pool="p",
        node="n",
        at=utc_now(),
        desired=1,
        kinds=["chat", "generate", "embed"],
        models=[model, EMBED],
        workers=[],
    )
    await (await client.js.key_value("pools")).put("p.n", pool.model_dump_json().encode())
    async with (
        gateway(nats_server, tmp_path) as http,
        worker_process(nats_server.url, AUTOPILOT_GENERATE_MODEL=model, **KINDS),
    ):
        # The library sets its own headers beside these.
        del http.headers["X-API-Key"]
        yield openai.AsyncOpenAI(base_url="http://test/v1", api_key="o", http_client=http, max_retries=0)


class TestOpenAI:
    async def test_a_conversation(self, api: openai.AsyncOpenAI, model: str) -> None:
        answer = await api.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "one two"}], max_tokens=8, temperature=0
        )
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].finish_reason in {"stop", "length"}
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

    async def test_a_stream_adds_up_to_the_whole(self, api: openai.AsyncOpenAI, model: str) -> None:
        whole = await api.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "one two"}], max_tokens=30, temperature=0
        )
        stream = await api.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "one two"}], max_tokens=30, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
        assert len(chunks) > 3

    async def test_completions(self, api: openai.AsyncOpenAI, model: str) -> None:
        answer = await api.completions.create(model=model, prompt="one two three", max_tokens=5, temperature=0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 3
        stream = await api.completions.create(
            model=model, prompt="one two three", max_tokens=5, temperature=0, stream=True
        )
        assert "".join([c.choices[0].text async for c in stream]) == answer.choices[0].text

    async def test_embeddings_in_both_encodings(self, api: openai.AsyncOpenAI) -> None:
        by_default = await api.embeddings.create(model=EMBED, input=["one", "two"])
        floats = await api.embeddings.create(model=EMBED, input="one", encoding_format="float")
        assert [len(d.embedding) for d in by_default.data] == [384, 384]
        assert by_default.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-5)
        assert floats.usage.prompt_tokens == 3

    async def test_models(self, api: openai.AsyncOpenAI, model: str) -> None:
        assert {m.id async for m in await api.models.list()} == {model, EMBED}
        assert (await api.models.retrieve(EMBED)).id == EMBED

    async def test_errors_have_openais_form(self, api: openai.AsyncOpenAI, model: str) -> None:
        ask = [{"role": "user", "content": "x"}]
        with pytest.raises(openai.NotFoundError, match="the model 'gpt-9' does not exist"):
            await api.chat.completions.create(model="gpt-9", messages=ask)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError) as refused:
            await api.chat.completions.create(model=model, messages=ask, n=3)  # type: ignore[arg-type]
        assert refused.value.param == "n"
        with pytest.raises(openai.AuthenticationError):
            await api.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.PermissionDeniedError):
            await api.with_options(api_key="v").embeddings.create(model=EMBED, input="x")
        with pytest.raises(openai.BadRequestError, match="must be shorter than 256 tokens"):
            await api.completions.create(model=model, prompt="one " * 400)
        with pytest.raises(openai.BadRequestError, match="is not a text generation model"):
            await api.completions.create(model=EMBED, prompt="one")

    async def test_a_reader_who_leaves_ends_the_job(self, api: openai.AsyncOpenAI, client: AutopilotClient) -> None:
        reading = asyncio.create_task(api.embeddings.create(model=EMBED, input=["x" * 1000] * 2000))
        await eventually(lambda: self.queued(client))
        reading.cancel()

        async def ended() -> bool:
            done = await client.jobs.finished()
            return any(v.state == "cancelled" for v in done)

        await eventually(ended, 30)

    async def queued(self, client: AutopilotClient) -> bool:
        return bool(await client.jobs.queued())


class TestQueueDoors:
    async def test_batches_and_dead_letters_over_http(
        self, nats_server: NatsServer, nc: Client, tmp_path: Path
    ) -> None:
        async with gateway(nats_server, tmp_path) as http, worker_process(nats_server.url, **KINDS):
            made = await http.post(
                "/v1/batches", json={"kind": "echo", "payloads": [{"text": "a"}, {"fail": "permanently"}]}
            )
            assert made.status_code == 202
            where = made.headers["Location"]
            lines = (await http.get(f"{where}/results")).text.splitlines()
            results = [json.loads(line) for line in lines]
            assert [r["status"] for r in results] == ["succeeded", "failed"]
            assert results[0]["submitter"] == "ada"
            assert results[0]["usage"]["batch_size"] >= 1
            assert (await http.get(where)).json()["done"] == 2
            (letter,) = (await http.get("/v1/dead")).json()
            assert (letter["id"], letter["reason"]) == (f"{made.json()['id']}.1", "permanent_error")
            again = await http.post(f"/v1/dead/{letter['id']}/replay")
            assert again.status_code == 202
            assert (await http.get("/v1/batches/none")).status_code == 404

    async def test_too_many_are_sent_away_with_a_time_to_come_back(
        self, nats_server: NatsServer, nc: Client, tmp_path: Path
    ) -> None:
        job = {"kind": "echo", "payload": {}}
        async with gateway(nats_server, tmp_path, unfinished_jobs=3, fair_share_jobs=2) as http:
            ids = [(await http.post("/v1/jobs", json=job)).json()["id"] for _ in range(3)]
            refused = await http.post("/v1/jobs", json=job)
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert "ada has 3 unfinished jobs" in refused.json()["detail"]
            queued = {v["id"]: v["priority"] for v in (await http.get("/v1/jobs")).json()}
            assert [queued[i] for i in ids] == ["normal", "normal", "low"]
            other = await http.post("/v1/jobs", json=job, headers={"X-API-Key": "b"})
            assert other.status_code == 202
            await http.delete(f"/v1/jobs/{ids[0]}")

            async def admitted() -> bool:
                return (await http.post("/v1/jobs", json=job)).status_code == 202

            await eventually(admitted)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"priority": "now"}, "priority"),
            ({"ttl_s": -1}, "ttl_s"),
            ({"after": "x"}, "after"),
            ({"nonsense": 1}, "nonsense"),
        ],
    )
    async def test_a_bad_option_is_named(
        self, nats_server: NatsServer, nc: Client, tmp_path: Path, change: dict[str, object], field: str
    ) -> None:
        async with gateway(nats_server, tmp_path) as http:
            refused = await http.post("/v1/jobs", json={"kind": "echo", "payload": {}} | change)
        assert refused.status_code == 422
        assert field in refused.json()["detail"]
