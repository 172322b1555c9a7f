"""The harness in the root's conftest.py: a document that does not hold fails."""

from collections.abc import Callable
from pathlib import Path

import pytest

HARNESS = (Path(__file__).parents[1] / "conftest.py").read_text()
SETTINGS = """
[pytest]
addopts = -p no:tidings -p no:hypothesispytest -p no:anyio
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Runs documents, given as text, through the harness."""

    def run(*documents: str) -> pytest.RunResult:
        pytester.makeconftest(HARNESS + "\nPATIENCE = 0.5\n")
        pytester.makeini(SETTINGS)
        for number, text in enumerate(documents):
            pytester.path.joinpath(f"page{number}.md").write_text(text)
        return pytester.runpytest_inprocess("-rs")

    return run


def python(source: str, title: str = "") -> str:
    attributes = f' title="{title}"' if title else ""
    return f"```python{attributes}\n{source}\n```\n\n"


def output(text: str) -> str:
    return f"```output\n{text}\n```\n\n"


def test_snippets_share_names_and_await_at_the_top_level(run: Run) -> None:
    first = python("import asyncio\nqueue = asyncio.Queue()\nawait queue.put('a')")
    second = python("assert await queue.get() == 'a'")
    run(first + second).assert_outcomes(passed=2)


def test_documents_do_not_share_names(run: Run) -> None:
    run(python("x = 1"), python("assert 'x' not in globals()")).assert_outcomes(passed=2)


def test_a_snippet_that_fails_is_a_failure_at_its_line(run: Run) -> None:
    result = run("# Title\n\n" + python("x = 1\nassert x == 2"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">*assert x == 2", "page0.md:5: AssertionError"])


def test_a_snippet_that_fails_after_an_await_is_a_failure(run: Run) -> None:
    source = "import asyncio\nawait asyncio.sleep(0)\nraise LookupError"
    run(python(source)).assert_outcomes(failed=1)


def test_a_document_has_a_server_of_its_own(run: Run) -> None:
    source = """
import os, pathlib
from tidings import App

assert os.environ["NATS_URL"] == "nats://127.0.0.1:4222"
url = "nats://127.0.0.1:4222"
async with App("first", servers=url) as app:
    assert app.connected_url == url
with pathlib.Path("urls").open("a") as file:
    file.write(url + " ")
"""
    run(python(source), python(source)).assert_outcomes(passed=2)
    first, second = Path("urls").read_text().split()
    assert first != second
    assert not {first, second} & {"nats://127.0.0.1:4222"}


def test_a_failure_with_a_cause_is_told_with_it(run: Run) -> None:
    source = "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise LookupError from error"
    result = run(python(source))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError*", "*direct cause*", "*LookupError*"])


def test_a_file_left_open_is_a_failure(run: Run) -> None:
    result = run(python("open('left', 'w')") + python("pass"))
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*ResourceWarning: unclosed file*"])


def test_the_main_block_of_a_service_does_not_run(run: Run) -> None:
    run(python("if __name__ == '__main__':\n    raise SystemExit")).assert_outcomes(passed=1)


def test_type_hints_of_a_snippet_resolve(run: Run) -> None:
    source = """
from dataclasses import dataclass
from typing import get_type_hints

@dataclass
class Order:
    previous: "Order"

assert get_type_hints(Order) == {"previous": Order}
"""
    run(python(source)).assert_outcomes(passed=1)


def test_an_app_that_is_run_answers_later_snippets(run: Run) -> None:
    service = """
from tidings import App

app = App(service_name="adder", servers="nats://127.0.0.1:4222")

@app.listen("snippets.add")
async def add(msg):
    return msg.data["a"] + msg.data["b"]
"""
    call = 'print(await app.request("snippets.add", {"a": 1, "b": 2}, response_data_type=int))'
    result = run(python(service) + "<!-- run: app -->\n\n" + python(call) + output("3"))
    result.assert_outcomes(passed=4)


def test_a_task_that_fails_in_the_background_fails_the_document(run: Run) -> None:
    service = """
from tidings import App

app = App(service_name="failing")

@app.task()
async def fail():
    raise LookupError
"""
    result = run(python(service) + "<!-- run: app -->\n\n" + python("pass"))
    assert {"failed", "errors"} & set(result.parseoutcomes())
    result.stdout.fnmatch_lines(["*no `logs` marker announces*"])


def test_an_error_that_the_document_announces_is_no_failure(run: Run) -> None:
    log = python("import logging\nlogging.getLogger('tidings').error('no such bucket')")
    run("<!-- logs: such bucket -->\n\n" + log).assert_outcomes(passed=2)


def test_an_error_that_the_document_announces_in_vain_is_a_failure(run: Run) -> None:
    result = run("<!-- logs: no such bucket -->\n\n" + python("pass"))
    result.assert_outcomes(passed=2, errors=1)


def test_output_from_another_thread_is_waited_for(run: Run) -> None:
    source = "import threading\nthreading.Timer(0.1, print, ('at', 12.5, 's')).start()"
    run(python(source) + output("at ... s")).assert_outcomes(passed=2)


def test_output_that_is_not_printed_is_a_failure(run: Run) -> None:
    result = run(python("print('one')\nprint('three')") + output("one\ntwo"))
    result.assert_outcomes(passed=1, failed=1)


def test_output_is_shown_once(run: Run) -> None:
    shown = output("one")
    run(python("print('one')") + shown + shown).assert_outcomes(passed=2, failed=1)


def test_a_snippet_with_a_title_is_a_file_to_import(run: Run) -> None:
    module = python("price = 3", title="prices.py")
    run(module + python("import prices\nassert prices.price == price")).assert_outcomes(passed=2)


def test_a_snippet_that_is_a_test_file_runs_with_pytest(run: Run) -> None:
    module = python("price = 3", title="prices.py")
    source = "from prices import price\n\nasync def test_price():\n    assert price == {}"
    good, bad = (python(source.format(price), title="test_prices.py") for price in (3, 4))
    result = run(module + good, module + bad)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*assert 3 == 4*"])


def test_tests_that_no_pytest_would_run_are_a_failure(run: Run) -> None:
    run(python("def test_nothing():\n    assert False")).assert_outcomes(failed=1)


def test_a_skipped_snippet_is_reported_with_its_reason(run: Run) -> None:
    result = run("<!-- skip: needs a cluster -->\n\n" + python("1 / 0") + python("pass"))
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs a cluster"])


def test_a_skipped_snippet_still_has_to_compile(run: Run) -> None:
    run("<!-- skip: needs a cluster -->\n\n" + python("def f(:")).assert_outcomes(failed=1)


def test_a_block_in_a_comment_runs(run: Run) -> None:
    run(f"<!--\n{python('assert False')}-->\n").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    "text",
    [
        "```\nx = 1\n```\n",
        "```py\nx = 1\n```\n",
        "``` {.python}\nx = 1\n```\n",
        "<!-- runs: app -->\n",
        "<!-- run: -->\n",
        "<!-- skip: no reason -->\n",
        "<!-- skip: -->\n\n" + python("x = 1"),
    ],
)
def test_a_block_or_marker_that_would_be_passed_over_is_an_error(run: Run, text: str) -> None:
    run(text).assert_outcomes(errors=1)


def test_plain_comments_and_other_languages_are_left_alone(run: Run) -> None:
    text = "<!-- prettier-ignore -->\n```text\n<!-- run: app -->\n```\n\n"
    run(text + python("x = 1")).assert_outcomes(passed=1)
