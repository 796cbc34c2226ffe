"""Every way of being started is recorded and replayed: boot sectors, kernels without a 64-bit entry, multiboot with modules, packed
kernels; and what cannot be done with a 32-bit kernel is said at once."""
import gzip
import os
import shutil

import support

GUESTS = os.environ["BOOT_GUESTS"]


def guest(name):
    return os.path.join(GUESTS, name + ".bin")


def content(name):
    with open(guest(name), "rb") as file:
        return file.read()


class Boot(support.Case):
    def check(self, output, *arguments, **options):
        recorded = self.record(*arguments, "--memory", "16M", "--deterministic", **options)
        self.assertEqual(recorded["output"].decode(), output)
        self.assertEqual((recorded["stop"], recorded["stop_detail"]), ("debug exit", 1))
        self.assert_replays(recorded)

    def test_boot_sector(self):
        self.check("\r\nbase 027F, extended 3C00, map 0005, a tick later\r\n", "--kernel", os.environ["BOOT_SECTOR"])

    def test_32_bit_entry(self):
        self.check("a=1 b\n", "--kernel", guest("boot32"), "--append", "a=1 b")

    def test_real_mode_entry(self):
        self.check("a=1 b\n", "--kernel", guest("boot16"), "--append", "a=1 b")

    def test_multiboot_strings_begin_with_names(self):
        module = self.file("module.bin", b"something")
        other = self.file("other", b"more")
        arguments = ["--append", "a=1 b", "--module", module + " c d", "--module", other]
        self.check("multiboot.bin a=1 b\nmodule.bin c d\nother\n", "--kernel", guest("multiboot"), *arguments)
        packed = self.file("kernel.gz", gzip.compress(content("multiboot")))
        self.check("kernel.gz a=1 b\nmodule.bin c d\nother\n", "--kernel", packed, *arguments)

    def test_a_replay_with_a_moved_kernel_shows_the_recorded_name(self):
        kernel = self.file("first", content("multiboot"))
        recorded = self.record("--kernel", kernel, "--memory", "16M", "--deterministic")
        shutil.move(kernel, self.path("second"))
        replayed = self.replay("--kernel", self.path("second"))
        self.assert_same_run(recorded, replayed)
        self.assertEqual(replayed["output"], b"first\n")

    def test_symbols_of_a_32_bit_kernel_are_refused_at_once(self):
        trace = self.path("t.trace")
        self.record("--kernel", guest("boot32"), "--memory", "16M", "--deterministic")
        elf = self.file("vmlinux", b"\x7fELF\x01\x01\x01" + bytes(200))
        for source in (guest("boot32"), elf, trace):
            result = self.tool("symbols", source, "-o", self.path("s"), expect=support.UNSUPPORTED, timeout=60)
            self.assertIn(f"{source} is a 32-bit kernel: not supported", result.words)

    def test_packed_kernels_and_what_is_no_linux_are_refused_by_symbols_at_once(self):
        trace = self.path("t.trace")
        packed = self.file("boot32.gz", gzip.compress(content("boot32")))
        self.record("--kernel", packed, "--memory", "16M", "--deterministic")
        elf = self.file("vmlinux.gz", gzip.compress(b"\x7fELF\x01\x01\x01" + bytes(200)))
        packed_multiboot = self.file("multiboot.gz", gzip.compress(content("multiboot")))
        broken = self.file("broken.gz", gzip.compress(content("boot32"))[:-100])
        for source, code, words in ((packed, support.UNSUPPORTED, "is a 32-bit kernel: not supported"),
                                    (trace, support.UNSUPPORTED, "is a 32-bit kernel: not supported"),
                                    (elf, support.UNSUPPORTED, "is a 32-bit kernel: not supported"),
                                    (guest("multiboot"), support.UNSUPPORTED, "is a 32-bit kernel (multiboot"),
                                    (packed_multiboot, support.UNSUPPORTED, "is a 32-bit kernel (multiboot"),
                                    (os.environ["BOOT_SECTOR"], support.UNSUPPORTED, "is a boot sector"),
                                    (broken, support.BAD_IMAGE, "truncated")):
            with self.subTest(source=source):
                result = self.tool("symbols", source, "-o", self.path("s"), expect=code, timeout=60)
                self.assertIn(words, result.words)


if __name__ == "__main__":
    support.main()
