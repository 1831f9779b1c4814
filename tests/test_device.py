import pytest

from qaedge.device import Device, choose_form, known_devices, load_device
from qaedge.errors import InvalidFile, UnknownDevice


def write(tmp_path, monkeypatch, text, name="mine"):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    path = tmp_path / "devices" / f"{name}.toml"
    path.write_text(text)
    return path


def test_every_device_that_comes_with_qaedge_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "local" in known_devices()
    for name in known_devices():
        assert load_device(name).name == name


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
        ('name = "mine"\ndescription = "x"\ncores = 2\nthreads = 3', "threads", "3"),
        ('name = "mine"\ndescription = "x"\nmemory = "lots"', "memory", "'lots'"),
        ('name = "mine"\ndescription = "x"\nmemory = "0GiB"', "memory", "'0GiB'"),
        ('name = "mine"\ndescription = "x"\nruntimes = []', "runtimes", "none"),
        ('name = "mine"\ndescription = "x"\nruntimes = ["tflite"]', "runtimes", "'tflite'"),
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
