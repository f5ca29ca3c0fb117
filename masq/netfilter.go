package masq

// Netfilter is the real kernel: nf_tables and iptables of one network namespace. The zero value works in the namespace of the calling
// thread. Reading nftables goes over netlink and starts no process; only writing runs nft or iptables, by fixed argument lists, never through a shell.
//
// A Netfilter may be used by several goroutines. It must not be copied.
type Netfilter struct {
	// Netns is the path of a network namespace (/run/netns/x, /proc/PID/ns/net). "" is the namespace of the calling thread.
	Netns string

	writer nftWriter
}
