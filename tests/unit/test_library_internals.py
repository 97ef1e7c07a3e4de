"""Private names of libraries that we use are there, in the versions installed; each test says what breaks without.

Ray's are in test_ray_internals.py, asyncio's in faults/simulation/loop.py.
"""

import subprocess
import sys
import urllib.request

from botocore.auth import SigV4Auth
from botocore.credentials import Credentials


def test_httpx_loads_without_its_command_line() -> None:
    """Without: processes load rich and pygments for it, a tenth of a worker's start; nothing fails."""
    program = "import stillhouse.gen, sys, httpx; print(sorted({'rich', 'pygments'} & {*sys.modules}), httpx.main)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")


def test_the_standard_library_parses_no_proxy() -> None:
    """Without: hosts in `no_proxy` would be reached through the proxy."""
    bypasses = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined] # documented, but not in its types
    assert bypasses("a.example:443", {"no": "a.example"})
    assert not bypasses("b.example:443", {"no": "a.example"})


def test_botocores_signature_can_be_computed_in_parts() -> None:
    """Without: no request to Bedrock can be signed."""
    for name in ("_modify_request_before_signing", "_inject_signature_to_request", "_sign"):
        assert callable(getattr(SigV4Auth, name))
    signer = vars(SigV4Auth(Credentials("id", "secret"), "bedrock", "eu-central-1"))
    assert {"_region_name", "_service_name"} <= signer.keys()
