# SPDX-License-Identifier: MIT
"""A virtual machine with NUMA nodes: qemu's TCG, a Debian kernel, an initramfs with our binary and guest.c.

boot() starts one with given nodes, runs a shell script in it and gives back the files that it left in /out.
Standard library only; nothing is installed, the kernel's package is fetched and unpacked below build/.
"""
import glob
import os
import re
import shutil
import subprocess
import tarfile

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = "build/emulate/vm"
QEMU = "qemu-system-x86_64"
BUSYBOX = "/bin/busybox"
MODULES = ["virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev",
           "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci", "block/virtio_blk"]
MAX_OUT = 64 << 20  # bytes of what a guest leaves

INIT = """#!/bin/busybox sh
export PATH=/bin HOME=/
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/hugepages /sys/fs/cgroup
mount -t tmpfs shm /dev/shm
mount -t hugetlbfs huge /dev/hugepages
mount -t cgroup2 cgroup /sys/fs/cgroup
for m in %s; do insmod /modules/$m.ko; done
mount -t ext4 -o ro,noload /dev/vda /m
sh /script
tar -cf /dev/vdb -C /out .
sync
poweroff -f
"""


class Missing(Exception):
    """A tool or package that cannot be had."""


def call(*args, cwd=None, env=None):
    p = subprocess.run(args, capture_output=True, text=True, cwd=cwd, env=env)
    if p.returncode != 0:
        raise Missing(f"{' '.join(args)}: {(p.stderr or p.stdout).strip()[-300:]}")
    return p.stdout


def kernel(arch="amd64", env=None):
    """(image, folder of its modules) of Debian's kernel for virtual machines; env: of an apt for another machine."""
    root = f"{CACHE}/kernel{'' if arch == 'amd64' else '-' + arch}"
    if not glob.glob(f"{root}/boot/vmlinuz-*"):
        shutil.rmtree(root, ignore_errors=True)
        os.makedirs(root)
        package = re.search(r"Depends: (linux-image-\S+)", call("apt-cache", "depends", f"linux-image-cloud-{arch}", env=env))
        if package is None:
            raise Missing(f"linux-image-cloud-{arch} names no package")
        call("apt-get", "-o", "APT::Sandbox::User=root", "download", package[1], cwd=root, env=env)
        deb = glob.glob(f"{root}/*.deb")[0]
        call("dpkg-deb", "-x", deb, f"{root}/new")
        os.remove(deb)
        os.rename(f"{root}/new/lib", f"{root}/lib")
        os.rename(f"{root}/new/boot", f"{root}/boot")  # last: that it is there means that all is
    image = glob.glob(f"{root}/boot/vmlinuz-*")[0]
    return image, f"{root}/lib/modules/{image.split('vmlinuz-')[1]}/kernel/drivers"


def need_tools():
    for tool in (QEMU, "gcc", "mke2fs", "apt-get", "dpkg-deb"):
        if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            raise Missing(tool + " is missing")
    if not os.path.exists(BUSYBOX):
        raise Missing("busybox-static is missing")


def libraries(program):
    found = re.findall(r"(/\S+) \(0x", call("ldd", program))
    if not found:
        raise Missing("ldd names no library of " + program)
    return found


def cpio(entries):
    """An archive, as the kernel unpacks it, of {path: bytes, or None for a folder}."""
    out = bytearray()
    for i, (name, data) in enumerate([*sorted(entries.items()), ("TRAILER!!!", b"")]):
        mode = 0o40755 if data is None else 0o100755
        data = data or b""
        head = [i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % x for x in head) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


class Vm:
    """The program and a model, made into what virtual machines start from, in a folder."""

    def __init__(self, folder, fulgur, model):
        need_tools()
        self.folder = folder
        self.kernel, modules = kernel()
        guest, stripped, disk = (os.path.join(folder, n) for n in ("guest", "fulgur", "disk"))
        subprocess.run(["gcc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror",
                        "-static", "-o", guest, f"{HERE}/../guest.c"], check=True)
        subprocess.run(["strip", "-o", stripped, fulgur], check=True)
        self.files = {d: None for d in ("bin", "dev", "proc", "sys", "tmp", "m", "out", "modules")}
        self.add(BUSYBOX, "bin/busybox")
        self.add(guest, "bin/guest")
        self.add(stripped, "bin/fulgur")
        for lib in libraries(fulgur):
            self.add(lib, lib[1:])
        for m in MODULES:
            self.add(f"{modules}/{m}.ko", f"modules/{os.path.basename(m)}.ko")
        names = " ".join(os.path.basename(m) for m in MODULES)
        self.files["init"] = (INIT % names).encode()
        # the model, as a disk with a file system
        tree = os.path.join(folder, "tree")
        os.mkdir(tree)
        os.link(model, os.path.join(tree, "model"))
        with open(disk, "wb") as f:
            f.truncate(os.path.getsize(model) * 11 // 10 + (16 << 20))
        env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", tree, disk], check=True, env=env)
        shutil.rmtree(tree)
        self.disk = disk

    def add(self, source, name):
        for d in range(name.count("/")):
            self.files.setdefault("/".join(name.split("/")[:d + 1]), None)
        with open(source, "rb") as f:
            self.files[name] = f.read()

    def boot(self, name, nodes, script, seconds, distance=None, options=""):
        """Boots a machine of nodes, a list of (CPUs, MiB); distance: {(from, to): d}, 10 within and else 20.
        Gives back {file below /out: bytes} and what the console said; None instead of files: it did not get there."""
        initrd, out = (os.path.join(self.folder, f"{name}.{e}") for e in ("cpio", "tar"))
        with open(initrd, "wb") as f:
            f.write(cpio({**self.files, "script": script.encode()}))
        with open(out, "wb") as f:
            f.truncate(MAX_OUT)
        n_cpu = sum(n for n, _ in nodes)
        # an invariant machine: the same CPU everywhere, and no KVM, which another machine may lack
        command = [QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35", "-nodefaults",
                   "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
                   "-m", f"{sum(mb for _, mb in nodes)}M", "-smp", str(n_cpu),
                   "-drive", f"file={self.disk},if=virtio,format=raw,readonly=on",
                   "-drive", f"file={out},if=virtio,format=raw",
                   "-kernel", self.kernel, "-initrd", initrd,
                   "-append", f"console=ttyS0 quiet panic=-1 mitigations=off nokaslr {options}"]
        cpu = 0
        for i, (n, mb) in enumerate(nodes):
            node = f"node,nodeid={i}"
            if n > 0:
                node += f",cpus={cpu}-{cpu + n - 1}"
            if mb > 0:
                command += ["-object", f"memory-backend-ram,id=m{i},size={mb}M"]
                node += f",memdev=m{i}"
            command += ["-numa", node]
            cpu += n
        for (a, b), d in (distance or {}).items():
            command += ["-numa", f"dist,src={a},dst={b},val={d}"]
        try:
            p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, timeout=seconds)
            console, late = p.stdout, ""
        except subprocess.TimeoutExpired as e:
            console, late = e.stdout or b"", f"no end after {seconds} s\n"
        try:
            with tarfile.open(out) as t:
                files = {m.name[2:]: t.extractfile(m).read() for m in t.getmembers() if m.isfile()}
            files = files or None  # zeros, to which nothing was written, are an archive of nothing
        except (tarfile.TarError, OSError):
            files = None
        os.remove(initrd)
        os.remove(out)
        return files, late + console.decode("utf-8", "replace")
