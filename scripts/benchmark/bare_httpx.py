"""A bare script: httpx.AsyncClient over httpx-aiohttp's transport."""

import argparse

import httpx
from httpx_aiohttp import AiohttpTransport

from benchmark.bare import HEADERS, Answer, Record, asked, main


async def ask_all(settings: argparse.Namespace) -> list[Record]:
    limits = httpx.Limits(max_connections=settings.in_flight, max_keepalive_connections=settings.in_flight)
    async with httpx.AsyncClient(transport=AiohttpTransport(limits=limits), headers=HEADERS, timeout=60) as client:
        url = f"{settings.url}/chat/completions"

        async def post(body: bytes) -> Answer:
            response = await client.post(url, content=body)
            return response.status_code, response.headers.get("retry-after"), response.content

        return await asked(settings.prompts, in_flight=settings.in_flight, post=post)


main(ask_all)
