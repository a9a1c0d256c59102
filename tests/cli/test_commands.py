"""Every noun and verb of the command line, as processes against a real controller."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from cli.conftest import MIB, Site
from processes import Daiko, free_port, image


def test_backends_are_listed_with_what_they_can_do(site: Site) -> None:
    found = {backend["name"]: backend for backend in site.json("backend", "ls")}
    assert {"sd1", "sd2", "old", "vault"} <= set(found)
    able = {
        name: {row["function"]: row["can"] for row in found[name]["functions"]}["direct-backup"]
        for name in ("sd1", "sd2", "old")
    }
    assert able == {"sd1": True, "sd2": True, "old": False}
    text = site.run("backend", "ls").stdout
    head = ["name", "answers", "LUs", "capacity", "direct", "backup", "address"]
    assert text.splitlines()[0].split() == head
    assert site.old.iqn in text


def test_backend_is_shown_with_its_devices(site: Site) -> None:
    shown = site.run("backend", "show", "old").stdout
    assert "old/1" in shown
    assert "8 MiB" in shown
    assert "used by   alpha" in shown
    assert site.json("backend", "show", "old")["devices"][0]["blocks"] == 16384


def test_only_target_of_a_portal_need_not_be_named(site: Site, tmp_path: Path) -> None:
    with Daiko(tmp_path, image(tmp_path / "disk.img", MIB), name="single") as single:
        site.run("backend", "add", "single", f"iscsi://{single.portal}")
        assert site.json("backend", "show", "single")["iqn"] == single.iqn
        assert "1 LU" in site.run("backend", "rescan", "single").stdout
        assert "can" in site.run("backend", "probe", "single").stdout
        assert "detached" in site.run("backend", "rm", "single").stdout


def test_management_url_is_set_shown_and_cleared(site: Site) -> None:
    url = "https://daiko.example.com:3261"
    assert "no management URL" in site.run("management", "show").stdout
    assert url in site.run("management", "set", url).stdout
    assert site.json("management", "show") == [url]
    assert "no management URL" in site.run("management", "clear").stdout
    assert site.json("management", "show") == []


def test_file_is_attached_under_its_whole_path(site: Site, tmp_path: Path) -> None:
    disk = image(tmp_path / "own.img", MIB)
    added = site.json("backend", "add", "own", str(disk))
    assert (added["type"], added["path"]) == ("internal", str(disk))
    site.run("backend", "rm", "own")


def test_function_set_by_hand_wins_until_it_is_unset(site: Site) -> None:
    reason = ("--reason", "licence ran out")
    site.run("function", "set", "sd2", "direct-backup", "cannot", *reason)
    rows = {(r["backend"], r["function"]): r for r in site.json("function", "ls")}
    row = rows["sd2", "direct-backup"]
    assert (row["can"], row["known"], row["reason"]) == (False, "by hand", "licence ran out")
    assert (row["hidden"]["can"], row["hidden"]["known"]) == (True, "probed")
    assert "licence ran out" in site.run("function", "show", "sd2").stdout
    step = site.json("explain", "backup", "alpha", "--to", "vault")["steps"][1]
    assert step["executor"] == "this controller"
    assert any("licence ran out" in rejected["reason"] for rejected in step["rejected"])
    site.run("function", "unset", "sd2", "direct-backup")
    rows = {(r["backend"], r["function"]): r for r in site.json("function", "ls")}
    assert rows["sd2", "direct-backup"]["can"] is True
    site.run("function", "unset", "sd2", "direct-backup", code=3)
    site.run("function", "probe", "sd2")


def test_reachability_is_probed_set_and_unset(site: Site) -> None:
    probed = site.json("function", "probe-reach", "sd1", "vault/1")
    assert (probed["can"], probed["known"]) == (True, "probed")
    hand = site.json("function", "set-reach", "sd1", "vault/1", "cannot")
    assert (hand["can"], hand["known"], hand["hidden"]["can"]) == (False, "by hand", True)
    assert "by hand" in site.run("function", "reach").stdout
    site.run("function", "unset-reach", "sd1", "vault/1")
    rows = {(r["backend"], r["device"]): r["can"] for r in site.json("function", "reach")}
    assert rows["sd1", "vault/1"] is True


def test_volume_is_made_automatically_and_forgotten(site: Site) -> None:
    options = ("--size", "2MiB", "--from", "vault", "--mode", "direct")
    made = site.json("volume", "add", "auto", *options)
    assert (made["size"], made["mode"]) == (2 * MIB, "direct")
    assert "auto" in site.run("volume", "ls").stdout
    assert f"naa.{made['naa']}" in site.run("volume", "show", "auto").stdout
    assert site.json("volume", "set", "auto", "--mode", "local")["mode"] == "local"
    assert "as the system" in site.run("volume", "set", "auto", "--mode", "system").stdout
    site.run("volume", "rm", "auto")
    site.run("volume", "show", "auto", code=3)


def test_volume_and_its_file_grow(site: Site, tmp_path: Path) -> None:
    site.run("backend", "add", "growing", str(image(tmp_path / "growing.img", MIB)))
    site.run("volume", "add", "rising", "--image", "growing")
    assert "2 MiB" in site.run("backend", "grow", "growing", "--size", "2MiB").stdout
    assert site.json("volume", "grow", "rising", "--by", "512KiB")["size"] == 3 * MIB // 2
    assert "2 MiB in 1 extent;" in site.run("volume", "grow", "rising", "--max").stdout
    assert "does not shrink" in site.run("volume", "grow", "rising", "--size", "1M", code=4).stderr
    site.run("volume", "grow", "rising", code=2)
    site.run("volume", "grow", "rising", "--max", "--by", "1M", code=2)
    assert site.json("backend", "grow", "growing", "--size", "3MiB")["devices"][0]["blocks"] == 6144
    site.run("backend", "grow", "old", "--size", "1G", code=2)
    site.run("volume", "rm", "rising")
    site.run("backend", "rm", "growing")


def test_image_volume_is_taken_in_and_given_back(site: Site, tmp_path: Path) -> None:
    disk = image(tmp_path / "old-disk.img", MIB, seed=9)
    before = disk.read_bytes()
    site.run("backend", "add", "attic", str(disk))
    site.run("volume", "add", "keepsake", "--image", "attic")
    assert site.json("volume", "show", "keepsake")["image"] is True
    assert "attic/0" in site.run("volume", "release", "keepsake").stdout
    site.run("backend", "rm", "attic")
    assert disk.read_bytes() == before


def test_mapping_tells_where_a_block_lies(site: Site) -> None:
    rows = site.json("mapping", "show", "alpha")
    assert [(row["lba"], row["device"]) for row in rows] == [
        (0, "sd1/0"),
        (8192, "sd2/0"),
        (16384, "old/1"),
    ]
    said = site.run("mapping", "show", "alpha", "--lba", "8200").stdout
    assert said == "block 8,200 of alpha is block 8 of sd2/0\n"
    assert [row["device"] for row in site.json("mapping", "ls", "--device", "old")] == ["old/1"]
    assert "sd2/0" in site.run("mapping", "ls").stdout


def test_host_sees_what_it_is_given_and_nothing_else(site: Site) -> None:
    iqn = "iqn.2026-11.com.example:db1"
    site.run("host", "add", "db1", "--initiator", iqn)
    assert "as LUN 0" in site.run("host", "map", "db1", "alpha").stdout

    def listed(initiator: str) -> str:
        url = f"iscsi://{site.first.portal}"
        command = ["iscsi-ls", "-i", initiator, "-s", url]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert "Lun:0" in listed(iqn)
    assert "Lun:0" not in listed("iqn.2026-11.com.example:stranger")
    assert site.json("host", "ls")[0]["luns"] == {"0": "alpha"}
    site.run("host", "allow-copy", "db1", "10.0.0.9")
    assert "10.0.0.9:3260" in site.run("host", "show", "db1").stdout
    site.run("host", "forbid-copy", "db1")
    assert "LUN 0" in site.run("host", "unmap", "db1", "0").stdout
    site.run("host", "unmap", "db1", "alpha", code=3)
    assert f"{iqn}:2" in site.run("host", "set", "db1", "--initiator", f"{iqn}:2").stdout
    site.run("host", "rm", "db1")


def test_explain_prints_the_plan_and_runs_nothing(site: Site) -> None:
    before = site.json("job", "ls")
    text = site.run("explain", "backup", "alpha", "--to", "vault", columns=100).stdout
    assert "12 MiB (24,576 blocks) in 3 steps; 8 MiB handed over, 4 MiB by this" in text
    assert "second controller sd1" in text
    assert "not this controller" in text
    assert "not second controller old" in text
    assert "nothing was run" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert site.json("job", "ls") == before


def test_backup_is_handed_over_reported_and_brought_back(site: Site) -> None:
    done = site.run("backup", "run", "alpha", "--to", "vault")
    assert "100 %" in done.stderr
    assert "8 MiB moved by second controllers" in done.stdout
    assert "restorable    yes" in done.stdout
    backup = site.json("backup", "ls")[0]
    assert (backup["state"], backup["restorable"]) == ("done", True)
    assert backup["bytes_delegated"] == 8 * MIB
    assert [(step["executor"], step["delegated"]) for step in backup["steps"]] == [
        ("second controller sd1", True),
        ("second controller sd2", True),
        ("this controller", False),
    ]
    assert [step["bytes_through_first_controller"] for step in backup["steps"][:2]] == [0, 0]
    id = str(backup["id"])
    assert site.json("backup", "show", id)["steps"] == backup["steps"]
    held = (site.folder / "vault.img").read_bytes()
    parts = [(site.folder / f"{name}.img").read_bytes() for name in ("sd1", "sd2", "old")]
    assert held[: 12 * MIB] == b"".join(part[: 4 * MIB] for part in parts)
    assert "--yes" in site.run("backup", "restore", id, code=2).stderr
    assert "restore" in site.run("backup", "restore", id, "--yes").stdout
    plan = site.json("explain", "restore", id)
    assert [step["destination"] for step in plan["steps"]] == ["sd1/0", "sd2/0", "old/1"]


def test_copy_of_a_range_is_started_and_waited_for_later(site: Site) -> None:
    place = ("--range", "8192:2048", "--at", "40000")
    started = site.json("copy", "run", "alpha", "vault", *place, "--no-wait")
    assert (started["blocks"], started["request"]["ranges"]) == (2048, [[8192, 2048, 40000]])
    id = str(started["id"])
    ended = site.json("job", "wait", id)
    assert ended["state"] == "done"
    assert ended == site.json("job", "show", id)
    assert ended["steps"]
    assert "copy" in site.run("job", "show", id).stdout
    assert site.json("copy", "show", id)["confirmed_blocks"] == 2048
    assert site.json("copy", "ls")[0]["id"] == started["id"]
    assert id in site.run("job", "ls", "--type", "copy", "--limit", "1").stdout
    site.run("job", "cancel", id, code=4)
    held = (site.folder / "vault.img").read_bytes()
    assert held[40000 * 512 :][:MIB] == (site.folder / "sd2.img").read_bytes()[:MIB]


def test_pace_is_shown_changed_and_refused_where_it_is_none(site: Site) -> None:
    options = ("copy", "run", "alpha", "vault", "--no-wait", "--pace")
    refused = site.run(*options, "50MiB", code=2).stderr
    assert "'50MiB' is not a pace" in refused
    assert "write it as full, as a rate (50MiB/s)" in refused
    started = site.json(*options, "1KiB/s")
    id = str(started["id"])
    assert started["pace"] == "1KiB/s"
    assert "pace          1KiB/s" in site.run("job", "show", id).stdout
    lines = site.run("job", "ls").stdout.splitlines()
    assert lines[0].split()[-1] == "pace"
    assert next(cells for cells in map(str.split, lines) if cells[:1] == [id])[-1] == "1KiB/s"
    said = site.run("job", "pace", id, "1KB/s,latency:5ms").stdout
    assert said == f"copy {id} goes at pace 1KB/s,latency:5ms now\n"
    assert site.json("job", "pace", id, "full")["pace"] == "full"
    assert site.json("job", "wait", id)["state"] == "done"
    site.run("job", "pace", id, "full", code=4)
    site.run("job", "pace", "4711", "full", code=3)


def test_exported_file_applies_without_a_change(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "system.toml"
    site.run("export", str(file))
    assert site.run("export").stdout == file.read_text()
    document = tomllib.loads(file.read_text())
    assert set(document["backend"]) >= {"sd1", "sd2", "old", "vault"}
    assert "matches already" in site.run("apply", str(file)).stdout
    more = file.read_text() + '\n[host.late]\ninitiators = ["iqn.2026-11.com.example:late"]\n'
    dry = site.run("apply", "-", "--dry-run", text=more).stdout
    assert dry.splitlines()[0].startswith("+ host late")
    assert "nothing was done" in dry
    assert "1 change done" in site.run("apply", "-", text=more).stdout
    assert site.json("host", "show", "late")["luns"] == {}
    assert "- host late" in site.run("apply", str(file)).stdout


def test_file_with_a_pair_asks_before_it_overwrites(site: Site, tmp_path: Path) -> None:
    before = site.run("export").stdout
    more = before
    for seed, name in enumerate(("left", "right")):
        disk = image(tmp_path / f"{name}.img", MIB, seed=seed)
        more += f'[backend.{name}-disk]\npath = "{disk}"\n'
        more += f'[volume.{name}]\nimage = "{name}-disk/0"\n'
    site.run("apply", "-", text=more)
    file = tmp_path / "with-pair.toml"
    pair = '[pair.mirror]\nprimary = "left"\nsecondary = "right"\n'
    file.write_text(more + pair)
    lost = f"all {MIB:,} bytes of right would be overwritten"
    dry = site.run("apply", str(file), "--dry-run").stdout
    assert dry.splitlines()[0] == f"+ pair mirror  right is kept like left; {lost}"
    for options in ((), ("--json",)):
        refused = site.run("apply", str(file), *options, code=4 if options else 2).stderr
        assert lost in refused
        assert "--yes" in refused
    assert site.json("pair", "ls") == []
    assert "1 change done" in site.run("apply", str(file), "--yes").stdout
    site.run("pair", "wait", "mirror")
    assert (tmp_path / "right.img").read_bytes() == (tmp_path / "left.img").read_bytes()
    (paced,) = site.json("apply", "-", text=more + pair + 'pace = "1MiB/s"\n')["changes"]
    assert (paced["action"], paced["detail"]) == ("change", "copies at pace 1MiB/s")
    exported = site.run("export").stdout
    assert tomllib.loads(exported)["pair"] == {
        "mirror": {"primary": "left", "secondary": "right", "pace": "1MiB/s"}
    }
    assert "matches already" in site.run("apply", "-", text=exported).stdout
    gone = site.run("apply", "-", text=before).stdout
    assert gone.startswith("- pair mirror  it is not in the document")


def test_version_needs_no_controller() -> None:
    command = [sys.executable, "-m", "daiko", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"daiko {version('daiko')}\n"


def test_status_is_the_whole_at_a_glance(site: Site) -> None:
    text = site.run("status").stdout
    assert site.first.iqn in text
    assert "mode delegate" in text
    assert site.json("status")["portals"] == [site.first.portal]


def test_portals_are_added_grouped_given_states_and_removed(site: Site) -> None:
    portal = f"127.0.0.1:{free_port()}"
    added = site.json("portal", "add", portal, "--tag", "2")
    assert (added["tag"], added["target_port_group"]) == (2, 2)
    assert added["portals"] == [{"portal": portal, "listening": True}]
    assert portal in site.run("portal", "ls").stdout
    assert "nobody" in site.run("portal", "show", "2").stdout
    assert "target port group 1" in site.run("portal", "set-group", "2", "1").stdout
    site.run("portal", "set-group", "2", "2")
    said = site.run("portal", "set-state", "2", "active-non-optimized", "--prefer").stdout
    assert said == "target port group 2: active-non-optimized, preferred\n"
    options = ("portal", "set-state", "2", "standby", "--volume", "alpha")
    assert site.json(*options)["state"] == "standby"
    shown = site.json("portal", "groups", "--volume", "alpha")
    assert [group["state"] for group in shown] == ["active-optimized", "standby"]
    assert "alpha" in site.run("portal", "groups").stdout
    options = ("portal", "set-state", "2", "default", "--volume", "alpha")
    assert site.json(*options)["state"] == "active-non-optimized"
    site.run("portal", "set-state", "2", "default", code=2)
    site.run("portal", "set-state", "2", code=2)
    site.run("portal", "set-state", "2", "standby")
    assert "--force" in site.run("portal", "set-state", "1", "unavailable", code=4).stderr
    assert "portal group 3" in site.run("portal", "set-tag", portal, "3").stdout
    assert "listens no more" in site.run("portal", "rm", portal).stdout
    site.run("portal", "rm", portal, code=3)
    site.run("portal", "rm", site.first.portal, code=4)


def test_hosts_can_be_kept_from_setting_states(site: Site) -> None:
    said = site.run("system", "set", "--no-hosts-set-states").stdout
    assert "they may not set states of target port groups" in said
    assert site.json("status")["hosts_set_states"] is False
    assert site.json("system", "set", "--hosts-set-states")["hosts_set_states"] is True


def test_how_many_jobs_are_kept_can_be_set(site: Site) -> None:
    assert (
        "the last 2,000 ended jobs are kept"
        in site.run("system", "set", "--jobs-kept", "2000").stdout
    )
    assert site.json("status")["jobs_kept"] == 2000
    site.run("system", "set", "--jobs-kept", "0", code=2)


def test_host_is_limited_to_portal_groups(site: Site) -> None:
    portal = f"127.0.0.1:{free_port()}"
    site.run("portal", "add", portal, "--tag", "5")
    iqn = "iqn.2026-11.com.example:limited"
    made = site.json("host", "add", "limited", "--initiator", iqn, "--portal-group", "5")
    assert made["portal_groups"] == [5]
    assert "portal groups 5" in site.run("host", "show", "limited").stdout
    site.run("portal", "rm", portal, code=4)
    assert "all portal groups" in site.run("host", "set", "limited", "--all-portal-groups").stdout
    site.run("host", "set", "limited", "--all-portal-groups", "--portal-group", "5", code=2)
    site.run("host", "set", "limited", code=2)
    site.run("host", "rm", "limited")
    site.run("portal", "rm", portal)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(("volume", "show", "none"), 3, "none", id="no-such-volume"),
        pytest.param(("backend", "rm", "sd1"), 4, "daiko volume rm alpha", id="in-use"),
        pytest.param(("volume", "add", "x"), 2, "--extent", id="no-way-said"),
        pytest.param(
            ("volume", "add", "x", "--size", "1G", "--image", "sd1"), 2, "one way", id="two-ways"
        ),
        pytest.param(("volume", "add", "x", "--size", "1G"), 2, "--from", id="size-alone"),
        pytest.param(
            ("volume", "add", "x", "--size", "1Z", "--from", "sd1"), 2, "512MiB", id="bad-size"
        ),
        pytest.param(
            ("volume", "add", "x", "--extent", "sd1:0:1"), 2, "sd1/0", id="device-without-lun"
        ),
        pytest.param(("volume", "add", "x", "--extent", "sd1/0"), 2, "LBA:", id="bad-extent"),
        pytest.param(
            ("backup", "run", "alpha", "--to", "vault", "--range", "7"), 2, "LBA:", id="bad-range"
        ),
        pytest.param(
            ("backup", "run", "alpha", "--to", "vault", "--mode", "x"), 2, "direct", id="bad-mode"
        ),
        pytest.param(("backup", "run", "alpha", "--to", "none"), 3, "none", id="no-such-target"),
        pytest.param(("backup", "run", "alpha"), 2, "--to", id="no-target"),
        pytest.param(("function", "set", "sd1", "x", "can"), 3, "direct-backup", id="no-function"),
        pytest.param(
            ("function", "set", "sd1", "direct-backup", "may"), 2, "cannot", id="neither-word"
        ),
        pytest.param(("host", "add", "h", "-i", "x"), 2, "iqn.", id="no-iscsi-name"),
        pytest.param(("job", "wait", "99999"), 3, "99999", id="no-such-job"),
        pytest.param(("apply", "/nowhere.toml"), 2, "cannot be read", id="no-file"),
        pytest.param(("backend", "add", "x", "iscsi://127.0.0.1:1"), 5, "127.0.0.1:1", id="away"),
        pytest.param(("backend", "frobnicate"), 2, "frobnicate", id="no-such-verb"),
        pytest.param(("--api", "http://127.0.0.1:1", "status"), 5, "DAIKO_API", id="no-controller"),
        pytest.param(("--api", "what", "status"), 2, "unix:PATH", id="bad-address"),
    ],
)
def test_failure_has_its_exit_code_and_says_what_to_do(
    site: Site, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = site.run(*arguments, code=code)
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_failure_with_json_is_a_problem_document(site: Site) -> None:
    done = site.run("volume", "show", "none", "--json", code=3)
    problem = json.loads(done.stderr)
    assert problem["type"] == "urn:daiko:problem:not-found"
    assert problem["next_step"]


def test_names_are_completed_by_the_shell(site: Site) -> None:
    asked = {
        "_DAIKO_COMPLETE": "complete_bash",
        "COMP_WORDS": "daiko backend show sd",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [str(Path(sys.executable).parent / "daiko")],
        env={**site.environment, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["sd1", "sd2"]


def test_reader_that_stops_reading_is_no_failure(site: Site) -> None:
    command = f"set -o pipefail; {sys.executable} -m daiko backend ls --json | head -1"
    done = subprocess.run(
        ["bash", "-c", command],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[\n", "", 0)
