from pathlib import Path

import pytest

from qaedge.device import Device, choose_form, folders, load_device
from qaedge.errors import InvalidFile, UnknownDevice
from qaedge.runtime import RUNTIMES


def write(tmp_path, monkeypatch, text, name="mine"):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    path = tmp_path / "devices" / f"{name}.toml"
    path.write_text(text)
    return path


PACKAGED = sorted(path.stem for path in folders()[-1].glob("*.toml"))


def test_the_boards_that_people_have_come_with_qaedge():
    boards = {"pi4", "pi5", "pi_zero2w", "jetson_nano", "jetson_orin_nano", "imx8mp", "generic_aarch64"}
    assert {"local", *boards} <= set(PACKAGED)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_device_that_comes_with_qaedge_can_be_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    device = load_device(name)
    assert device.name == name
    assert not device.base
    assert device.threads == 1
    assert device.providers == (), "a provider that the runtime lacks is an error"
    assert set(device.runtimes) <= set(RUNTIMES)


@pytest.mark.parametrize("name", [name for name in PACKAGED if name not in ("local", "fake")])
def test_a_board_that_comes_with_qaedge_says_what_it_is_and_not_where(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    device = load_device(name)
    assert device.connection == "ssh" and device.ssh is None
    assert device.arch == "aarch64"
    assert device.sources and all(source.startswith("https://") for source in device.sources)
    text = (folders()[-1] / f"{name}.toml").read_text()
    assert "[ssh]" not in text and text.startswith("# "), "the first line says what the file is"
    limit = device.temperature_limit_c
    assert limit is None or device.temperature_pause_c < limit, "it is to pause before it throttles"


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [("pi4", False), ("pi5", True), ("pi_zero2w", False), ("jetson_nano", False), ("jetson_orin_nano", True)],
)
def test_arm_processors_from_8_2_multiply_int8_and_half_precision(tmp_path, monkeypatch, name, arithmetic):
    monkeypatch.chdir(tmp_path)
    device = load_device(name)
    assert (device.dot_product, device.fp16) == (arithmetic, arithmetic)


def test_a_users_board_is_based_on_one_of_the_same_name(tmp_path, monkeypatch):
    write(
        tmp_path,
        monkeypatch,
        'name = "pi4"\nbase = "pi4"\nthreads = 2\n[ssh]\nhost = "raspberrypi.local"\nuser = "pi"\n',
        "pi4",
    )
    device = load_device("pi4")
    assert (device.threads, device.cpu, device.cores) == (2, "Cortex-A72", 4)
    assert device.connection == "ssh" and device.description == "Raspberry Pi 4 Model B"
    assert device.ssh is not None and (device.ssh.host, device.ssh.user, device.ssh.port) == (
        "raspberrypi.local",
        "pi",
        0,
    )


def test_a_base_gives_neither_its_name_nor_what_is_said_anew(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, 'name = "mine"\nbase = "pi5"\nmemory = "4GiB"')
    device = load_device("mine")
    assert (device.name, device.memory, device.dot_product) == ("mine", "4GiB", True)


@pytest.mark.parametrize("base", ['"pi3"', "7", '"../pi4"'])
def test_an_unknown_base_is_told_with_the_known_ones(tmp_path, monkeypatch, base):
    write(tmp_path, monkeypatch, f'name = "mine"\nbase = {base}')
    with pytest.raises(InvalidFile) as caught:
        load_device("mine")
    assert caught.value.message.startswith("devices/mine.toml: base: expected a description that comes with qaedge (")
    assert all(name in caught.value.message for name in PACKAGED)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[ssh]\nhost_key = "MD5:aa"', "ssh.host_key"),
        ('[ssh]\nhost_key = "aa:bb"', "ssh.host_key"),
        ("[ssh]\nport = 70000", "ssh.port"),
        ("[ssh]\nport = -1", "ssh.port"),
        ('[ssh]\npassword = "x"', "ssh.password"),
        ('connection = "local"\n[ssh]\nhost = "x"', "connection"),
        ('connection = "serial"', "connection"),
        ("temperature_start_c = 80.0", "temperature_start_c"),
        ('base = "pi4"\nthreads = 5', "threads"),
    ],
)
def test_a_wrong_key_of_a_board_is_told(tmp_path, monkeypatch, text, key):
    own = "" if text.startswith(("connection", "base")) else 'base = "pi4"\n'
    write(tmp_path, monkeypatch, f'name = "mine"\ndescription = "x"\n{own}{text}')
    with pytest.raises(InvalidFile) as caught:
        load_device("mine")
    assert caught.value.message.startswith(f"devices/mine.toml: {key}: expected ")


def test_a_users_own_description_hides_the_packages(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, 'name = "local"\ndescription = "my own"\nthreads = 3', "local")
    assert load_device("local").description == "my own"
    assert load_device("local").threads == 3


def test_an_unknown_device_is_told_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownDevice, match=r"No device 'pi3'\.\nKnown: .*local.*\(from \./devices and the package\)"):
        load_device("pi3")


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ('name = "mine"\ndescription = "x"\nform = "s16"', "form", "'s16'"),
        ('name = "other"\ndescription = "x"', "name", "'other'"),
        ('name = "mine"\ndescription = "x"\nthreads = 0', "threads", "0"),
        ('name = "mine"\ndescription = "x"\npassword = "y"', "password", "'password'"),
        ('name = "mine"', "description", "nothing"),
        ('name = "mine"\ndescription = "x"\ncores = "four"', "cores", "text"),
        ('name = "mine"\ndescription = "x"\ncores = 0', "cores", "0"),
        ('name = "mine"\ndescription = "x"\nclock_mhz = -1', "clock_mhz", "-1"),
        ('name = "mine"\ndescription = "x"\ncores = 2\nthreads = 3', "threads", "3"),
        ('name = "mine"\ndescription = "x"\nmemory = "lots"', "memory", "'lots'"),
        ('name = "mine"\ndescription = "x"\nmemory = "0GiB"', "memory", "'0GiB'"),
        ('name = "mine"\ndescription = "x"\nruntimes = []', "runtimes", "none"),
        ('name = "mine"\ndescription = "x"\nruntimes = ["abacus"]', "runtimes", "'abacus'"),
        ('name = "mine"\ndescription = "x"\nruntimes = ["onnxruntime", "tensorrtt"]', "runtimes", "'tensorrtt'"),
    ],
)
def test_a_wrong_key_is_told(tmp_path, monkeypatch, text, key, found):
    write(tmp_path, monkeypatch, text)
    with pytest.raises(InvalidFile) as caught:
        load_device("mine")
    assert caught.value.message.startswith(f"devices/mine.toml: {key}: expected ")
    assert caught.value.message.endswith(f"found {found}.")


@pytest.mark.parametrize(
    ("form", "bits", "flags", "arch", "wanted"),
    [
        ("s8s8", 8, {"avx2"}, "x86_64", "s8s8"),
        ("auto", 8, set(), "aarch64", "s8s8"),
        ("auto", 8, {"avx2", "avx512_vnni"}, "x86_64", "u8s8"),
        ("auto", 8, {"avx2"}, "x86_64", "u8u8"),
        ("auto", 7, {"avx2"}, "AMD64", "u8s8"),
    ],
)
def test_the_form_follows_the_processor_and_says_why(form, bits, flags, arch, wanted):
    chosen, reason = choose_form(Device("d", "x", form=form), bits, frozenset(flags), arch)
    assert chosen == wanted
    assert reason


def test_in_a_clone_of_qaedge_the_users_own_files_lie_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(Path(__file__).parents[1])
    own, package = folders()
    assert own == tmp_path / ".config" / "qaedge" / "devices" and package.is_dir()
    monkeypatch.chdir(tmp_path)
    assert folders()[0] == Path("devices")
