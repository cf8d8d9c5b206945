"""schemathesis calls every operation of `/openapi.json` on a real socket, with what it allows and what it doesn't.

All of its checks are on: no 5xx, statuses, types, headers and bodies as the document says, what is allowed is accepted,
what is not is refused, other methods are 405, no key is 401, what was deleted is gone.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "schemathesis"


@pytest.mark.timeout(400)
async def test_the_api_keeps_to_its_document(rig, tmp_path):
    asyncio.get_running_loop().set_debug(False)  # there are thousands of calls
    rig.catalogue.waiting.close()  # nothing comes to run here: who waits for it is answered at once
    await rig.create("hello")
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "--config-file", HERE / "schemathesis.toml", "run"),
        *(f"{rig.url}/openapi.json", "--header", f"Authorization: Bearer {rig.token}", "--checks", "all"),
    ]
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(HERE), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await running.communicate()
    assert running.returncode == 0, output.decode()
