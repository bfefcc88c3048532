"""The endpoints as MCP tools, as a client of that protocol meets them; skipped without the package mcp."""

import asyncio
import re
from collections.abc import Iterator

import pytest

from app import ui
from tests.test_app import ENDPOINTS, STORY

mcp = pytest.importorskip("mcp", reason="gradio[mcp] is not installed")
streamable_http = pytest.importorskip("mcp.client.streamable_http")


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory) -> Iterator[str]:
    demo = ui.build(tiny_model, samples=tmp_path_factory.mktemp("samples"))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, mcp_server=True, **ui.launch_options())
    yield f"{url}gradio_api/mcp/"
    demo.close()


def ask(url: str, use):
    """What `use(session)` returns, in a session of its own."""

    async def run():
        async with (
            streamable_http.streamable_http_client(url) as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await use(session)

    return asyncio.run(run())


def test_every_endpoint_is_a_tool_with_a_description(url):
    tools = {tool.name: tool for tool in ask(url, lambda session: session.list_tools()).tools}
    assert {name for name in ENDPOINTS if not any(tool.endswith(name) for tool in tools)} == set()
    assert len(tools) == len(ENDPOINTS)
    assert all(tool.description for tool in tools.values())


def test_a_tool_reads_into_a_memory_that_another_call_finds(url):
    async def use(session):
        names = {tool.name for tool in (await session.list_tools()).tools}
        load, summary = (next(n for n in names if n.endswith(end)) for end in ("load_documents", "memory_summary"))
        loaded = await session.call_tool(load, {"texts": [STORY], "memory": "new"})
        memory = re.search(r"memory-[\w-]+", loaded.content[0].text)[0]
        return loaded, await session.call_tool(summary, {"memory": memory})

    loaded, summary = ask(url, use)
    assert not loaded.isError
    assert not summary.isError
    assert "memory-" in summary.content[0].text
