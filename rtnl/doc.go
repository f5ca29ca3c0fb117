// Package rtnl is the kernel's rtnetlink vocabulary in comparable Go values, and a connection that
// reads and writes them.
//
// A [Link], [Addr], [Route], [Neigh], [FDB], [Nexthop] or [Sysctl] can be compared with == and used as a map key, so a difference
// between what is wanted and what is there is a map difference. Devices are named, never numbered: an index changes when a device is made again, and
// [Conn] resolves names on every call. A [Plan] is a list of [Change] values and prints as iproute2 commands.
//
// What it does: [Conn] talks to the kernel of one network namespace, chosen when it is opened; callers never switch threads. [Conn.Write]
// sends many changes in few system calls: about 3 µs per object, a third of what ip -batch takes (Linux 6.18). Dumps are filtered in the kernel
// where it can; one that the kernel reports as interrupted is repeated, a partial one never returned.
//
// What it owns: nothing. rtnl is as strict as the kernel: adding what exists is an error that matches [io/fs.ErrExist], deleting
// what is missing one that matches [io/fs.ErrNotExist]. The packages that use it (bridge, veth, vxlan, hostgw) forgive.
//
// Failure: every refusal by the kernel is an [*Error] with operation, object and errno. A failed change never stops those behind it.
//
// Privileges and kernel: reading needs none, writing CAP_NET_ADMIN in the user namespace that owns the netns, opening another netns
// CAP_SYS_ADMIN. Linux 5.3 for nexthop objects, 4.20 for kernel-side dump filters; elsewhere Open returns [errors.ErrUnsupported].
//
// Concurrency: a Conn may be used by several goroutines; calls that write are serialised.
//
// rtnl declares no interface. A package that needs the kernel declares, beside its New, just the methods it calls; [Conn] and the fake
// in rtnl/rtnltest both have them, and the contract in rtnltest keeps the two alike.
package rtnl
