import errno
import os
from pathlib import Path

import pytest

from mcpkeep.protocol.config import ConfigFile
from mcpkeep.protocol.errors import ConfigError
from mcpkeep.supervisor.config import find_config, read_config


def test_the_file_of_the_workspace_wins_and_the_other_is_named(tmp_path: Path) -> None:
    own, praxis = str(tmp_path / "mcpkeep.toml"), str(tmp_path / ".praxis-os/mcpkeep.toml")
    assert find_config(str(tmp_path)) == (None, None)
    (tmp_path / ".praxis-os").mkdir()
    Path(praxis).touch()
    assert find_config(str(tmp_path)) == (praxis, None)
    Path(own).touch()
    assert find_config(str(tmp_path)) == (own, f"{own} is used and {praxis} is not; keep one of the two")


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "mcpkeep.toml"
    path.write_bytes("# ü\r\n[child]\r\n".encode())
    assert read_config(str(path)) == ConfigFile(str(path), "# ü\r\n[child]\r\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbfx = 1", ":1: begins with a byte order mark; save it as UTF-8 without one"),
        (b"\xff\xfex\0", ":1: begins with a byte order mark; save it as UTF-8 without one"),
        (b"# a\n# \xfc", ":2: not UTF-8: the byte b'\\xfc'; save it as UTF-8"),
        (b"#" * 300_000, ": larger than 262144 bytes; is it the configuration?"),
    ],
)
def test_bytes_that_are_no_configuration_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "mcpkeep.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_config(str(path))
    assert str(caught.value) == f"{path}{message}"


def test_a_file_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder, loop = tmp_path / "folder", tmp_path / "loop"
    folder.mkdir()
    loop.symlink_to(loop)
    reasons = {
        str(folder): "is a folder; the configuration is a file",
        str(loop): f"cannot be read: {os.strerror(errno.ELOOP).lower()}",
        str(tmp_path / "none"): "cannot be read: no such file or directory",
    }
    for path, reason in reasons.items():
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert str(caught.value) == f"{path}: {reason}"
