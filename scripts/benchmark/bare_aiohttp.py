"""A bare script: aiohttp alone, the floor of what Python can do."""

import argparse

import aiohttp

from benchmark.bare import HEADERS, Answer, Record, asked, main


async def ask_all(settings: argparse.Namespace) -> list[Record]:
    connector = aiohttp.TCPConnector(limit=settings.in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:
        url = f"{settings.url}/chat/completions"

        async def post(body: bytes) -> Answer:
            async with session.post(url, data=body) as response:
                return response.status, response.headers.get("retry-after"), await response.read()

        return await asked(settings.prompts, in_flight=settings.in_flight, post=post)


main(ask_all)
