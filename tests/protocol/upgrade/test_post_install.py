"""What packages call for after their installation."""

from mcpkeep.protocol.upgrade.post_install import (
    POST_INSTALL,
    PostInstall,
    downloaded,
    post_install_for,
)


def test_playwright_calls_for_its_browser_and_may_fail() -> None:
    (step,) = post_install_for(["mcp", "Playwright"])
    assert (step.command, step.required) == ("playwright install chromium", False)
    assert post_install_for(["mcp"]) == ()


def test_a_configuration_adds_and_overrides() -> None:
    model = PostInstall(("spacy", "download", "en"), required=True)
    firefox = PostInstall(("playwright", "install", "firefox"))
    table = {**POST_INSTALL, "playwright": firefox, "My_Spacy": model}
    assert post_install_for(["my-spacy", "playwright"], table) == (firefox, model)


def test_what_was_downloaded_is_read_from_the_progress_bars() -> None:
    lines = ["|#    |  10% of 153.1 MiB", "|#####| 100% of 153.1 MiB", "|#####| 100% of 2.3 MiB", "done"]
    assert downloaded(lines) == "153.1 MiB + 2.3 MiB"
    assert downloaded(["nothing"]) == ""
