package conntrack

// Conn is the real kernel: the connection tracking of one network namespace, over netlink. The zero value works in the namespace of the calling thread. Each call opens its own
// sockets, so there is nothing to close, and a Conn may be used by several goroutines.
type Conn struct {
	// Netns is the path of a network namespace (/run/netns/x, /proc/PID/ns/net). "" is the namespace of the calling thread.
	Netns string
}

var _ Kernel = (*Conn)(nil)
