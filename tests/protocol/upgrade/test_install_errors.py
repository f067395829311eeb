"""Causes read from what uv and pip really said."""

import pytest

from mcpkeep.protocol.upgrade.install_errors import Cause, diagnose

UV_NO_PLATFORM = """
error: No solution found when resolving dependencies
  cause: Because winonly==1.0 has no wheels with a matching platform tag (e.g., `manylinux_2_36_x86_64`) and \
only winonly==1.0 is available, we can conclude that all versions of winonly cannot be used.
         And because you require winonly, we can conclude that your requirements are unsatisfiable.

hint: Wheels are available for `winonly` (v1.0) on the following platform: `win32`
"""
UV_NO_PYTHON_TAG = """
error: No solution found when resolving dependencies
  cause: Because oldpy==1.0 has no wheels with a matching Python implementation tag (e.g., `cp311`) and only \
oldpy==1.0 is available, we can conclude that all versions of oldpy cannot be used.
         And because you require oldpy, we can conclude that your requirements are unsatisfiable.
"""
UV_REQUIRES_PYTHON = """
error: No solution found when resolving dependencies
  cause: Because future==1.0 requires Python >=3.99 and only future==1.0 is available, we can \
conclude that all \
versions of future cannot be used.
         And because you require future, we can conclude that your requirements are unsatisfiable.
"""
UV_REQUIRES_PYTHON_INDEX = """
error: No solution found when resolving dependencies
  cause: Because the current Python version (3.11.7) does not satisfy Python>=3.99 and future==1.0 \
depends on \
Python>=3.99, we can conclude that future==1.0 cannot be used.
         And because only future==1.0 is available and you require future, we can conclude that \
your requirements \
are unsatisfiable.
"""
UV_CONFLICT = """
error: No solution found when resolving dependencies
  cause: Because all versions of clash depend on beta<2 and alpha>=2.0 depends on beta>=2, we can \
conclude that \
alpha>=2.0 and all versions of clash are incompatible.
         And because you require alpha==2 and clash==1.0, we can conclude that your requirements \
are unsatisfiable.
"""
UV_HELD = """
error: No solution found when resolving dependencies
  cause: Because stem>=2.0 depends on leaf>=2 and leaf==1.0, we can conclude that stem>=2.0 cannot be used.
         And because you require stem>=2, we can conclude that your requirements are unsatisfiable.
"""
UV_MISSING_DEPENDENCY = """
error: No solution found when resolving dependencies
  cause: Because gonepkg was not found in the provided package locations and all versions of \
needsgone depend on \
gonepkg, we can conclude that all versions of needsgone cannot be used.
"""
UV_REFUSED = """
error: Request failed after 3 retries in 8.9s
  cause: Failed to fetch: http://127.0.0.1:9/simple/alpha/
  cause: error sending request for url (http://127.0.0.1:9/simple/alpha/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""
UV_OFFLINE = """
error: No solution found when resolving dependencies
  cause: Because alpha was not found in the cache and you require alpha, we can conclude that your \
requirements \
are unsatisfiable.

hint: Packages were unavailable because the network was disabled. When the network is disabled, registry \
packages may only be read from the cache.
"""
UV_HASH = """
error: Failed to download `beta==1.0`
  cause: Hash mismatch for `beta==1.0`

         Expected:
           sha256:0000
"""
UV_FULL = """
error: Failed to install: big-1.0-py3-none-any.whl (big==1.0)
  cause: failed to copy file from /c/__init__.py to /v/.tmppIThK1: No space left on device (os error 28)
"""
UV_DENIED = """
error: Failed to install: beta-2.0-py3-none-any.whl (beta==2.0)
  cause: failed to create directory `/v/site-packages/beta`: Permission denied (os error 13)
"""
UV_BUILD = """
error: Failed to build `lib==3.3.1`
  cause: The build backend returned an error
"""
PIP_NONE = """
ERROR: Could not find a version that satisfies the requirement gonepkg (from needsgone) (from versions: none)
ERROR: No matching distribution found for gonepkg
"""
PIP_VERSION = """
ERROR: Could not find a version that satisfies the requirement alpha==9 (from versions: 1.0, 2.0)
ERROR: No matching distribution found for alpha==9
"""
PIP_PYTHON = "ERROR: Package 'future' requires a different Python: 3.11.7 not in '>=3.99'"
PIP_PYTHON_INDEX = """
ERROR: Ignored the following versions that require a different python version: 1.0 Requires-Python >=3.99
ERROR: Could not find a version that satisfies the requirement future (from versions: none)
ERROR: No matching distribution found for future
"""
PIP_CONFLICT = """
ERROR: Cannot install alpha==2.0 and clash==1.0 because these package versions have conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/
"""
PIP_HASH = """
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the \
package versions.
    beta==1.0 from file:///w/beta-1.0-py3-none-any.whl (from -r h.txt (line 1)):
        Expected sha256 0000
"""
PIP_UNHASHED = """
ERROR: In --require-hashes mode, all requirements must have their versions pinned with ==. These do not:
    beta>=1 from file:///w/beta-2.0-py3-none-any.whl (from alpha==1.0->-r h2.txt (line 1))
"""
PIP_NETWORK = """
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Failed to \
establish a new \
connection: [Errno 111] Connection refused')': /simple/alpha/
ERROR: Could not find a version that satisfies the requirement alpha (from versions: none)
ERROR: No matching distribution found for alpha
"""
PIP_FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
PIP_DENIED = "Error: [Errno 13] Permission denied: '/v'"


@pytest.mark.parametrize(
    ("said", "cause", "named"),
    [
        (UV_NO_PLATFORM, Cause.NO_WHEEL, "winonly"),
        (UV_NO_PYTHON_TAG, Cause.NO_WHEEL, "oldpy"),
        (UV_BUILD, Cause.NO_WHEEL, "lib==3.3.1"),
        (UV_REQUIRES_PYTHON, Cause.WRONG_PYTHON, "future"),
        (UV_REQUIRES_PYTHON_INDEX, Cause.WRONG_PYTHON, "future"),
        (UV_CONFLICT, Cause.CONFLICT, "clash"),
        (UV_HELD, Cause.CONFLICT, "stem>=2.0 depends on leaf>=2 and leaf==1.0"),
        (UV_MISSING_DEPENDENCY, Cause.NO_SUCH_PACKAGE, "gonepkg"),
        ("Because there is no version of alpha==9 and you", Cause.NO_SUCH_VERSION, "alpha==9"),
        ("only alpha<=2.0 is available and you require alpha>=3, we", Cause.NO_SUCH_VERSION, "alpha>=3"),
        (UV_REFUSED, Cause.NO_NETWORK, "no network"),
        (UV_OFFLINE, Cause.NO_NETWORK, "no network"),
        (UV_HASH, Cause.HASH_MISMATCH, "beta==1.0"),
        ("no trusted hash was provided for: `beta`", Cause.HASH_MISSING, "beta"),
        (UV_FULL, Cause.DISK_FULL, "disk is full"),
        (UV_DENIED, Cause.NOT_PERMITTED, "/v/site-packages/beta"),
        (PIP_NONE, Cause.NO_SUCH_PACKAGE, "gonepkg"),
        (PIP_VERSION, Cause.NO_SUCH_VERSION, "alpha==9"),
        (PIP_PYTHON, Cause.WRONG_PYTHON, "future"),
        (PIP_PYTHON_INDEX, Cause.WRONG_PYTHON, "future"),
        (PIP_CONFLICT, Cause.CONFLICT, "alpha==2.0 and clash==1.0"),
        (PIP_HASH, Cause.HASH_MISMATCH, "beta==1.0"),
        (PIP_UNHASHED, Cause.HASH_MISSING, "beta>=1"),
        (PIP_NETWORK, Cause.NO_NETWORK, "no network"),
        (PIP_FULL, Cause.DISK_FULL, "disk is full"),
        (PIP_DENIED, Cause.NOT_PERMITTED, "may not be written"),
        ("something\nelse entirely\n\n", Cause.UNKNOWN, "else entirely"),
        ("", Cause.UNKNOWN, "said nothing"),
    ],
)
def test_the_cause_and_the_package_are_named(said: str, cause: Cause, named: str) -> None:
    found = diagnose(said.splitlines())
    assert (found.cause, named in found.text) == (cause, True), found
    assert found.remedy


def test_other_versions_are_tried_only_where_versions_stood_in_the_way() -> None:
    assert not any(diagnose([said]).unresolvable for said in ("", UV_FULL, PIP_DENIED, UV_OFFLINE, UV_HASH))
    assert all(
        diagnose([said]).unresolvable
        for said in (UV_CONFLICT, UV_HELD, PIP_VERSION, PIP_PYTHON, UV_NO_PLATFORM)
    )
