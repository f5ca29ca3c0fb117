// Package agent is the loop of podnet-agent: it looks at what is wanted (the nodes) and what is there (the kernel, the files), and has each
// concern make the one into the other.
//
// What it does: [Agent.Run] does a pass at once, at every change of the [NodeSource], at every event of a [Watch], and every resync
// interval. A pass finds this node and its uplink and applies the concerns in order. An event only says "look again": nothing is
// remembered that could be wrong, and no queue can overflow.
//
// What it owns: nothing itself; the concerns say what they own. The sysctls ip_forward and ipv6 forwarding are set and left set.
//
// What it never touches: rp_filter, and what the concerns do not own.
//
// Failure: nothing that happens at run time ends Run. What fails is tried again with exponential back-off, at the latest at the next resync; the
// other concerns go on. One log line when a state changes, one metric. If more than half of the peers disappear at once they are held for a
// while. On stop, the kernel's state stays: traffic flows on.
//
// Privileges: those of the concerns. Concurrency: one goroutine does the passes; Handler may be used by many.
package agent
