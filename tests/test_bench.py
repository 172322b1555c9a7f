"""The benchmark's own arithmetic: what counts as received, reached, shown. Nothing is timed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from bench import environments
from bench import report as bench_report
from bench import rounds as bench_rounds
from bench.contenders import probe
from bench.environments import UnavailableError, prepare
from bench.load import Collector, Feeder, LoadError, encode_block, json_bodies, lost, raw_bodies
from bench.measures import MEASURES, TARGETS, Target, summarize, target_value
from bench.rounds import Outcome
from bench.runner import RunError, _check, plan
from bench.workloads import CONTENDERS, QUICK_CONTENDERS, WORKLOADS


def result(n=1000, seconds=1.0, **more):
    facts = {"n": n, "seconds": seconds, "cpu": 0.5, "rss_before": 0, "rss_after": 3_000_000}
    return {**facts, "version": "1.0", "server": "2.15.1", "loop": "asyncio", **more}


def options(action="receive_raw", n=8, warmup=4, block=4, subscriptions=1):
    return probe.Options(
        action, "nats://127.0.0.1:4222", n, warmup, 128, block, subscriptions, 1, 100, False
    )


def task(name="nats-py", workload="receive_raw", n=1000):
    return plan(CONTENDERS[name], ["python"], WORKLOADS[workload], n)


@pytest.fixture
def outcome():
    """tidings twice as fast as nats-py, Panini failed, FastStream not installable."""
    found = Outcome()
    for n in (1000, 3000, 2000):
        found.add(task("tidings"), result(n))
        found.add(task("nats-py"), result(n // 2))
    found.fail(task("panini"), "7 of 9 acknowledged")
    found.unavailable["faststream"] = "pip failed"
    return found


class TestDefinitions:
    def test_every_workload_names_known_contenders(self):
        for workload in WORKLOADS.values():
            assert set(workload.contenders) <= set(CONTENDERS)

    def test_every_measure_has_its_workload_and_every_workload_a_measure(self):
        assert {measure.workload for measure in MEASURES.values()} == set(WORKLOADS)

    def test_every_target_can_be_measured(self):
        for target in TARGETS:
            for measure, contender in filter(None, [target.of, target.against]):
                assert contender in WORKLOADS[MEASURES[measure].workload].contenders

    def test_the_quick_contenders_take_part_in_what_quick_mode_runs(self):
        assert set(QUICK_CONTENDERS) <= set(WORKLOADS["receive_raw"].contenders)

    def test_a_window_stays_below_the_queue_limits_of_tidings(self):
        for workload in WORKLOADS.values():
            assert workload.window < 65_536
            assert workload.window * workload.size < 64 << 20

    def test_every_contender_has_its_script_and_its_requirements(self):
        folder = Path(probe.__file__).parent
        for contender in CONTENDERS.values():
            assert (folder / contender.script).is_file()
            if contender.environment not in ("own", "libnats", "node"):
                assert (folder.parent / f"requirements/{contender.environment}.txt").is_file()


class TestReceiving:
    def test_the_clock_runs_from_the_warm_up_to_the_last_message(self):
        blocks = probe.Blocks(options())
        assert blocks.end(4) == b"count=4"
        assert blocks.end(8) == b"count=8"
        assert not blocks.done.is_set()
        assert blocks.end(12) == b"count=12"
        assert blocks.done.is_set()
        assert "error" not in blocks.result()

    def test_a_lost_message_is_an_error(self):
        blocks = probe.Blocks(options())
        for sequence in (4, 9, 13):
            blocks.end(sequence)
        assert blocks.result()["error"] == "sequence 13 after 12 messages"

    def test_several_subscriptions_have_no_order_to_check(self):
        blocks = probe.Blocks(options(subscriptions=3))
        for _ in range(3):
            blocks.end(-1)
        assert "error" not in blocks.result()

    @pytest.mark.parametrize("size", [1, 16, 128])
    def test_a_block_ends_with_its_sequence_or_a_mark(self, size):
        block = encode_block(raw_bodies(4, size), ["load.0"])
        bodies = re.findall(rb"PUB load\.0 \d+\r\n(.+)\r\n", bytes(block.numbered(4)))
        assert [len(body) for body in bodies] == [size] * 4
        blocks = probe.Blocks(options())
        blocks.end_raw(bodies[-1])
        assert blocks.error == ""
        blocks.end_raw(bodies[-2])
        assert blocks.error

    @pytest.mark.parametrize("rpc", [False, True])
    def test_a_json_block_ends_with_its_sequence(self, rpc):
        block = encode_block(json_bodies(2, rpc), ["load.0"])
        last = block.numbered(700).split(b"\r\n")[-2]
        item = json.loads(last)["params"]["item"] if rpc else json.loads(last)
        assert item["id"] == probe.FIRST_ID + 700
        assert item["tags"] == ["a", "b"]

    def test_a_block_goes_round_the_subjects(self):
        block = encode_block(raw_bodies(5, 1), ["load.0", "load.1"])
        assert re.findall(rb"PUB load\.(\d)", bytes(block.data)) == [b"0", b"1", b"0", b"1", b"0"]

    def test_a_block_has_so_many_headers_in_each_message(self):
        block = encode_block(raw_bodies(3, 16), ["load.0"], headers=2)
        head = b"NATS/1.0\r\nHeader-0: value-0\r\nHeader-1: value-1\r\n\r\n"
        line = b"HPUB load.0 %d %d\r\n" % (len(head), len(head) + 16)
        assert bytes(block.data).count(line + head) == 3
        assert b"%d" % (probe.FIRST_ID + 7) in block.numbered(7)


class FakeWire:
    """A receiver that has everything the moment it is asked."""

    def __init__(self):
        self.sent = self.acknowledged = self.most_unacknowledged = 0
        self._listens = False

    def send(self, data):
        self.sent += data.count(b"PUB")
        self.most_unacknowledged = max(self.most_unacknowledged, self.sent - self.acknowledged)

    def receive(self, deadline):
        self.acknowledged = self.sent
        return b"MSG report.count 1 9\r\ncount=%d\r\n" % self.sent


class SilentWire(FakeWire):
    def receive(self, deadline):
        if not self._listens:
            self._listens = True
            return b"count=0\r\n"
        raise LoadError("nothing arrived in time")


class TestFeeding:
    def test_no_more_than_the_window_is_ever_unacknowledged(self):
        wire = FakeWire()
        Feeder(wire, encode_block(raw_bodies(10, 16), ["load.0"]), 40, 1.0).feed(200)
        assert wire.sent == wire.acknowledged == 200
        assert wire.most_unacknowledged == 40

    def test_a_receiver_that_stops_reporting_is_an_error_with_its_counts(self):
        feeder = Feeder(SilentWire(), encode_block(raw_bodies(10, 16), ["load.0"]), 40, 0.0)
        with pytest.raises(LoadError, match="0 of 40 acknowledged"):
            feeder.feed(200)


class TestThreads:
    @staticmethod
    def frames(*numbered):
        return b"".join(
            b"MSG load.0 1 20\r\nt%d %d xx\r\n" % (thread, probe.FIRST_ID + number)
            for thread, number in numbered
        )

    def test_all_there_in_the_order_of_each_thread(self):
        assert lost(self.frames((0, 0), (1, 0), (1, 1), (0, 1)), 4) == ""

    def test_missing_messages_are_counted(self):
        assert lost(self.frames((0, 0), (1, 0)), 4) == "2 of 4 messages are missing"

    def test_doubled_messages_are_noticed(self):
        assert lost(self.frames((0, 0), (0, 0)), 2) == "messages are duplicated or out of order"

    def test_a_collector_says_how_many_never_came(self):
        with pytest.raises(LoadError, match="4 of 4 messages are missing"):
            Collector(_Never(), 0.0).collect(4, 128)


class _Never(FakeWire):
    def receive(self, deadline):
        raise LoadError("nothing arrived in time")


class TestKeysAndObjects:
    async def test_every_write_must_get_a_revision_of_its_own(self):
        revisions = iter([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11])

        async def put(key, value):
            return next(revisions)

        found = await probe.key_value_put(options("key_value_put"), put)
        assert (found["sent"], found["error"]) == (12, "1 wrong answers")

    async def test_every_read_must_return_the_value_of_its_key(self):
        values = {}

        async def put(key, value):
            values[key] = value

        async def get(key):
            return values["key.0" if key == "key.3" else key]

        found = await probe.key_value_get(options("key_value_get"), put, get)
        assert (found["sent"], found["error"]) == (probe.KEYS, "1 wrong answers")

    async def test_every_object_must_come_back_as_it_was(self, monkeypatch):
        monkeypatch.setattr(probe, "OBJECT_SIZE", 16)
        store = {}

        async def put(name, data):
            store[name] = data

        async def get(name):
            return store[name] if name != "object-1" else b""

        found = await probe.object_get(options("object_get"), put, get)
        assert (found["bytes"], found["error"]) == (8 * 16, "2 wrong answers")


class TestRuns:
    def test_messages_come_in_whole_blocks(self):
        planned = task(n=1)
        assert planned.n == planned.warmup == WORKLOADS["receive_raw"].block

    def test_a_contender_on_the_wrong_loop_is_refused(self):
        planned = task("tidings-uvloop")
        with pytest.raises(RunError, match="asyncio instead of uvloop"):
            _check(planned, result(planned.n))

    def test_a_contender_on_the_wrong_core_is_refused(self):
        planned = task("tidings-pure")
        with pytest.raises(RunError, match="on the compiled core instead of pure"):
            _check(planned, result(planned.n, core="compiled"))
        _check(planned, result(planned.n, core="pure"))

    def test_only_the_pure_contender_chooses_its_core(self):
        assert task("tidings-pure").environment() == {"TIDINGS_CORE": "pure"}
        assert task("tidings").environment() == {}

    def test_a_contender_that_reports_an_error_is_refused(self):
        planned = task()
        with pytest.raises(RunError, match="3 wrong answers"):
            _check(planned, result(planned.n, error="3 wrong answers"))

    def test_one_failure_takes_back_what_was_measured_before(self, outcome):
        outcome.fail(task("tidings"), "lost one")
        assert "tidings" not in summarize(outcome.results)["receive_raw"]

    def test_the_command_line_says_uvloop_only_where_it_is_meant(self):
        assert "--uvloop" in task("tidings-uvloop").arguments("publish", "nats://x")
        assert "--uvloop" not in task("tidings").arguments("publish", "nats://x")


class TestEnvironments:
    def test_no_compiler_leaves_the_c_client_out_with_a_hint(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(UnavailableError, match="install gcc"):
            prepare(CONTENDERS["libnats"], print)

    def test_no_node_leaves_its_client_out_with_a_hint(self, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(UnavailableError, match="install Node 20"):
            prepare(CONTENDERS["nats.js"], print)

    def test_without_a_compiled_core_the_pure_contender_is_left_out(self, monkeypatch):
        monkeypatch.setattr(environments.core, "NAME", "pure")
        with pytest.raises(UnavailableError, match="itself runs without the compiled core"):
            prepare(CONTENDERS["tidings-pure"], print)

    def test_with_a_compiled_core_the_pure_contender_runs(self, monkeypatch):
        monkeypatch.setattr(environments.core, "NAME", "compiled")
        assert prepare(CONTENDERS["tidings-pure"], print)[1].endswith("tidings_app.py")

    def test_a_peer_that_cannot_be_installed_is_left_out_and_the_rest_goes_on(self, monkeypatch):
        def prepare_but_one(contender, say):
            if contender.name == "panini":
                raise UnavailableError("pip failed: no matching distribution")
            return ["python"]

        said = []
        monkeypatch.setattr(bench_rounds, "prepare", prepare_but_one)
        found = bench_rounds.run_all([], ["tidings", "panini"], 1, 1.0, said.append)
        assert found.unavailable == {"panini": "pip failed: no matching distribution"}
        assert said == ["panini is left out: pip failed: no matching distribution"]


class TestTargets:
    def test_medians_not_means_are_compared(self, outcome):
        summary = summarize(outcome.results)["receive_raw"]["tidings"]
        assert (summary.least, summary.median, summary.most) == (1000, 2000, 3000)

    @pytest.mark.parametrize(
        ("limit", "at_least", "word"),
        [
            (2.0, True, "reached"),
            (2.1, True, "missed"),
            (2.0, False, "reached"),
            (1.9, False, "missed"),
        ],
    )
    def test_a_verdict(self, outcome, limit, at_least, word):
        pair = ("receive_raw", "tidings"), ("receive_raw", "nats-py")
        target = Target("receive", pair[0], limit, pair[1], at_least)
        verdict = bench_report.verdict(target, summarize(outcome.results), {})
        assert (verdict["value"], verdict["verdict"]) == (2.0, word)

    def test_what_was_not_measured_has_no_verdict(self, outcome):
        target = Target("publish", ("publish", "tidings"), 1.8, ("publish", "nats-py"))
        assert target_value(target, summarize(outcome.results)) is None
        assert bench_report.verdict(target, {}, {})["verdict"] == "not measured"

    def test_a_target_whose_contender_failed_says_so(self):
        target = Target("publish", ("publish", "tidings"), 1.8, ("publish", "nats-py"))
        failed = {"publish": {"nats-py": "lost 3 messages"}}
        assert bench_report.verdict(target, {}, failed)["verdict"] == "failed"

    def test_wanted_says_it_in_words(self):
        texts = [bench_report.wanted(target) for target in TARGETS]
        assert texts[0] == "at least 1.8 x nats-py"
        assert "at least 2.5 x nats-py's publish 128 B, await" in texts
        assert "at most 2 MB" in texts
        assert "at least 100,000/s" in texts


class TestReport:
    @pytest.fixture
    def report(self, outcome):
        return bench_report.make_report(outcome, "python -m bench", 3, 1.0)

    def test_ratios_are_read_back_from_the_json(self, report, tmp_path):
        paths = bench_report.write(report, tmp_path, "full")
        assert [path.name for path in paths] == ["full.json", "full.md"]
        ratios = bench_report.ratios(tmp_path / "full.json")
        assert ratios["receive_raw/nats-py"] == 2.0
        assert ratios["receive_cpu/nats-py"] == 0.5

    def test_publishing_without_await_is_divided_by_the_only_publish_of_nats_py(self, tmp_path):
        found = Outcome()
        found.add(task("tidings", "publish_sync"), result(3000))
        found.add(task("nats-py", "publish"), result(1000))
        report = bench_report.make_report(found, "python -m bench", 1, 1.0)
        bench_report.write(report, tmp_path, "full")
        assert bench_report.ratios(tmp_path / "full.json") == {"publish_sync/nats-py": 3.0}

    def test_the_ratios_of_the_pure_core_are_its_own(self, tmp_path):
        found = Outcome()
        found.add(task("tidings"), result(3000))
        found.add(task("tidings-pure"), result(2000))
        found.add(task("nats-py"), result(1000))
        report = bench_report.make_report(found, "python -m bench", 1, 1.0)
        bench_report.write(report, tmp_path, "full")
        pure = bench_report.ratios(tmp_path / "full.json", "tidings-pure")
        assert pure["receive_raw/nats-py"] == 2.0

    def test_a_failed_contender_shows_as_failed_and_a_missing_one_as_left_out(self, report):
        text = bench_report.to_markdown(report)
        row = next(line for line in text.splitlines() if line.startswith("| receive 128 B"))
        assert row == "| receive 128 B, /s | 2,000 | 1,000 | failed | left out |"
        assert "- panini failed at receive_raw: 7 of 9 acknowledged." in text
        assert "- faststream was left out: pip failed." in text

    def test_the_table_names_its_command_and_the_verdicts(self, report):
        text = bench_report.to_markdown(report)
        assert text.startswith("`python -m bench`\n")
        assert "| receive raw | tidings | at least 2.4 x nats-py | 2.00 x | missed |" in text

    def test_a_failed_contender_takes_no_target(self, outcome):
        outcome.fail(task("nats-py"), "lost 3 messages")
        report = bench_report.make_report(outcome, "python -m bench", 3, 1.0)
        row = "| receive raw | tidings | at least 2.4 x nats-py | - | failed |"
        assert row in bench_report.to_markdown(report)

    def test_versions_are_named_once_for_both_loops(self):
        found = Outcome()
        for name in ("nats-py", "nats-py-uvloop", "bare"):
            found.add(task(name), result(version="2.16.0" if "nats" in name else ""))
        assert bench_report.versions(found) == {"nats-server": "2.15.1", "nats-py": "2.16.0"}

    def test_the_cores_that_ran_are_named(self):
        found = Outcome()
        found.add(task("tidings"), result(core="compiled"))
        found.add(task("tidings-pure"), result(core="pure"))
        report = bench_report.make_report(found, "python -m bench", 1, 1.0)
        assert report["cores"] == {"tidings": "compiled", "tidings-pure": "pure"}
        assert report["versions"] == {"nats-server": "2.15.1", "tidings": "1.0"}
        text = bench_report.to_markdown(report)
        assert "On the compiled core: tidings. On the pure core: tidings-pure." in text

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("'--enable-optimizations' '--with-lto'", "with PGO and LTO"),
            ("'--enable-optimizations'", "with PGO"),
            ("'--enable-shared'", "without PGO and LTO"),
        ],
    )
    def test_the_build_of_python_is_named(self, options, words, monkeypatch):
        monkeypatch.setattr(bench_report.sys, "base_prefix", "/opt/python")
        monkeypatch.setattr(bench_report.sysconfig, "get_config_var", lambda name: options)
        assert bench_report.build() == words

    def test_nothing_names_the_machine(self, report):
        assert set(report["machine"]) == {"cores", "system", "architecture", "python", "build"}

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1_234_567, "1.23M"),
            (999_600, "1.00M"),
            (456_789, "457k"),
            (22_040, "22k"),
            (22_340, "22.3k"),
            (7_890.4, "7,890"),
            (123.4, "123"),
            (12.34, "12.3"),
            (0.414, "0.41"),
            (-0.02, "-0.02"),
        ],
    )
    def test_a_number_has_three_digits(self, value, text):
        assert bench_report.number(value) == text


def test_percentiles_take_the_ranked_values():
    latencies = [i / 1000 for i in range(100, 0, -1)]
    assert probe.percentiles(latencies) == {"p50": 0.051, "p99": 0.1}
