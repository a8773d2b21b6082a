import pytest
from click.testing import CliRunner

from ds_sync.cli.keep_updates import KeepUpdatesType
from ds_sync.cli.main import main
from ds_sync.protocol.retention import KeepUpdates


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("0", KeepUpdates(size=0)),
        ("10000000", KeepUpdates(size=10_000_000)),
        ("90s", KeepUpdates(seconds=90.0)),
        ("30m", KeepUpdates(seconds=1800.0)),
        ("12h", KeepUpdates(seconds=43_200.0)),
        ("7d", KeepUpdates(seconds=604_800.0)),
    ],
)
def test_it_is_a_time_or_a_number_of_bytes(text: str, keep: KeepUpdates) -> None:
    assert KeepUpdatesType().convert(text, None, None) == keep
    assert KeepUpdatesType().convert(keep, None, None) == keep


@pytest.mark.parametrize("arguments", [("7 days",), ("-1",), ("10MB",), ("",), ("7d", "--compact-after", "0")])
def test_anything_else_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["serve", "--memory", "--keep-updates", *arguments])
    assert done.exit_code == 2
    assert "keep-updates" in done.output
