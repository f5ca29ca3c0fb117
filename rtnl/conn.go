package rtnl

// Options say which network namespace a Conn works in.
type Options struct {
	// Netns is the path of a network namespace (/run/netns/x, /proc/PID/ns/net). "" is the namespace of the calling thread.
	Netns string
}

// Groups selects the notifications that Watch asks the kernel for.
type Groups struct {
	Links, Addrs, Routes, Neighs bool
}

// Event says that something may have changed. It is a reason to look again, never a source of truth: a reconciler reads the kernel
// anew. The zero Event with Overflow set means that notifications were lost (ENOBUFS) and everything has to be looked at.
type Event struct {
	Object   string   // "link", "addr", "route" or "neigh" (FDB entries come as "neigh")
	Deleted  bool     // RTM_DEL*
	Link     string   // device name, if the kernel gave one that is still known
	Protocol Protocol // routes only
	Overflow bool
}
