package rtnl

// Options say where a Conn works.
type Options struct {
	// Netns is the path of a network namespace (/run/netns/x, /proc/PID/ns/net). "" is the namespace of the calling thread.
	Netns string
	// SysctlDir is where the settings are; "" is /proc/sys. A container, whose own /proc/sys cannot be written, has the node's mounted elsewhere:
	// what stands below a procfs is that of the reader's namespace, wherever it is mounted.
	SysctlDir string
}

// Groups selects the notifications that Watch asks the kernel for.
type Groups struct {
	Links, Addrs, Routes, Neighs bool
}

// Event says that something may have changed. It is a reason to look again, never a source of truth: a reconciler reads the kernel
// anew. The zero Event with Overflow set means that notifications were lost (ENOBUFS) and everything has to be looked at.
type Event struct {
	Object   string   // "link", "addr", "route", "nexthop" (with Groups.Routes) or "neigh" (FDB entries come as "neigh")
	Deleted  bool     // RTM_DEL*
	Link     string   // device name, if the kernel gave one that is still known
	Protocol Protocol // of a route or nexthop
	Overflow bool
}
