# SPDX-License-Identifier: MIT
"""Disk images with GRUB, put together by hand and without privileges: a partition table, GRUB's own sectors, one file system with a kernel. Used by run-boots.

For BIOS: MBR, GRUB in the gap before the first partition, ext2. For UEFI: a system partition (FAT) with GRUB as the removable medium's boot program."""
import os
import shutil
import struct
import subprocess

SECTOR = 512
FIRST = 2048  # where the partition begins, in sectors
PARTITION_BYTES = 64 << 20


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def grub_image(target, output, prefix, modules):
    run("grub-mkimage", "-O", target, "-o", output, "-p", prefix, *modules.split())


def partition_table(code, kind):
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", FIRST, PARTITION_BYTES // SECTOR)
    return code[:446].ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa"


def compose(image, head, partition):
    with open(image, "wb") as f:
        f.write(head)
        f.seek(FIRST * SECTOR)
        with open(partition, "rb") as source:
            shutil.copyfileobj(source, f)


def for_bios(image, folder, files):
    """`files`: name -> path of what the image's /boot holds. `folder` is ours for scratch files."""
    core, partition, root = (os.path.join(folder, name) for name in ("core.img", "partition", "root"))
    for name, path in files.items():
        target = os.path.join(root, "boot", name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(path, target)
    run("/sbin/mke2fs", "-q", "-t", "ext2", "-d", root, partition, "%dk" % (PARTITION_BYTES >> 10))
    grub_image("i386-pc", core, "(hd0,msdos1)/boot/grub", "biosdisk part_msdos ext2 normal linux serial terminal echo")
    with open("/usr/lib/grub/i386-pc/boot.img", "rb") as f:
        head = partition_table(f.read(), 0x83)  # boot.img loads the next sector, which knows how long the rest is
    with open(core, "rb") as f:
        head += f.read()
    assert len(head) <= FIRST * SECTOR
    compose(image, head, partition)


def for_uefi(image, folder, files):
    program, partition = os.path.join(folder, "bootx64.efi"), os.path.join(folder, "partition")
    grub_image("x86_64-efi", program, "/boot/grub", "part_msdos fat normal linux serial terminal echo")
    with open(partition, "wb") as f:
        f.truncate(PARTITION_BYTES)
    run("mformat", "-i", partition, "-F", "::")
    run("mmd", "-i", partition, "::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub")
    run("mcopy", "-i", partition, program, "::/EFI/BOOT/BOOTX64.EFI")
    for name, path in files.items():
        run("mcopy", "-i", partition, path, "::/boot/" + name)
    compose(image, partition_table(b"", 0xef), partition)
