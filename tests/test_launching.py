"""What `python app.py` is told: options, the environment, and errors that name what is allowed."""

from pathlib import Path

import pytest

from app.launching import BUNDLED, Launch, parse


def test_without_options_everything_is_as_it_was():
    assert parse([], {}) == Launch(BUNDLED, False, False, None, 64 * 2**20, 4 * 2**30)
    assert (Path(BUNDLED) / "config.json").exists()


def test_options_say_what_they_say():
    sizes = ["--max-file-size", "20mb", "--max-memory", "1.5 GB", "--memory-size", "16,384"]
    chosen = parse(["--model", "m", "--auth", "ann:pass:word", *sizes], {})
    assert chosen == Launch("m", False, False, ("ann", "pass:word"), 20 * 2**20, 3 * 2**29, 16_384)


def test_the_environment_says_the_same_and_options_come_first():
    environment = {
        "LONGMEM_MODEL": "e",
        "LONGMEM_AUTH": "a:b",
        "LONGMEM_MAX_FILE_SIZE": "1mb",
        "LONGMEM_MAX_MEMORY": "",
        "LONGMEM_MEMORY_SIZE": "1024",
    }
    assert parse([], environment) == Launch("e", False, False, ("a", "b"), 2**20, 4 * 2**30, 1024)
    assert parse(["--auth", "c:d"], environment).auth == ("c", "d")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--auth", "secretword"], "--auth is not of the form USER:PASSWORD"),
        (["--auth", ":secretword"], "--auth is not of the form USER:PASSWORD"),
        (["--auth", "secretword:"], "neither empty"),
        (["--max-file-size", "64"], "--max-file-size is '64'; it must be a size from 1kb to 8gb, such as 64mb"),
        (["--max-file-size", "0mb"], "--max-file-size is '0mb'"),
        (["--max-file-size", "-1mb"], "--max-file-size"),
        (["--max-file-size", "9gb"], "from 1kb to 8gb"),
        (["--max-memory", "lots"], "--max-memory is 'lots'; it must be a size from 1mb to 16tb"),
        (["--max-memory", "1e9mb"], "--max-memory is '1e9mb'"),
        (["--memory-size", "many"], "--memory-size is 'many'; it must be a whole number of tokens from 64 to"),
        (["--memory-size", "63"], "--memory-size is '63'"),
    ],
)
def test_a_wrong_option_ends_with_a_sentence_that_does_not_tell_the_password(capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        parse(arguments, {})
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert "secretword" not in error
