// Package vm runs a program of this machine under another Linux kernel: Debian's, in a guest of qemu that sees the machine's files. So tests meet what the
// development kernel lacks (IPVS and its schedulers, dummy, ipvlan, wireguard, netem, SCTP) and an older kernel than its own.
//
// What it does: [Run] boots the guest in some seconds, runs one command in it as root, passes its output on while it runs, and returns its exit status when the
// guest is off. Output and status come through ports of their own (virtio-serial), so nothing that the kernel prints can be taken for them. The kernel and the
// initramfs are those of test/vm/build; test/vm/run runs Go tests in the guest; package vmtest is for the tests that need it.
//
// What the guest sees: the root of the machine, at the same paths and with the same tools, under a tmpfs that takes what is written. /proc, /sys, /dev and /run
// are its own, TMPDIR is new, /lib/modules is its kernel's, and what the kernel looks for there it loads by itself. The network is empty but for a loopback,
// unless [Config.Network] asks for a way to the machine's.
//
// What it owns: the process of qemu, which dies with the process that started it, even if that is killed (PR_SET_PDEATHSIG). It makes no files.
//
// What it never touches: the machine's files, which the guest cannot write except below [Config.Writable], its network and its kernel.
//
// How failure behaves: a command that ends with a status other than 0 is an [*ExitError]. All else, a kernel that panics, a guest that does not come up in five
// minutes, a context that ends, is an error with the tail of the guest's console. A kernel that oopses panics.
//
// Privileges: none for the guest, but files that the caller may not read are not readable in it either. Linux on amd64 with qemu; elsewhere [errors.ErrUnsupported].
//
// Concurrency: any number of guests at the same time, each with its memory and processors.
//
// How fast it is, and what it is made of, is in the README.
package vm
