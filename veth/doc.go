// Package veth keeps one pod's link: a veth pair with one end on the host, usually a port of the pod bridge, and one in the pod's network
// namespace with the pod's addresses and routes.
//
// What it does: [Reconciler.Apply] makes the pair in one message: the end in the pod is born there, under its final name; the host end is up, sized, and a
// port of the bridge. In the pod it then sets sysctls (accept_ra=0; arp_notify, ndisc_notify and keep_addr_on_down; disable_ipv6=0 if a pod with IPv6
// addresses has it off), up, the addresses (IPv6 ones without duplicate address detection), and the routes. It returns when packets reach the pod, and
// has the kernel announce the addresses then: neighbours that knew a former owner of one learn the new MAC at once. [Reconciler.Check] is CNI's CHECK.
//
// What it owns and how it recognises it: the host end carries the alias "podnet:veth CONTAINER IFNAME" ([Mark], [ParseMark]), and its name is a
// function of the same two ([HostName]). A host end of the same owner whose other end is gone, or in another namespace, is deleted and made again. (A veth
// without alias whose MAC is the one derived from the owner is ours too: a process was killed between the two messages that make it.)
//
// What it never touches: a device of that name that is somebody else's, an interface in the pod that is not our other end: both are errors
// that name it. Addresses and routes that others add in the pod stay. The bridge is used, not made. The pod's lo is not set up (the runtime
// does that; it only gets disable_ipv6=0).
//
// Failure: a fault in Options or Config is reported, all faults at once, before the kernel is asked anything. After a refused change the link may be half
// made: the next Apply completes it. Apply of the zero Config removes it, without the pod's namespace if that is gone; a link that is gone already is no error. If the
// namespace ends, the kernel removes the pair by itself.
//
// Privileges and kernel: CAP_NET_ADMIN in both namespaces and a writable /proc/sys; Linux 5.3, which rtnl
// needs. Without IPv6 in the kernel, IPv4 works.
//
// Concurrency: a Reconciler has no state; it may be used by several goroutines. Two Applys for one owner end in one link.
package veth
